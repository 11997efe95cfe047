"""Which keys may a query see?"""

import jax
import jax.numpy as jnp

HIDDEN = -1e30  # a score that softmax turns into exactly 0; finite, so that no row can become NaN


def causal_mask(start: int, stop: int, segments_BL: jax.Array | None) -> jax.Array:
    """For the queries [start, stop) and the keys [0, stop): True where the key is not later and of the same segment.

    Returns bool, broadcastable to [B, G, R, stop - start, stop].
    """
    visible = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :]
    if segments_BL is None:
        return visible
    return visible & (segments_BL[:, None, None, start:stop, None] == segments_BL[:, None, None, None, :stop])
