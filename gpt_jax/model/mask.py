"""Which keys may a query see?"""

import jax
import jax.numpy as jnp

HIDDEN = -1e30  # a score that softmax turns into exactly 0; finite, so that no row can become NaN


def causal_mask(queries: range, keys: range, segments_BL: jax.Array | None) -> jax.Array:
    """True where the key is not later than the query and of the same segment.

    Returns bool, broadcastable to [B, G, M, R, L], the M and L that of `keys` and `queries`.
    """
    visible = jnp.arange(keys.start, keys.stop)[:, None, None] <= jnp.arange(queries.start, queries.stop)
    if segments_BL is None:
        return visible
    key_segments = segments_BL[:, None, keys.start : keys.stop, None, None]
    return visible & (key_segments == segments_BL[:, None, None, None, queries.start : queries.stop])
