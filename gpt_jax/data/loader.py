"""Batches of windows of the token stream: packing, order, and one shard's rows.

Batch k depends only on (data fingerprint, seed, k), whatever the number of shards.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.data.token_cache import TokenSplit

Batch = dict[str, np.ndarray]
MakeBatch = Callable[[np.ndarray], Batch]  # makes a batch of the rows with these indices

READER_THREADS = 1  # one thread reads tens of times faster than a model trains
PREFETCH_BATCHES = 4
# grain counts batches in floating point, so its own endless repeat overflows.
ENDLESS_ROWS = 1 << 52


def pack_concatenated(tokens: TokenSplit, offsets_B: np.ndarray, context: int) -> Batch:
    """Pack rows in which a document attends to the documents before it.

    Args:
      tokens: the token stream.
      offsets_B: start of each row's inputs in the stream.
      context: length L of the rows.

    Returns:
      'inputs' and 'targets', int32 [B, L]; targets are the inputs shifted by one. Zeros beyond the
      end of the stream.
    """
    ids_BW = _read_windows(tokens, offsets_B, context)
    return {'inputs': ids_BW[:, :-1].copy(), 'targets': ids_BW[:, 1:].copy()}


def pack_isolated(tokens: TokenSplit, offsets_B: np.ndarray, context: int) -> Batch:
    """Pack rows in which documents do not attend to each other.

    Returns:
      The fields of `pack_concatenated`, and three more, [B, L] each: 'segments' int32, the number
      of the document in its row, from 1 (0 beyond the end of the stream); 'positions' int32, from 0
      at the start of the document or row; 'weights' float32, 0 where the target starts another
      document (the input is an end of document) or is beyond the stream, else 1.
    """
    starts_BW = np.zeros([len(offsets_B), context + 1], bool)
    first_B = np.searchsorted(tokens.document_starts, offsets_B)
    last_B = np.searchsorted(tokens.document_starts, offsets_B + context + 1)
    for row, (offset, first, last) in enumerate(zip(offsets_B, first_B, last_B, strict=True)):
        starts_BW[row, tokens.document_starts[first:last] - offset] = True
    starts_BW[:, 0] = True
    index_W = np.arange(context + 1, dtype=np.int32)
    in_stream_BW = offsets_B[:, None] + index_W < len(tokens)
    segments_BW = np.cumsum(starts_BW, axis=1, dtype=np.int32) * in_stream_BW
    positions_BW = index_W - np.maximum.accumulate(np.where(starts_BW, index_W, 0), axis=1)
    same_segment_BL = (segments_BW[:, 1:] == segments_BW[:, :-1]) & in_stream_BW[:, 1:]
    return pack_concatenated(tokens, offsets_B, context) | {
        'segments': segments_BW[:, :-1].copy(),
        'positions': positions_BW[:, :-1].astype(np.int32),
        'weights': same_segment_BL.astype(np.float32),
    }


def _read_windows(tokens: TokenSplit, offsets_B: np.ndarray, context: int) -> np.ndarray:
    ids = np.asarray(tokens.ids)  # slicing a memmap is several times slower than slicing an array
    ids_BW = np.zeros([len(offsets_B), context + 1], np.int32)
    for row, offset in enumerate(offsets_B):
        window = ids[offset : offset + context + 1]
        ids_BW[row, : len(window)] = window
    return ids_BW


# By data.packing.
PACKINGS: dict[str, Callable[[TokenSplit, np.ndarray, int], Batch]] = {
    'concatenate': pack_concatenated,
    'isolate': pack_isolated,
}


def iterate_batches(
    tokens: TokenSplit,
    *,
    fingerprint: str,
    context: int,
    batch_size: int,
    seed: int,
    packing: str,
    start: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Iterator[Batch]:
    """Iterate endlessly over one shard of the global batches `start`, `start` + 1, ...

    A window is context + 1 tokens. Windows start at multiples of `context`, so an epoch has every
    target once, except for the last ones of the stream (fewer than `context`). Every epoch has its
    own order. Shard p of P gets rows [p b, (p + 1) b) with b = batch_size / P, so the shards
    concatenate to the same global batch for any P. Processes whose devices hold the same rows of
    the batch read the same shard.

    Args:
      tokens: the token stream.
      fingerprint: the dataset's fingerprint; with `seed`, it determines the order.
      context: length of the rows, in tokens.
      batch_size: rows of the global batch.
      seed: the seed of the order.
      packing: key of PACKINGS.
      start: index of the first batch.
      shard_index, shard_count: p and P, from the mesh (train/mesh_layout.py).

    Returns:
      Packed batches, [b, context] each, prefetched by a thread.

    Raises:
      UserError: there is less than one window of tokens, or P does not divide the batch size.
    """
    windows = (len(tokens) - 1) // context
    if windows < 1:
        raise UserError(
            f'data.source: must have at least {context + 1} training tokens (one window), got '
            f'{len(tokens)}; add text or reduce model.context'
        )

    def make_batch(windows_B: np.ndarray) -> Batch:
        return PACKINGS[packing](tokens, windows_B.astype(np.int64) * context, context)

    return iterate_shuffled(
        windows,
        make_batch,
        fingerprint=fingerprint,
        batch_size=batch_size,
        seed=seed,
        start=start,
        shard_index=shard_index,
        shard_count=shard_count,
    )


def read_batch(
    tokens: TokenSplit,
    number: int,
    *,
    fingerprint: str,
    context: int,
    batch_size: int,
    seed: int,
    packing: str,
) -> Batch:
    """Read one global batch of `iterate_batches`."""
    windows = (len(tokens) - 1) // context
    windows_B = _shuffle_rows(windows, fingerprint, seed).batch(batch_size)[number]
    return PACKINGS[packing](tokens, windows_B.astype(np.int64) * context, context)


def iterate_shuffled(
    num_rows: int,
    make_batch: MakeBatch,
    *,
    fingerprint: str,
    batch_size: int,
    seed: int,
    start: int,
    shard_index: int,
    shard_count: int,
) -> Iterator[Batch]:
    """Iterate endlessly over shuffled batches of `num_rows` rows, as `iterate_batches` does."""
    import grain

    rows = _rows_per_shard(batch_size, shard_count)
    order = _shuffle_rows(num_rows, fingerprint, seed)
    # Block k P + p of `rows` rows is the block of shard p in global batch k.
    blocks = order.batch(rows)[shard_index::shard_count][start:]
    options = grain.ReadOptions(num_threads=READER_THREADS, prefetch_buffer_size=PREFETCH_BATCHES)
    return iter(blocks.map(make_batch).to_iter_dataset(options))


def _shuffle_rows(num_rows: int, fingerprint: str, seed: int) -> Any:
    """Return the endless order of the rows, a grain.MapDataset."""
    import grain

    seeded = grain.MapDataset.range(num_rows).seed(_order_seed(fingerprint, seed))
    return seeded.shuffle().repeat(ENDLESS_ROWS // num_rows)


def iterate_in_order(
    num_rows: int, make_batch: MakeBatch, *, batch_size: int, shard_index: int, shard_count: int
) -> Iterator[Batch]:
    """Iterate over every row once; indices from `num_rows` on fill up the last batch.

    Args:
      num_rows: total number of rows over all shards.
      make_batch: must return empty rows for indices past the end.
      batch_size: rows of the global batch.
      shard_index, shard_count: which rows are read, as in `iterate_batches`.
    """
    rows = _rows_per_shard(batch_size, shard_count)
    for first in range(shard_index * rows, _round_up(num_rows, batch_size), batch_size):
        yield make_batch(np.arange(first, first + rows))


def iterate_eval_batches(
    tokens: TokenSplit,
    *,
    context: int,
    batch_size: int,
    packing: str,
    max_tokens: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Iterator[Batch]:
    """Iterate once over one shard of the windows, in order; each target is in exactly one row.

    Every shard has the same number of batches.

    Args:
      tokens: the token stream.
      context: length of the rows, in tokens.
      batch_size: rows of the global batch, divided as in `iterate_batches`.
      packing: key of PACKINGS.
      max_tokens: number of targets, from the start of the stream; 0 for all.
      shard_index, shard_count: which rows are read.

    Returns:
      Packed batches, [b, context] each, always with 'weights' float32: 0 for padding, for targets
      beyond the limit and where 'isolate' has 0, else 1.

    Raises:
      UserError: there are fewer than two tokens, the limit is negative, or the shards do not divide
        the batch size.
    """
    num_targets = _count_eval_targets(tokens, max_tokens)
    rows = _rows_per_shard(batch_size, shard_count)
    stride = batch_size * context

    def generate() -> Iterator[Batch]:
        first_offset = shard_index * rows * context
        for first in range(first_offset, _round_up(num_targets, stride), stride):
            offsets_B = first + np.arange(rows, dtype=np.int64) * context
            batch = PACKINGS[packing](tokens, offsets_B, context)
            counted_BL = offsets_B[:, None] + np.arange(context) < num_targets
            batch['weights'] = (counted_BL * batch.get('weights', 1)).astype(np.float32)
            yield batch

    return generate()


def count_eval_batches(
    tokens: TokenSplit, *, context: int, batch_size: int, max_tokens: int
) -> int:
    """Return the number of batches of `iterate_eval_batches`; raises the same errors."""
    return -(-_count_eval_targets(tokens, max_tokens) // (batch_size * context))


def _count_eval_targets(tokens: TokenSplit, max_tokens: int) -> int:
    if len(tokens) < 2:
        raise UserError(
            f'data.validation_source: must have at least 2 tokens to evaluate on, got {len(tokens)}'
        )
    if max_tokens < 0:
        raise UserError(f'max_tokens: must be 0 (all) or more, got {max_tokens}')
    return min(max_tokens or len(tokens), len(tokens) - 1)


def count_epochs(tokens: TokenSplit, num_targets: int) -> float:
    """Return how many times training on `num_targets` targets reads each token."""
    return num_targets / (len(tokens) - 1)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _rows_per_shard(batch_size: int, shard_count: int) -> int:
    if batch_size < 1 or batch_size % shard_count:
        raise UserError(
            f'batch_size: must be a positive multiple of the {shard_count} shards of the batch, '
            f'got {batch_size}'
        )
    return batch_size // shard_count


def _order_seed(fingerprint: str, seed: int) -> int:
    """Return a 32-bit seed, as grain requires.

    It is hashed because grain adds the epoch to the seed, so neighboring seeds would share epochs.
    """
    return int.from_bytes(hashlib.sha256(f'{fingerprint}:{seed}'.encode()).digest()[:4])
