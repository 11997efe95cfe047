"""What does a run carry from step to step?"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class Weights(struct.PyTreeNode):
    """Two trees that together are the model: what is trained, and what is kept as it is (None: nothing is)."""

    trained: Any
    kept: Any


class State(struct.PyTreeNode):
    """step: int32, updates tried so far. skipped: how many were skipped as non-finite; in_row: of those, the latest
    unbroken series. Everything that training needs to go on, apart from the data's position, which is `step` too.

    params: what is trained, all that the optimizer knows of. kept: the rest of the model, which no step changes.
    """

    step: jax.Array
    params: Any
    optimizer: Any
    skipped: Any
    in_row: Any
    kept: Any = None

    @property
    def weights(self) -> Weights:
        return Weights(self.params, self.kept)


def create(weights: Weights, transformation: optax.GradientTransformation) -> State:
    """The state before the first update."""
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731 - separate buffers, since the state is donated
    return State(zero(), weights.trained, transformation.init(weights.trained), zero(), zero(), weights.kept)


def like_params(abstract: State, weights: Any, rest: Any) -> Any:
    """A tree like `abstract`: `weights` wherever a subtree has the params' structure, `rest` at every other leaf.

    That is how what is known of the weights (their shardings, say) reaches the optimizer's moments.
    """
    structure: Any = jax.tree.structure(abstract.params)

    def is_params(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: weights if is_params(node) else rest, abstract, is_leaf=is_params)
