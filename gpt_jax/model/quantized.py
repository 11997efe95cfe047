"""How is a matrix kept in 8 or in 4 bits? As whole numbers, and a scale for every few of them; for reading alone.

int8: one scale per output channel (Dettmers et al. 2022, without outliers). int4: two to a byte, one scale per GROUP of
the numbers that are summed into one output (Frantar et al. 2022's groups, with plain rounding). Where they are no whole
number of groups, the groups are as few, a little smaller and equally long, and zeros fill up the last.

A `Quantized` stands where the model expects a weight: it has the shape of one, gives its rows by index, and becomes an
array by `astype`. Where a product can multiply by the scales afterwards, `operand` says so.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

GROUP = 64  # numbers of a group in int4, at most
LARGEST = {8: 127, 4: 7}
# Which letters of a weight a product sums over. What is not here stays as it is: vectors, positions, routers.
SUMMED: Mapping[str, str] = {
    'VD': 'D', 'DHK': 'D', 'DGK': 'D', 'HKD': 'HK', 'DF': 'D', 'FD': 'F', 'EDF': 'D', 'EFD': 'F',
    'DU': 'D', 'UD': 'U',
}  # fmt: skip


class Quantized(struct.PyTreeNode):
    """A matrix in few bits.

    values: int8, or uint8 with two numbers in each; the summed dims are one, `axis`, filled up with zeros to whole
    groups. scales: float32, with as many entries along `axis` as there are groups. shape: the weight's.
    """

    values: jax.Array
    scales: jax.Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    axis: int = struct.field(pytree_node=False)
    bits: int = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: jax.Array) -> 'Quantized':
        """Rows of the first dim, which is not summed over."""
        ids = jnp.asarray(ids)
        return self.replace(
            values=self.values[ids], scales=self.scales[ids], shape=(*ids.shape, *self.shape[1:]),
            axis=self.axis + ids.ndim - 1,
        )  # fmt: skip

    def integers(self) -> jax.Array:
        """int8, of the weight's shape."""
        return self._shaped(self._filled())

    def astype(self, dtype: Any) -> jax.Array:
        """The weight as an array."""
        whole, axis = self._filled().astype(jnp.float32), self.axis
        groups = self.scales.shape[axis]
        cut = whole.reshape(*whole.shape[:axis], groups, whole.shape[axis] // groups, *whole.shape[axis + 1 :])
        return self._shaped((cut * jnp.expand_dims(self.scales, axis + 1)).reshape(whole.shape)).astype(dtype)

    def _filled(self) -> jax.Array:
        """int8, the summed dims as one, with the zeros that fill up the groups."""
        if self.bits == 8:
            return self.values
        halves = [self.values & 15, self.values >> 4]
        return jnp.concatenate(halves, axis=self.axis).astype(jnp.int8) - 8

    def _shaped(self, filled: jax.Array) -> jax.Array:
        summed = len(self.shape) - filled.ndim + 1
        inner = math.prod(self.shape[self.axis : self.axis + summed])
        return jax.lax.slice_in_dim(filled, 0, inner, axis=self.axis).reshape(self.shape)


def operand(weight: Any, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """The weight as an array for a product, and what each output channel is to be multiplied with afterwards.

    With one scale per channel the numbers go into the product as they are, which bfloat16 holds exactly.
    """
    if isinstance(weight, Quantized) and weight.scales.shape[weight.axis] == 1:
        return weight.integers().astype(dtype), jnp.squeeze(weight.scales, weight.axis)
    return weight.astype(dtype), None


def quantize(weight: jax.Array, letters: str, bits: int) -> Quantized:
    """Rounds a weight to the nearest of evenly spaced numbers, the largest of each group being one of them.

    Args:
      letters: its dims, one of SUMMED.
      bits: 8 or 4.
    """
    summed = SUMMED[letters]
    axis = letters.index(summed[0])
    inner = math.prod(weight.shape[axis : axis + len(summed)])
    flat = weight.astype(jnp.float32).reshape(*weight.shape[:axis], inner, *weight.shape[axis + len(summed) :])
    groups = 1 if bits == 8 else -(-inner // GROUP)
    group = -(-inner // groups)
    group += bits == 4 and groups * group % 2  # two to a byte takes an even number
    if zeros := groups * group - inner:
        flat = jnp.pad(flat, [(0, zeros if dim == axis else 0) for dim in range(flat.ndim)])
    cut = flat.reshape(*flat.shape[:axis], groups, group, *flat.shape[axis + 1 :])
    scales = jnp.max(jnp.abs(cut), axis=axis + 1) / LARGEST[bits]
    scales = jnp.where(scales > 0, scales, 1)
    values = jnp.round(cut / jnp.expand_dims(scales, axis + 1)).astype(jnp.int8).reshape(flat.shape)
    if bits == 4:
        low, high = jnp.split((values + 8).astype(jnp.uint8), 2, axis=axis)
        values = low | (high << 4)
    return Quantized(values, scales, weight.shape, axis, bits)
