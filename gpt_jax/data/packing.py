"""How does a stretch of the token stream become a row of a batch?"""

from collections.abc import Callable

import numpy as np

from gpt_jax.data.tokens import Tokens

Batch = dict[str, np.ndarray]


def concatenate(tokens: Tokens, offsets_B: np.ndarray, context: int) -> Batch:
    """Rows of the stream as it is: a row may hold several documents, and each sees those before it.

    Args:
      offsets_B: where in the stream each row's inputs begin.
      context: the rows' length L.

    Returns:
      'inputs' and 'targets', int32 [B, L]; targets are the inputs one later. Zeros beyond the stream's end.
    """
    ids_BW = _windows(tokens, offsets_B, context)
    return {'inputs': ids_BW[:, :-1].copy(), 'targets': ids_BW[:, 1:].copy()}


def isolate(tokens: Tokens, offsets_B: np.ndarray, context: int) -> Batch:
    """Rows in which no document sees another.

    Returns:
      What `concatenate` returns, and [B, L] each: 'segments' int32, the document's number in its row from 1 (0 beyond
      the stream's end); 'positions' int32, from 0 at the document's (or the row's) beginning; 'weights' float32, 0
      where the target begins another document (the input is an end of document) or is beyond the stream, else 1.
    """
    begins_BW = np.zeros([len(offsets_B), context + 1], bool)
    firsts = np.searchsorted(tokens.starts, offsets_B)
    lasts = np.searchsorted(tokens.starts, offsets_B + context + 1)
    for row, (offset, first, last) in enumerate(zip(offsets_B, firsts, lasts, strict=True)):
        begins_BW[row, tokens.starts[first:last] - offset] = True
    begins_BW[:, 0] = True
    place_W = np.arange(context + 1, dtype=np.int32)
    within_BW = offsets_B[:, None] + place_W < len(tokens)
    segments_BW = np.cumsum(begins_BW, axis=1, dtype=np.int32) * within_BW
    positions_BW = place_W - np.maximum.accumulate(np.where(begins_BW, place_W, 0), axis=1)
    same_BL = (segments_BW[:, 1:] == segments_BW[:, :-1]) & within_BW[:, 1:]
    return concatenate(tokens, offsets_B, context) | {
        'segments': segments_BW[:, :-1].copy(),
        'positions': positions_BW[:, :-1].astype(np.int32),
        'weights': same_BL.astype(np.float32),
    }


def _windows(tokens: Tokens, offsets_B: np.ndarray, context: int) -> np.ndarray:
    ids = np.asarray(tokens.ids)  # slicing a memmap costs several times slicing an array
    ids_BW = np.zeros([len(offsets_B), context + 1], np.int32)
    for row, offset in enumerate(offsets_B):
        window = ids[offset : offset + context + 1]
        ids_BW[row, : len(window)] = window
    return ids_BW


PACKINGS: dict[str, Callable[[Tokens, np.ndarray, int], Batch]] = {'concatenate': concatenate, 'isolate': isolate}
