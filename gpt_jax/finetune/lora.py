"""LoRA adapters (Hu et al. 2021): targets, initial values and merging into the weights.

Parameter trees are nested dicts, as in the model; adapters are in flat dicts by path:
{'blocks/attention/query': Adapter}. model/low_rank.py computes with them.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax.core.errors import UserError
from gpt_jax.finetune.parameter_names import ParameterSelection, select_parameters
from gpt_jax.model.low_rank import (
    RANK_LETTER,
    AdaptedWeight,
    Adapter,
    BaseWeight,
    adapter_letters,
    can_adapt,
)

ALL_LINEAR = 'all-linear'  # PEFT's name for every matrix inside the layers


def select_targets(
    logical_axes: Mapping[str, str], names: Sequence[str], layers: int
) -> ParameterSelection:
    """Select the matrices that match the names; other parameters that match are left out.

    Args:
      logical_axes: logical axes of all parameters of the model, by path.
      names: as in parameter_names.py, or 'all-linear'.
      layers: number of layers of the model.

    Raises:
      UserError: a name matches no parameter, or none that can have an adapter.
    """
    field = 'finetune.targets'
    matrices = {path: letters for path, letters in logical_axes.items() if can_adapt(letters)}
    for name in names:
        if name == ALL_LINEAR:
            continue
        matching = select_parameters(logical_axes, [name], layers, field)
        if not matching.keys() & matrices.keys():
            raise UserError(
                f'config.{field}: {name!r} matches {", ".join(matching)}; only matrices can have '
                'adapters'
            )
    names = ['blocks' if name == ALL_LINEAR else name for name in names]
    return select_parameters(matrices, names, layers, field)


def lora_scale(rank: int, alpha: float, stabilized: bool) -> float:
    """Return the factor on a b: alpha / rank; rsLoRA: alpha / sqrt(rank) (Kalajdzievski 2023)."""
    return alpha / math.sqrt(rank) if stabilized else alpha / rank


def init_adapters(
    abstract: Any,
    logical_axes: Mapping[str, str],
    targets: ParameterSelection,
    rank: int,
    key: jax.Array,
) -> dict[str, Adapter]:
    """Create adapters that do not change the model yet.

    The factor on the side of the outputs is zero. The other one is drawn as in PEFT: uniformly from
    +-1/sqrt(inputs), or from a standard normal for an embedding. In a stack of layers, both factors
    of a layer that is not a target are zero and stay zero, since neither has a gradient then.

    Args:
      abstract: the parameters or their shapes, a tree.
      logical_axes: logical axes of the parameters, by path.
      targets: see `select_targets`.
      rank: rank of the adapters.
      key: random key, which is folded with each adapter's path.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract, sep='/').items()}
    adapters = {}
    for path, layers in targets.items():
        letters = logical_axes[path]
        sizes = dict(zip(letters, shapes[path], strict=True)) | {RANK_LETTER: rank}
        a_letters, b_letters = adapter_letters(letters)
        a_shape = tuple(sizes[letter] for letter in a_letters)
        b_shape = tuple(sizes[letter] for letter in b_letters)
        path_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        if letters == 'VD':
            # b is on the side of the inputs: the head multiplies by b first. The embedding reads
            # rows of a.
            if path.startswith('embedding'):
                b = jax.random.normal(path_key, b_shape)
            else:
                b = _draw_uniform(path_key, b_shape, inputs=b_shape[-1])
            adapters[path] = Adapter(a=jnp.zeros(a_shape), b=b)
            continue
        inputs = math.prod(
            sizes[letter] for letter in a_letters if letter not in f'NE{RANK_LETTER}'
        )
        a = _draw_uniform(path_key, a_shape, inputs)
        if layers is not None:
            is_target = jnp.isin(jnp.arange(a_shape[0]), jnp.array(layers))
            a = jnp.where(is_target.reshape(-1, *[1] * (len(a_shape) - 1)), a, 0)
        adapters[path] = Adapter(a=a, b=jnp.zeros(b_shape))
    return adapters


def _draw_uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -1, 1) / math.sqrt(inputs)


def make_base(w: Any, letters: str, scale: Any) -> BaseWeight:
    """Wrap a weight that has an adapter. scale: one number, or one for each layer of a stack."""
    shape = w.shape[:1] if letters.startswith('N') else ()
    return BaseWeight(w, jnp.broadcast_to(jnp.asarray(scale, jnp.float32), shape))


def attach_adapters(
    params: Any, adapters: Mapping[str, Adapter], scales: Mapping[str, Any], *, rate: float = 0.0
) -> Any:
    """Replace each weight that has an adapter with an `AdaptedWeight`.

    Args:
      params: a tree.
      adapters: adapters by path.
      scales: scales by path, as in `make_base`.
      rate: dropout rate of the adapters' inputs. Above 0, the model needs a Flax rng 'dropout'.
    """
    flat = dict(flatten_dict(params, sep='/'))
    for path, adapter in adapters.items():
        base = make_base(flat[path], 'N' if path.startswith('blocks/') else '', scales[path])
        flat[path] = AdaptedWeight(base.w, adapter.a, adapter.b, base.scale, key=None, rate=rate)
    return unflatten_dict(flat, sep='/')


def merge_adapters(params: Any, adapters: Mapping[str, Adapter], scales: Mapping[str, Any]) -> Any:
    """Add the adapters to their weights, in the weights' own dtypes."""
    return merge_adapted(attach_adapters(params, adapters, scales))


def merge_adapted(params: Any) -> Any:
    """Replace each `AdaptedWeight` of a tree with the sum of weight and adapter."""
    is_adapted = lambda node: isinstance(node, AdaptedWeight)
    return jax.tree.map(
        lambda node: node.astype(node.w.dtype) if is_adapted(node) else node,
        params,
        is_leaf=is_adapted,
    )
