"""What can devices do that share a dim? They are one team; every method is the identity for a team of one.

Inside `jax.shard_map` over the whole mesh. Gradients are those of the sum over all devices of what each returns: so a
gather's is a scatter, and the other way round.
"""

from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Team:
    """Devices along some axes of the mesh. axes: those with more than one device. size: how many devices."""

    axes: tuple[str, ...]
    size: int

    def index(self) -> jax.Array | int:
        """This device's place in the team."""
        return jax.lax.axis_index(self.axes) if self.axes else 0

    def sum(self, tree: Any) -> Any:
        return jax.lax.psum(tree, self.axes) if self.axes else tree

    def mean(self, tree: Any) -> Any:
        return jax.lax.pmean(tree, self.axes) if self.axes else tree

    def max(self, array: jax.Array) -> jax.Array:
        return jax.lax.pmax(array, self.axes) if self.axes else array

    def take(self, array: jax.Array, dim: int) -> jax.Array:
        """This device's share of what all of the team have."""
        if not self.axes:
            return array
        share = array.shape[dim] // self.size
        return jax.lax.dynamic_slice_in_dim(array, self.index() * share, share, dim)

    def gather(self, array: jax.Array, dim: int) -> jax.Array:
        """The shares of all, laid end to end along `dim`."""
        return jax.lax.all_gather(array, self.axes, axis=dim, tiled=True) if self.axes else array

    def scatter(self, array: jax.Array, dim: int) -> jax.Array:
        """This device's share, along `dim`, of the sum over the team."""
        return jax.lax.psum_scatter(array, self.axes, scatter_dimension=dim, tiled=True) if self.axes else array

    def exchange(self, array: jax.Array, cut: int, joined: int) -> jax.Array:
        """Cuts dim `cut` into a part for each of the team, and joins what comes from each along dim `joined`."""
        return jax.lax.all_to_all(array, self.axes, cut, joined, tiled=True) if self.axes else array

    def rotate(self, tree: Any, by: int = 1) -> Any:
        """What the device `by` places before this one has."""
        turn = [(n, (n + by) % self.size) for n in range(self.size)]
        return jax.tree.map(lambda a: jax.lax.ppermute(a, self.axes, turn), tree) if self.axes else tree


ALONE = Team(axes=(), size=1)
