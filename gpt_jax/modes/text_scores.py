"""What does a model lose on text it has not seen? One split, on the mesh of the training."""

from collections.abc import Iterator
from typing import Any

from gpt_jax.assemble import Program, Settings
from gpt_jax.data.pipeline import evaluation_batches, evaluation_steps
from gpt_jax.data.tokens import Tokens
from gpt_jax.evaluate.perplexity import bits_per_byte, mean_loss
from gpt_jax.observe.progress import Progress


def scores(settings: Settings, program: Program, tokens: Tokens, params: Any, line: Progress) -> dict[str, float]:
    """'loss' in nats per token over a split, `train.evaluate_tokens` of it, in windows of the context, and
    'bits_per_byte'. `line` shows how far it is.
    """
    which = {
        'context': settings.model.context,
        'batch': settings.train.evaluation_batch,
        'limit_tokens': settings.train.evaluate_tokens,
    }
    index, parts = program.share()
    local = evaluation_batches(
        tokens, **which, packing=settings.data.packing,
        process_index=index, process_count=parts,
    )  # fmt: skip
    total = evaluation_steps(tokens, **which)
    loss = mean_loss(program.evaluate, params, watched(program.on_devices(local), total, line))
    return {'loss': loss, 'bits_per_byte': bits_per_byte(loss, tokens.bytes_per_token)}


def watched(batches: Iterator[Any], total: int, line: Progress) -> Iterator[Any]:
    """The same batches; `line` shows how far they are."""
    for number, batch in enumerate(batches, 1):
        line.note(f'evaluating, batch {number}/{total}')
        yield batch
