"""How does a matrix lie that few rows are multiplied with? With its outputs as rows, as a processor reads memory.

One row, which is what each step of writing one text has, takes every weight through the processor once. Weights in
fewer bits are then less to read, if XLA makes float32 of them inside the product. It does so where the product is
written with the matrix transposed; and where the conversion cannot be done once before the loop, which is all that the
barrier is for. Several rows want it the other way, since a product of matrices needs float32 in memory.
experiments/generation_speed says what each is worth.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.model.quantized import SUMMED, Quantized, operand


class Turned(struct.PyTreeNode):
    """A weight as a matrix of [outputs, inputs], an array or Quantized. shape: the weight's own."""

    w_2d: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def turnable(letters: str) -> bool:
    """Whether `turned` takes a weight of these dims: one whose first ones are summed over."""
    return letters.startswith(SUMMED.get(letters, '-'))


def turned(weight: jax.Array, letters: str) -> jax.Array:
    """The weight as [outputs, inputs]."""
    inputs = math.prod(weight.shape[: len(SUMMED[letters])])
    return jnp.swapaxes(weight.reshape(inputs, -1), 0, 1)


def across(x_2d: jax.Array, w_2d: Any, dtype: Any) -> jax.Array:
    """[rows, inputs] times [outputs, inputs]: float32 [rows, outputs], operands rounded to `dtype`, sums in float32.

    Args:
      w_2d: an array, or Quantized.
    """
    cpu = jax.default_backend() == 'cpu'
    alone = cpu and x_2d.shape[0] == 1 and _narrow(w_2d)
    if alone:
        w_2d, x_2d = jax.lax.optimization_barrier((w_2d, x_2d))
    w_2d, scale = operand(w_2d, dtype)
    x_2d = x_2d.astype(dtype)
    if cpu:  # which has no product in fewer bits
        w_2d, x_2d = w_2d.astype(jnp.float32), x_2d.astype(jnp.float32)
    y_2d = _one_row(x_2d, w_2d) if alone else _product(x_2d, w_2d)
    return y_2d if scale is None else y_2d * scale


def _product(x_2d: jax.Array, w_2d: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x_2d, w_2d, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def _narrow(w_2d: Any) -> bool:
    """Whether XLA can make float32 of it inside a product: int4's halves and groups are too much for it."""
    return w_2d.bits == 8 if isinstance(w_2d, Quantized) else w_2d.dtype.itemsize < 4


def _one_row(x_2d: jax.Array, w_2d: jax.Array) -> jax.Array:
    """The product as XLA's CPU compiler keeps it apart from what is around it.

    It would compute the row anew for each output, and take the addition of a bias into the product instead of the
    conversion. A product with 1 and 0 is one it does not look into, and a bound that changes no finite number is
    nothing it can take in.
    """
    x_2d = jnp.dot(jnp.array([[1.0, 0.0]]), jnp.pad(x_2d, ((0, 1), (0, 0))))
    return jnp.minimum(jnp.dot(x_2d, jnp.swapaxes(w_2d, 0, 1)), jnp.finfo(jnp.float32).max)
