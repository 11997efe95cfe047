"""What might come next, going by what the text itself has said? A draft without a model (Saxena 2023)."""

import jax
import jax.numpy as jnp

LONGEST = 3  # ids in a row that are looked for, then fewer


def propose(tokens_BL: jax.Array, length_B: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """What followed the last ids of each text where they stood before: the longest run, and of these the latest.

    Where that place is less than `count` ids back, its continuation is the draft's own beginning, over and over.

    Returns:
      drafts_BQ: int32 ids. found_B: bool; without it the row's ids mean nothing.
    """
    places_L = jnp.arange(tokens_BL.shape[1])

    def one(tokens_L: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        matches_L = (places_L >= 0) & (places_L < length - 1)
        best = jnp.int32(-1)  # where the run ends that is continued
        for back in range(LONGEST):
            earlier_L = jnp.roll(tokens_L, back)
            matches_L &= (places_L >= back) & (earlier_L == tokens_L[jnp.maximum(length - 1 - back, 0)])
            best = jnp.where(jnp.any(matches_L), jnp.max(jnp.where(matches_L, places_L, -1)), best)
        period = jnp.maximum(length - 1 - best, 1)
        return tokens_L[jnp.maximum(best, 0) + 1 + jnp.arange(count) % period], best >= 0

    return jax.vmap(one)(tokens_BL, length_B)
