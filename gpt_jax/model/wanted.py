"""Which gradients does anybody ask for? What is not trained costs a backward pass no product and no memory.

A function with a gradient of its own that is made with `symbolic_zeros` is told which of its arguments the derivative
is taken by, and whether what comes back to it is known to be zero; this reads it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values


def values(arguments: Any) -> tuple[Any, Any]:
    """(the arguments as they were given, for each of the tuple whether the gradient of any of it is wanted)."""
    wanted = tuple(any(leaf.perturbed for leaf in jax.tree.leaves(argument)) for argument in arguments)
    return custom_vjp_primal_tree_values(arguments), wanted


def arrays(incoming: Any) -> Any:
    """The gradients that come back, as arrays."""
    zero = lambda one: isinstance(one, SymbolicZero)  # noqa: E731
    return jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype) if zero(one) else one, incoming, is_leaf=zero)


def typed(array: Any) -> jax.Array:
    """Nothing but its dtype and, after a 0, its shape: what a backward pass may keep of it for free."""
    return jnp.zeros((0, *array.shape), array.dtype)
