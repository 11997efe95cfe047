"""Mean loss on held-out text, in nats per token, on the training mesh, and its conversion."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from gpt_jax.core.config import Config
from gpt_jax.core.progress import Progress
from gpt_jax.data.loader import count_eval_batches, iterate_eval_batches
from gpt_jax.data.token_cache import TokenSplit
from gpt_jax.train.build import TrainerParts

# (params, batch) -> (summed loss in nats, summed weight of the targets), scalars on the device
SummedLossFn = Callable[[Any, Any], tuple[jax.Array, jax.Array]]


def compute_mean_loss(summed_loss: SummedLossFn, params: Any, batches: Iterable[Any]) -> float:
    """Return the mean of -log p(token) over all weighted targets, in nats per token.

    Each batch's sum is float32; the sums are added exactly. A batch's sum is fetched after the
    next batch has been dispatched, so that the device never waits for the host.
    """
    losses: list[float] = []
    weights: list[float] = []
    pending: tuple[jax.Array, jax.Array] | None = None

    def fetch() -> None:
        if pending is not None:
            losses.append(float(pending[0]))
            weights.append(float(pending[1]))

    for batch in batches:
        dispatched = summed_loss(params, batch)
        fetch()
        pending = dispatched
    fetch()
    return math.fsum(losses) / math.fsum(weights)


def compute_bits_per_byte(nats_per_token: float, bytes_per_token: float | None) -> dict[str, float]:
    """Return 'bits_per_byte', a loss that does not depend on the tokenizer.

    Args:
      bytes_per_token: mean UTF-8 bytes of the same targets; None if unknown, which gives {}.
    """
    if not bytes_per_token:
        return {}
    return {'bits_per_byte': nats_per_token / math.log(2) / bytes_per_token}


def evaluate_text(
    config: Config, parts: TrainerParts, tokens: TokenSplit, params: Any, progress: Progress
) -> float:
    """Return the loss of a split of text, in nats per token.

    It uses the first `train.eval_tokens` targets of the split (0: all), in windows of the context.
    """
    size = {
        'context': config.model.context,
        'batch_size': config.train.evaluation_batch_size,
        'max_tokens': config.train.eval_tokens,
    }
    index, count = parts.batch_shard()
    local = iterate_eval_batches(
        tokens, **size, packing=config.data.packing, shard_index=index, shard_count=count
    )
    batches = show_progress(
        parts.shard_batches(local), count_eval_batches(tokens, **size), progress
    )
    return compute_mean_loss(parts.eval_step, params, batches)


def show_progress(batches: Iterator[Any], total: int, progress: Progress) -> Iterator[Any]:
    """Iterate over the batches, and show the number of the current one of `total`."""
    for number, batch in enumerate(batches, 1):
        progress.note(f'evaluating, batch {number}/{total}')
        yield batch
