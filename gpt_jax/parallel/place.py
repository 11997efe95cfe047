"""Where does each tensor live? From its letters and a table of rules to shardings and constraints."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.parallel.rules import Rules


class Placement(NamedTuple):
    """How a model places its tensors without naming a mesh axis.

    activation, weight: (tensor, its letters) -> the tensor, placed.
    apart: makes of a function (tensors [B, ...], weights) -> (a tensor [B, ...], scalars) one that each device runs
      on its own rows of the batch; the scalars are averaged.
    """

    activation: Callable[[jax.Array, str], jax.Array]
    weight: Callable[[jax.Array, str], jax.Array]
    apart: Callable[[Callable[..., Any]], Callable[..., Any]]


def _as_it_is(tensor: jax.Array, letters: str) -> jax.Array:
    del letters
    return tensor


ANYWHERE = Placement(activation=_as_it_is, weight=_as_it_is, apart=lambda function: function)


def spec(letters: str, rules: Mapping[str, tuple[str, ...]], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The mesh axes of each dim: each axis is used once, and only where it divides the dim.

    Letters are served in the order of the table, so the first letter of the rules that a tensor carries gets the axis.
    """
    used: set[str] = set()
    chosen: dict[str, tuple[str, ...]] = {}
    for letter, axes in rules.items():
        if letter in letters:
            size = shape[letters.index(letter)]
            free = tuple(axis for axis in axes if axis not in used and mesh.shape[axis] > 1)
            ways = 1
            for axis in free:
                ways *= mesh.shape[axis]
            if free and size % ways == 0:
                chosen[letter] = free
                used.update(free)
    return PartitionSpec(*(chosen.get(letter) for letter in letters))


def weight_shardings(abstract: Any, letters: Any, rules: Rules, mesh: Mesh) -> Any:
    """The tree of shardings in which the weights (and anything of their shape) are stored between steps."""
    return jax.tree.map(lambda a, l: NamedSharding(mesh, spec(l, rules.stored, a.shape, mesh)), abstract, letters)


def _without(table: Mapping[str, tuple[str, ...]], axes: frozenset[str]) -> dict[str, tuple[str, ...]]:
    return {letter: tuple(axis for axis in there if axis not in axes) for letter, there in table.items()}


def placement(rules: Rules, mesh: Mesh, manual: frozenset[str]) -> Placement:
    """Constraints for use inside a step in which the axes `manual` are already taken apart by shard_map."""

    def constrain(tensor: jax.Array, letters: str, table: Mapping[str, tuple[str, ...]]) -> jax.Array:
        axes = spec(letters, _without(table, manual), tensor.shape, mesh)
        # Inside shard_map the mesh is the context's, of which `manual` is no longer to be spoken.
        return jax.lax.with_sharding_constraint(tensor, axes if manual else NamedSharding(mesh, axes))

    def apart(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(rows: Any, weights: Any) -> Any:
            axes = tuple(axis for axis in rules.activations['B'] if axis not in manual and mesh.shape[axis] > 1)
            if spec('B', {'B': axes}, jax.tree.leaves(rows)[0].shape[:1], mesh) == PartitionSpec(None):
                return function(rows, weights)

            def local(rows: Any, weights: Any) -> Any:
                activations, scalars = function(rows, weights)
                return activations, jax.tree.map(lambda a: jax.lax.pmean(a, axes), scalars)

            cut, whole = PartitionSpec(axes), PartitionSpec()
            return jax.shard_map(
                local, mesh=None if manual else mesh, in_specs=(cut, whole), out_specs=(cut, whole),
                axis_names=set(mesh.shape) - manual, check_vma=False,
            )(rows, weights)  # fmt: skip

        return run

    if all(size == 1 for axis, size in mesh.shape.items() if axis not in manual):
        return ANYWHERE
    return Placement(
        activation=lambda tensor, letters: constrain(tensor, letters, rules.activations),
        weight=lambda tensor, letters: constrain(tensor, letters, rules.used),
        apart=apart,
    )
