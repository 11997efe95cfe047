"""What if a step's loss or gradients are not finite? The update is skipped whole, and counted."""

import jax
import jax.numpy as jnp

from gpt_jax.train.state import State


def keep_if_finite(updated: State, previous: State, finite: jax.Array) -> State:
    """`updated` where `finite`, else `previous` with the step counted as skipped.

    A selection, not a product: 0 x NaN is NaN. The optimizer's moments are part of what is kept.
    """
    kept = jax.tree.map(lambda new, old: new if new is old else jnp.where(finite, new, old), updated, previous)
    one = jnp.where(finite, 0, 1).astype(jnp.int32)
    return kept.replace(step=updated.step, skipped=previous.skipped + one, in_row=(previous.in_row + one) * one)
