"""Which rows are batch k? A function of (fingerprint, seed, k) alone, whatever the number of processes."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from gpt_jax.data.packing import PACKINGS, Batch
from gpt_jax.data.tokens import Tokens
from gpt_jax.errors import UserError

READERS = 1  # threads; one reads tens of times faster than a model trains
AHEAD = 4  # batches held ready
ENDLESS = 1 << 52  # rows; grain counts batches in floating point, where its own endless repeat overflows


def batches(
    tokens: Tokens,
    *,
    fingerprint: str,
    context: int,
    batch: int,
    seed: int,
    packing: str,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the global batches `start`, `start` + 1, ... without end, read ahead by a thread.

    A window is context + 1 tokens; windows begin at multiples of `context`, so that an epoch has every target once (but
    for the stream's last, less than `context`). Every epoch has its own order. Process p of P holds rows
    [p b, (p + 1) b), b = batch / P: laid end to end, the processes' rows are the same global batch for any P.

    Args:
      fingerprint: the corpus's; with `seed` it decides the order.
      batch: rows of the global batch.

    Returns:
      Batches as in packing.py, [b, context] each.

    Raises:
      UserError: less than one window of tokens, or the processes do not divide the batch.
    """
    windows = (len(tokens) - 1) // context
    if windows < 1:
        raise UserError(
            f'data.source: {len(tokens)} training tokens are less than one window of {context + 1}; '
            'give more text or a smaller context'
        )

    def pack(windows_B: np.ndarray) -> Batch:
        return PACKINGS[packing](tokens, windows_B.astype(np.int64) * context, context)

    return shuffled(
        windows, pack, fingerprint=fingerprint, batch=batch, seed=seed, start=start,
        process_index=process_index, process_count=process_count,
    )  # fmt: skip


def shuffled(
    count: int, take: Callable[[np.ndarray], Batch], *,
    fingerprint: str, batch: int, seed: int, start: int, process_index: int, process_count: int,
) -> Iterator[Batch]:  # fmt: skip
    """The same for any rows: `take` makes a batch of the numbers of some of `count` rows."""
    import grain

    rows = _rows_per_process(batch, process_count)
    order = grain.MapDataset.range(count).seed(_order_seed(fingerprint, seed)).shuffle().repeat(ENDLESS // count)
    # Block k P + p of `rows` rows is process p's block of global batch k.
    mine = order.batch(rows)[process_index::process_count][start:]
    return iter(mine.map(take).to_iter_dataset(grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=AHEAD)))


def in_order(
    count: int, take: Callable[[np.ndarray], Batch], *, batch: int, process_index: int, process_count: int
) -> Iterator[Batch]:
    """Every row once; the last batch is filled up with rows from number `count` on, which `take` makes empty."""
    rows = _rows_per_process(batch, process_count)
    for first in range(process_index * rows, _span(count, batch), batch):
        yield take(np.arange(first, first + rows))


def evaluation_batches(
    tokens: Tokens,
    *,
    context: int,
    batch: int,
    packing: str,
    limit_tokens: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the windows in order, each target in one row; as many batches for every process.

    Args:
      batch: rows of the global batch; process p of P holds rows [p b, (p + 1) b), b = batch / P.
      limit_tokens: how many targets, from the beginning; 0 is all.

    Returns:
      Batches as in packing.py, [b, context] each, always with 'weights' float32: 0 for padding and for targets beyond
      the limit (and where 'isolate' puts 0), else 1.

    Raises:
      UserError: fewer than two tokens, a negative limit, or the processes do not divide the batch.
    """
    targets = _targets(tokens, limit_tokens)
    rows = _rows_per_process(batch, process_count)

    def generate() -> Iterator[Batch]:
        for first in range(process_index * rows * context, _span(targets, batch * context), batch * context):
            offsets_B = first + np.arange(rows, dtype=np.int64) * context
            fields = PACKINGS[packing](tokens, offsets_B, context)
            counted_BL = offsets_B[:, None] + np.arange(context) < targets
            fields['weights'] = (counted_BL * fields.get('weights', 1)).astype(np.float32)
            yield fields

    return generate()


def evaluation_steps(tokens: Tokens, *, context: int, batch: int, limit_tokens: int) -> int:
    """How many batches `evaluation_batches` makes of the same arguments; raises what it raises."""
    return _span(_targets(tokens, limit_tokens), batch * context) // (batch * context)


def _targets(tokens: Tokens, limit_tokens: int) -> int:
    if len(tokens) < 2:
        raise UserError(f'data.validation_source: {len(tokens)} tokens are too few to evaluate on')
    if limit_tokens < 0:
        raise UserError(f'limit_tokens: must be 0 (all) or more, got {limit_tokens}')
    return min(limit_tokens or len(tokens), len(tokens) - 1)


def repeats(tokens: Tokens, tokens_wanted: int) -> float:
    """Epochs: how often training on `tokens_wanted` targets reads each of `tokens`."""
    return tokens_wanted / (len(tokens) - 1)


def _span(length: int, step: int) -> int:
    return -(-length // step) * step


def _rows_per_process(batch: int, process_count: int) -> int:
    if batch < 1 or batch % process_count:
        raise UserError(f'batch: {batch} rows cannot be divided among {process_count} processes')
    return batch // process_count


def _order_seed(fingerprint: str, seed: int) -> int:
    """32 bits, grain's range. Hashed: grain adds the epoch to the seed, so neighbours would share their epochs."""
    return int.from_bytes(hashlib.sha256(f'{fingerprint}:{seed}'.encode()).digest()[:4])
