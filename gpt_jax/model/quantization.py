"""Weights in 8 or 4 bits, and output-major weights for fast matrix-vector products on CPUs.

int8: one scale per output channel (Dettmers et al. 2022, without outliers). int4: two values per
byte, one scale per group of at most INT4_GROUP_SIZE values that are summed into one output (the
groups of Frantar et al. 2022, with plain rounding). If the values do not divide into whole groups,
there are as few groups as possible, smaller and of equal size, and zeros pad the last one.

A `QuantizedWeight` takes the place of a weight at inference: it has a shape, returns rows when
indexed, and becomes an array by `astype`. `matmul_operand` returns the scales separately if a
product can apply them to its result instead.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

INT4_GROUP_SIZE = 64
MAX_INTEGER = {8: 127, 4: 7}  # by bits
# The letters of a weight that a product sums over. Other weights are not quantized: vectors,
# positions, routers.
CONTRACTED_LETTERS: Mapping[str, str] = {
    'VD': 'D',
    'DHK': 'D',
    'DGK': 'D',
    'HKD': 'HK',
    'DF': 'D',
    'FD': 'F',
    'EDF': 'D',
    'EFD': 'F',
    'DU': 'D',
    'UD': 'U',
}


class QuantizedWeight(struct.PyTreeNode):
    """A weight in few bits.

    values: int8, or uint8 with two 4-bit values in each; the contracted dims are merged into one,
      `axis`, which is padded with zeros to whole groups.
    scales: float32, with one entry along `axis` per group.
    shape: the shape of the original weight.
    """

    values: jax.Array
    scales: jax.Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    axis: int = struct.field(pytree_node=False)
    bits: int = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: jax.Array) -> 'QuantizedWeight':
        """Return rows of the first dim, which must not be a contracted one."""
        ids = jnp.asarray(ids)
        return self.replace(
            values=self.values[ids],
            scales=self.scales[ids],
            shape=(*ids.shape, *self.shape[1:]),
            axis=self.axis + ids.ndim - 1,
        )

    def to_int8(self) -> jax.Array:
        """Return the integers, in the weight's shape."""
        return self._restore_shape(self._unpack())

    def astype(self, dtype: Any) -> jax.Array:
        """Return the weight as an array."""
        integers, axis = self._unpack().astype(jnp.float32), self.axis
        groups = self.scales.shape[axis]
        before, after = integers.shape[:axis], integers.shape[axis + 1 :]
        grouped = integers.reshape(*before, groups, integers.shape[axis] // groups, *after)
        scaled = (grouped * jnp.expand_dims(self.scales, axis + 1)).reshape(integers.shape)
        return self._restore_shape(scaled).astype(dtype)

    def _unpack(self) -> jax.Array:
        """Return the integers as int8 with the contracted dims joined, padding included."""
        if self.bits == 8:
            return self.values
        halves = [self.values & 15, self.values >> 4]
        return jnp.concatenate(halves, axis=self.axis).astype(jnp.int8) - 8

    def _restore_shape(self, padded: jax.Array) -> jax.Array:
        contracted = len(self.shape) - padded.ndim + 1
        size = math.prod(self.shape[self.axis : self.axis + contracted])
        return jax.lax.slice_in_dim(padded, 0, size, axis=self.axis).reshape(self.shape)


def quantize_weight(weight: jax.Array, letters: str, bits: int) -> QuantizedWeight:
    """Round a weight to evenly spaced values, of which the largest in each group is exact.

    Args:
      weight: any float dtype.
      letters: its dims, a key of CONTRACTED_LETTERS.
      bits: 8 or 4.
    """
    contracted = CONTRACTED_LETTERS[letters]
    axis = letters.index(contracted[0])
    before, after = weight.shape[:axis], weight.shape[axis + len(contracted) :]
    size = math.prod(weight.shape[axis : axis + len(contracted)])
    flat = weight.astype(jnp.float32).reshape(*before, size, *after)
    groups = 1 if bits == 8 else -(-size // INT4_GROUP_SIZE)
    group_size = -(-size // groups)
    group_size += bits == 4 and groups * group_size % 2  # two values per byte: an even total
    if padding := groups * group_size - size:
        flat = jnp.pad(flat, [(0, padding if dim == axis else 0) for dim in range(flat.ndim)])
    grouped = flat.reshape(*before, groups, group_size, *after)
    scales = jnp.max(jnp.abs(grouped), axis=axis + 1) / MAX_INTEGER[bits]
    scales = jnp.where(scales > 0, scales, 1)
    integers = jnp.round(grouped / jnp.expand_dims(scales, axis + 1)).astype(jnp.int8)
    values = integers.reshape(flat.shape)
    if bits == 4:
        low, high = jnp.split((values + 8).astype(jnp.uint8), 2, axis=axis)
        values = low | (high << 4)
    return QuantizedWeight(values, scales, weight.shape, axis, bits)


def matmul_operand(weight: Any, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return the weight as an array for a product, and the scales to apply to the result.

    With one scale per output channel the integers enter the product unscaled; bfloat16 represents
    them exactly. Otherwise the second value is None.
    """
    if isinstance(weight, QuantizedWeight) and weight.scales.shape[weight.axis] == 1:
        return weight.to_int8().astype(dtype), jnp.squeeze(weight.scales, weight.axis)
    return weight.astype(dtype), None


# Output-major weights
#
# With one row of activations, as in each step of generating one text, every weight is read once, so
# fewer bits are faster, provided that XLA converts to float32 inside the product. It does so if the
# product is written with the matrix transposed, and if the conversion cannot be hoisted out of the
# loop, which the optimization barrier ensures. With several rows, float32 in memory is faster.
# experiments/generation_speed measures both.


class TransposedWeight(struct.PyTreeNode):
    """A weight as a matrix [outputs, inputs], array or quantized. shape: of the original weight."""

    w_2d: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def can_transpose(letters: str) -> bool:
    """Return whether `transpose_weight` accepts these dims: the first must be the contracted."""
    return letters.startswith(CONTRACTED_LETTERS.get(letters, '-'))


def transpose_weight(weight: jax.Array, letters: str) -> jax.Array:
    """Return the weight as a matrix [outputs, inputs]."""
    inputs = math.prod(weight.shape[: len(CONTRACTED_LETTERS[letters])])
    return jnp.swapaxes(weight.reshape(inputs, -1), 0, 1)


def matmul_transposed(x_2d: jax.Array, w_2d: Any, dtype: Any) -> jax.Array:
    """Multiply [rows, inputs] with the transpose of [outputs, inputs].

    Args:
      x_2d: activations.
      w_2d: an array or a QuantizedWeight.
      dtype: operands are rounded to it; sums are float32.

    Returns:
      float32 [rows, outputs].
    """
    on_cpu = jax.default_backend() == 'cpu'
    single_row = on_cpu and x_2d.shape[0] == 1 and _converts_in_product(w_2d)
    if single_row:
        w_2d, x_2d = jax.lax.optimization_barrier((w_2d, x_2d))
    w_2d, scale = matmul_operand(w_2d, dtype)
    x_2d = x_2d.astype(dtype)
    if on_cpu:  # CPUs have no matrix products in fewer bits
        w_2d, x_2d = w_2d.astype(jnp.float32), x_2d.astype(jnp.float32)
    if single_row:
        y_2d = _single_row_matmul(x_2d, w_2d)
    else:
        y_2d = jax.lax.dot_general(
            x_2d, w_2d, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
    return y_2d if scale is None else y_2d * scale


def _converts_in_product(w_2d: Any) -> bool:
    """Return whether XLA can convert a matrix to float32 inside a product; int4 is too complex."""
    return w_2d.bits == 8 if isinstance(w_2d, QuantizedWeight) else w_2d.dtype.itemsize < 4


def _single_row_matmul(x_2d: jax.Array, w_2d: jax.Array) -> jax.Array:
    """Multiply one row so that XLA's CPU compiler does not fuse the product with its neighbors.

    Otherwise it would recompute the row for each output, and would fuse the addition of a bias into
    the product instead of the conversion of the weights. It does not see through a product with
    [1, 0], and cannot fuse a minimum, which changes no finite number here.
    """
    x_2d = jnp.dot(jnp.array([[1.0, 0.0]]), jnp.pad(x_2d, ((0, 1), (0, 0))))
    return jnp.minimum(jnp.dot(x_2d, jnp.swapaxes(w_2d, 0, 1)), jnp.finfo(jnp.float32).max)
