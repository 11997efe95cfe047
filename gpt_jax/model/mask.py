"""Which keys may a query see?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN = -1e30  # a score that softmax turns into exactly 0; finite, so that no row can become NaN
EVERYTHING = 2**30  # a window that hides nothing


class Sight(NamedTuple):
    """What a layer's queries see beside the causal order.

    segments_BL: keys of an equal number alone; None: all.
    window: the newest so many keys, the query's own included; an int, an int32 scalar, or None: all.
    sink_H: float32 scores of a key that gives nothing; None: there is none.
    slopes_H: float32, by how much scores fall per position of distance; None: not at all.
    """

    segments_BL: jax.Array | None
    window: int | jax.Array | None
    sink_H: jax.Array | None
    slopes_H: jax.Array | np.ndarray | None


def visible_keys(queries: range, window: int | jax.Array | None) -> range:
    """The keys that any of the queries can see, as far as is known before the program runs."""
    return range(max(0, queries.start - window + 1) if isinstance(window, int) else 0, queries.stop)


def causal_mask(
    queries: range, keys: range, repeats: int, segments_BL: jax.Array | None, window: int | jax.Array | None
) -> jax.Array:
    """True where the key is not later than the query, in its window, and of the same segment.

    Returns bool, broadcastable to [B, G, S, M]: S the `repeats` x `queries`, M the `keys`.
    """
    rows = lambda a: jnp.tile(a, repeats)  # noqa: E731
    distance_SM = rows(jnp.arange(queries.start, queries.stop))[:, None] - jnp.arange(keys.start, keys.stop)
    visible_SM = distance_SM >= 0
    if window is not None:
        visible_SM &= distance_SM < window
    if segments_BL is None:
        return visible_SM
    segments_BS = jax.vmap(rows)(segments_BL[:, queries.start : queries.stop])
    return visible_SM & (segments_BS[:, None, :, None] == segments_BL[:, None, None, keys.start : keys.stop])
