"""Collective operations among the devices along some axes of the mesh.

For use inside `jax.shard_map` over the whole mesh. Gradients are those of the results summed over
all devices, so the gradient of a gather is a scatter, and vice versa.
"""

from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class AxisGroup:
    """The devices along some mesh axes; for a single device every method is the identity.

    axes: the mesh axes with more than one device.
    size: the number of devices.
    """

    axes: tuple[str, ...]
    size: int

    def index(self) -> jax.Array | int:
        """Return this device's index in the group."""
        return jax.lax.axis_index(self.axes) if self.axes else 0

    def sum(self, tree: Any) -> Any:
        return jax.lax.psum(tree, self.axes) if self.axes else tree

    def mean(self, tree: Any) -> Any:
        return jax.lax.pmean(tree, self.axes) if self.axes else tree

    def max(self, array: jax.Array) -> jax.Array:
        return jax.lax.pmax(array, self.axes) if self.axes else array

    def shard(self, array: Any, dim: int) -> jax.Array:
        """Return this device's shard, along `dim`, of an array that every device holds whole."""
        if not self.axes:
            return array
        size = array.shape[dim] // self.size
        return jax.lax.dynamic_slice_in_dim(array, self.index() * size, size, dim)

    def all_gather(self, array: jax.Array, dim: int) -> jax.Array:
        """Concatenate the shards of all devices along `dim`."""
        if not self.axes:
            return array
        return jax.lax.all_gather(array, self.axes, axis=dim, tiled=True)

    def reduce_scatter(self, array: jax.Array, dim: int) -> jax.Array:
        """Return this device's shard, along `dim`, of the sum over the group."""
        if not self.axes:
            return array
        return jax.lax.psum_scatter(array, self.axes, scatter_dimension=dim, tiled=True)

    def all_to_all(self, array: jax.Array, split_dim: int, concat_dim: int) -> jax.Array:
        """Send each device a part of `split_dim`; join the received parts along `concat_dim`."""
        if not self.axes:
            return array
        return jax.lax.all_to_all(array, self.axes, split_dim, concat_dim, tiled=True)

    def ppermute(self, tree: Any) -> Any:
        """Pass the tree to the next device of the ring; return the previous device's."""
        if not self.axes:
            return tree
        ring = [(n, (n + 1) % self.size) for n in range(self.size)]
        return jax.tree.map(lambda a: jax.lax.ppermute(a, self.axes, ring), tree)


SINGLE_DEVICE = AxisGroup(axes=(), size=1)
