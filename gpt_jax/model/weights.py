"""How is a weight declared? Once, by name, letters and role; shape, placement, init and decay are read from that."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.model.config import ModelConfig
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import PARAMETRIZATIONS

Declare = Callable[[str, str, str], jax.Array]  # (name, letters, role) -> the weight


class Weight(struct.PyTreeNode, nn.meta.AxisMetadata[jax.Array]):
    """A weight and its declaration, as `init` returns it; `declarations` takes the two apart."""

    value: jax.Array
    letters: str = struct.field(pytree_node=False)
    role: str = struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        return self.value

    def replace_boxed(self, value: Any) -> Any:
        return self.replace(value=value)

    def add_axis(self, index: int, params: dict[Any, Any]) -> 'Weight':
        del params  # the only loop over weights is the one over layers
        return self.replace(letters=self.letters[:index] + 'N' + self.letters[index:])

    def remove_axis(self, index: int, params: dict[Any, Any]) -> 'Weight':
        del params
        return self.replace(letters=self.letters[:index] + self.letters[index + 1 :])


class Part(nn.Module):
    """The scope in which one plain function declares its weights.

    Every replaceable part (a norm, an attention, a feed-forward) is a function `f(declare, *tensors, config=,
    place=)`; this is all the machinery that linen needs around it.
    """

    function: Callable[..., jax.Array]
    config: ModelConfig
    place: Placement

    @nn.compact
    def __call__(self, *tensors: Any) -> jax.Array:
        return self.function(self.declare, *tensors, config=self.config, place=self.place)

    def declare(self, name: str, letters: str, role: str) -> jax.Array:
        shape = tuple(self.config.dims[letter] for letter in letters)
        init = PARAMETRIZATIONS[self.config.parametrization][role].init
        value: Any = self.param(name, lambda key: Weight(init(key, shape, self.config), letters, role))
        return self.place.weight(value, letters)  # linen unboxes the Weight


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, Weight)


def unbox(boxed: Any) -> Any:
    """The tree of values in a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.value, boxed, is_leaf=_is_weight)


def letters(boxed: Any) -> Any:
    """The tree of letters ('NDHK') in a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.letters, boxed, is_leaf=_is_weight)


def roles(boxed: Any) -> Any:
    """The tree of roles ('hidden') in a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.role, boxed, is_leaf=_is_weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum(terms: str, a: jax.Array, b: jax.Array, config: ModelConfig) -> jax.Array:
    """A matrix product with operands in `matmul_dtype`, sums in float32, the result in `activation_dtype`."""
    dtype = jnp.dtype(config.matmul_dtype)
    product = jnp.einsum(terms, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
    return product.astype(config.activation_dtype)


def _einsum_forward(
    terms: str, a: jax.Array, b: jax.Array, config: ModelConfig
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return einsum(terms, a, b, config), (a, b)


def _einsum_backward(
    terms: str, config: ModelConfig, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # JAX's own rule makes a weight's gradient as the transpose of a product, whose transpose XLA's CPU compiler then
    # moves onto both operands: its slowest form.
    (a, b), dtype = kept, jnp.dtype(config.matmul_dtype)
    inputs, y = terms.split('->')
    left, right = inputs.split(',')
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    da = product(f'{y},{right}->{left}', dy.astype(dtype), b.astype(dtype))
    if a.size <= dy.size:
        db = product(f'{left},{y}->{right}', a.astype(dtype), dy.astype(dtype))
    else:  # the first operand is the one that a CPU transposes: let that be the smaller
        turned = ''.join(sorted(right, key=lambda letter: letter not in y))
        db = product(f'{y},{left}->{turned}', dy.astype(dtype), a.astype(dtype))
        db = jnp.einsum(f'{turned}->{right}', jax.lax.optimization_barrier(db))
    return da.astype(a.dtype), db.astype(b.dtype)


einsum.defvjp(_einsum_forward, _einsum_backward)
