"""Attention masks: causal order, sliding window, document segments, sink, slopes and scale."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A score that softmax turns into exactly 0; finite, so that no row can become NaN.
MASK_VALUE = -1e30
NO_WINDOW = 2**30  # a window that hides nothing, where the window must be a number


class AttentionMask(NamedTuple):
    """Everything besides the causal order that changes the attention of a layer.

    segments_BL: a query sees only the keys of its own segment; None: all.
    window: how many of the newest keys a query sees, its own included; an int, an int32 scalar, or
      None for all.
    sink_H: float32 logits of an extra key whose value is 0; None: no such key.
    slopes_H: float32; scores fall by this much per position of distance (ALiBi); None: 0.
    score_factor: factor on the scores besides 1/sqrt(K), which attention applies to the queries
      before it calls a kernel; None: 1.
    """

    segments_BL: jax.Array | None
    window: int | jax.Array | None
    sink_H: jax.Array | None
    slopes_H: jax.Array | np.ndarray | None
    score_factor: float | jax.Array | None = None


def visible_keys(queries: range, window: int | jax.Array | None) -> range:
    """Return the keys that any of the queries can see, as far as is known at trace time."""
    return range(max(0, queries.start - window + 1) if isinstance(window, int) else 0, queries.stop)


def causal_mask(
    queries: range,
    keys: range,
    repeats: int,
    segments_BL: jax.Array | None,
    window: int | jax.Array | None,
) -> jax.Array:
    """Compute the mask: True where the key is no later than the query, in its window and segment.

    Args:
      queries, keys: their positions.
      repeats: query heads per key/value head.
      segments_BL: the segments of all positions, or None.
      window: as in `AttentionMask`.

    Returns:
      bool, broadcastable to [B, G, S, M], where S is `repeats` x `queries` and M is `keys`.
    """
    repeat_rows = lambda a: jnp.tile(a, repeats)
    queries_S = repeat_rows(jnp.arange(queries.start, queries.stop))
    distance_SM = queries_S[:, None] - jnp.arange(keys.start, keys.stop)
    visible_SM = distance_SM >= 0
    if window is not None:
        visible_SM &= distance_SM < window
    if segments_BL is None:
        return visible_SM
    query_segments_BS = jax.vmap(repeat_rows)(segments_BL[:, queries.start : queries.stop])
    key_segments_BM = segments_BL[:, keys.start : keys.stop]
    return visible_SM & (query_segments_BS[:, None, :, None] == key_segments_BM[:, None, None, :])
