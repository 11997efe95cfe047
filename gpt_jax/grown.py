"""How do weights go into a larger tree? With rows for what their vocabulary has not, and a new head for a task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax import assemble, trees
from gpt_jax.data.task import TaskConfig
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig


def grown(
    taken: Callable[[Any], Any], before: ModelConfig, model: ModelConfig, task: TaskConfig | None, seed: int,
    wanted: Any,
) -> Any:  # fmt: skip
    """The weights that `taken` gives for the model `before`, as those of `model` with the task's head.

    Args:
      taken: shardings of the weights -> the weights on their devices.
      seed: what is new is drawn as a run of this seed draws it.
      wanted: shapes and shardings of what comes out.
    """
    there = weights.unbox(assemble.declarations(before))
    names, after = trees.names(there), dict(zip(trees.names(wanted), jax.tree.leaves(wanted), strict=True))
    # Where the shape is the same, as it is wanted; a smaller vocabulary is small enough to lie anywhere whole.
    shardings = [
        after[name].sharding if after[name].shape == leaf.shape else everywhere(after[name].sharding)
        for name, leaf in zip(names, jax.tree.leaves(there), strict=True)
    ]

    def grow(given: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        fresh = weights.unbox(assemble.initial(model, key, task))
        old = dict(zip(names, jax.tree.leaves(given), strict=True))
        made = [
            _row_by_row(old.get(name), new, before.vocab_size)
            for name, new in zip(trees.names(fresh), jax.tree.leaves(fresh), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(fresh), made)

    given = taken(jax.tree.unflatten(jax.tree.structure(there), shardings))
    return jax.jit(grow, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wanted))(given)


def _row_by_row(old: Any, new: jax.Array, rows: int) -> jax.Array:
    if old is None or old.shape == new.shape:
        return new if old is None else old
    if len(new) < len(old):  # positions of a longer context
        return old[: len(new)]
    return jnp.concatenate([old[:rows], new[rows:]])


def everywhere(sharding: Any) -> Any:
    """On the same devices, whole on each."""
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
