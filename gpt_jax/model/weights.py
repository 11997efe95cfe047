"""How is a weight declared? Once, by name, letters and role; shape, placement, init and decay are read from that."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import struct

from gpt_jax.model import lowrank
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.quantized import Quantized
from gpt_jax.model.turned import Turned
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import initial

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

    function: Callable[..., Any]
    config: ModelConfig
    place: Placement

    @nn.compact
    def __call__(self, *tensors: Any) -> Any:
        return self.function(self.declare, *tensors, config=self.config, place=self.place)

    def declare(self, name: str, letters: str, role: str) -> Any:
        shape = tuple(self.config.dims[letter] for letter in letters)
        if self.is_initializing():
            return self.param(name, lambda key: Weight(initial(role, key, shape, self.config), letters, role))
        # Not by `param`, which wants the whole shape: here may be a device's share, or what stands for an array.
        kept: Any = self.get_variable('params', name)
        if kept is None:
            raise KeyError(f'{"/".join(self.path)}/{name}: the params do not hold it')
        if isinstance(kept, Quantized | Turned):
            return kept
        matrix = role in ('hidden', 'residual', 'head') and name != 'router'

        def placed(share: Any, letters: str, shape: tuple[int, ...]) -> jax.Array:
            return self.place.weight(share, letters, shape, self.config.matmul_dtype if matrix else share.dtype)

        if isinstance(kept, lowrank.Adapted):
            key = self.make_rng('dropout') if kept.rate else None
            return lowrank.placed(kept, letters, self.config.dims, placed, key)
        return placed(kept, letters, shape)


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
