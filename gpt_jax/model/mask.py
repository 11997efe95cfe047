"""Which keys may a query see?"""

import jax
import jax.numpy as jnp

HIDDEN = -1e30  # a score that softmax turns into exactly 0; finite, so that no row can become NaN


def causal_mask(queries: range, keys: range, repeats: int, segments_BL: jax.Array | None) -> jax.Array:
    """True where the key is not later than the query and of the same segment.

    Returns bool, broadcastable to [B, G, S, M]: S the `repeats` x `queries`, M the `keys`.
    """
    rows = lambda a: jnp.tile(a, repeats)  # noqa: E731
    visible_SM = rows(jnp.arange(queries.start, queries.stop))[:, None] >= jnp.arange(keys.start, keys.stop)
    if segments_BL is None:
        return visible_SM
    segments_BS = jax.vmap(rows)(segments_BL[:, queries.start : queries.stop])
    return visible_SM & (segments_BS[:, None, :, None] == segments_BL[:, None, None, keys.start : keys.stop])
