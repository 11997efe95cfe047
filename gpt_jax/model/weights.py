"""Declaration of weights: by name, shape letters and role, once for each weight.

Everything else follows from the declaration: shape and sharding from the letters
(parallel/rules.py), initialization, learning rate and weight decay from the role
(core/parametrization.py).

A replaceable part of the model (a norm, an attention, a feed-forward) is a plain function
`f(param, *tensors, config=, policy=)`, where `param(name, letters, role)` returns a weight.
`FunctionModule` is the Flax scope that such a function needs.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import struct

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.parametrization import init_weight
from gpt_jax.model.low_rank import AdaptedWeight, shard_adapted
from gpt_jax.model.quantization import QuantizedWeight, TransposedWeight
from gpt_jax.parallel.sharding import ShardingPolicy

# The one legend of tensor dims; a tensor's name ends with its letters (`q_BLHK`).
SHAPE_LETTERS = {
    'B': 'batch (sequences)',
    'L': 'length (tokens of a sequence; queries in attention)',
    'M': 'memory (keys and values in attention)',
    'D': 'model width',
    'H': 'query heads',
    'G': 'key/value heads',
    'R': 'query heads per key/value head, H / G',
    'S': 'rows of scores that share keys: R x L',
    'K': 'width of one head',
    'F': 'feed-forward width',
    'V': 'vocabulary (rows of the embedding)',
    'E': 'experts',
    'U': 'total width of the shared experts',
    'T': 'tokens that are routed together',
    'X': 'experts per token',
    'P': 'blocks of tokens, each of one expert',
    'C': 'rows of such a block',
    'N': 'layers',
    'I': 'rank of a low-rank adapter',
    'J': 'beams of a prompt',
    'Q': 'proposals: continuations of beams, tokens of a draft',
    'W': 'window of the data: the L + 1 tokens that inputs and targets are cut from',
    'O': 'questions of a row',
    'Y': 'candidates of a question: classes, choices, texts',
    'A': 'microbatches accumulated in one step',
}

ParamFn = Callable[[str, str, str], Any]  # (name, letters, role) -> the weight


class BoxedParam(struct.PyTreeNode, nn.meta.AxisMetadata[jax.Array]):
    """A weight with its declaration, as `init` returns it.

    `unbox`, `logical_axes` and `param_roles` separate a tree of them.
    """

    value: jax.Array
    letters: str = struct.field(pytree_node=False)
    role: str = struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        return self.value

    def replace_boxed(self, value: Any) -> Any:
        return self.replace(value=value)

    def add_axis(self, index: int, params: dict[Any, Any]) -> 'BoxedParam':
        del params  # the loop over layers is the only one over weights
        return self.replace(letters=self.letters[:index] + 'N' + self.letters[index:])

    def remove_axis(self, index: int, params: dict[Any, Any]) -> 'BoxedParam':
        del params
        return self.replace(letters=self.letters[:index] + self.letters[index + 1 :])


class FunctionModule(nn.Module):
    """The Flax scope in which a plain function declares its weights."""

    function: Callable[..., Any]
    config: ModelConfig
    policy: ShardingPolicy

    @nn.compact
    def __call__(self, *tensors: Any) -> Any:
        return self.function(self.get_param, *tensors, config=self.config, policy=self.policy)

    def get_param(self, name: str, letters: str, role: str) -> Any:
        """Declare a weight when the model is initialized; afterwards, return its value.

        Args:
          name: the weight's name in the params.
          letters: its dims, keys of `config.dims`.
          role: a key of the parametrization's roles.

        Returns:
          The part of the weight that this device computes with.

        Raises:
          KeyError: the params do not contain the weight.
        """
        dims = self.config.dims
        shape = tuple(dims[letter] for letter in letters)
        if self.is_initializing():
            box = lambda key: BoxedParam(init_weight(role, key, shape, self.config), letters, role)
            return self.param(name, box)
        # Not read by `self.param`, which requires the global shape: the stored value may be this
        # device's shard, or a placeholder for an array.
        stored: Any = self.get_variable('params', name)
        if stored is None:
            raise KeyError(f'{"/".join(self.path)}/{name}: not in the params')
        if isinstance(stored, QuantizedWeight | TransposedWeight):
            return stored
        is_matrix = role in ('hidden', 'residual', 'head') and name != 'router'

        def shard(stored: Any, letters: str, shape: tuple[int, ...]) -> jax.Array:
            dtype = self.config.matmul_dtype if is_matrix else stored.dtype
            return self.policy.weight(stored, letters, shape, dtype)

        if isinstance(stored, AdaptedWeight):
            key = self.make_rng('dropout') if stored.rate else None
            return shard_adapted(stored, letters, dims, shard, key)
        return shard(stored, letters, shape)


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, BoxedParam)


def unbox(boxed: Any) -> Any:
    """Return the tree of values of a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.value, boxed, is_leaf=_is_boxed)


def logical_axes(boxed: Any) -> Any:
    """Return the tree of shape letters ('NDHK') of a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.letters, boxed, is_leaf=_is_boxed)


def param_roles(boxed: Any) -> Any:
    """Return the tree of roles ('hidden') of a tree of declared weights."""
    return jax.tree.map(lambda weight: weight.role, boxed, is_leaf=_is_boxed)
