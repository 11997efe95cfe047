"""Partition of the parameters into a trainable and a frozen tree.

Full training, frozen parts and adapters are treated alike: the optimizer sees the trainable tree,
and `combine` makes the model's parameters from both. If everything is trained, the trainable tree
holds the parameters and the frozen one is None. Otherwise

    a parameter                       is in one of the trees
    a partly frozen stack of layers   is in both, as a `LayerSubset` each
    a weight with an adapter          is an `Adapter` in the trainable tree, and a `BaseWeight` in
                                      the frozen one
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax.core import config_fields
from gpt_jax.core.config import FinetuneConfig
from gpt_jax.finetune import lora
from gpt_jax.finetune.heads import HEAD_NAME
from gpt_jax.finetune.parameter_names import (
    ParameterSelection,
    select_parameters,
    subtract_selection,
)
from gpt_jax.model.low_rank import AdaptedWeight, Adapter, BaseWeight, adapter_letters


class PartitionedParams(struct.PyTreeNode):
    """Two trees that together are the parameters. frozen: None if everything is trainable.

    The leaves may also describe the parameters: shapes, logical axes, shardings.
    """

    trainable: Any
    frozen: Any


class LayerSubset(struct.PyTreeNode):
    """Some layers of a stack: value[i] is layer `layers[i]`. layers: their numbers, ascending."""

    value: Any
    layers: tuple[int, ...] = struct.field(pytree_node=False)


class PartitionPlan(NamedTuple):
    """Which parameters are trained; all others are frozen.

    trainable: parameters that are trained themselves.
    adapted: parameters with adapters.
    logical_axes: logical axes of all parameters, by path.
    layers: number of layers of the model.
    rank, scale: rank and scale of the adapters.
    """

    trainable: ParameterSelection
    adapted: ParameterSelection
    logical_axes: Mapping[str, str]
    layers: int
    rank: int
    scale: float

    def split_layers(self, path: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Return (trainable, frozen) layers of a stack; None if it is in one tree as a whole."""
        trainable = self.trainable.get(path)
        if trainable is None or len(trainable) == self.layers:
            return None
        return trainable, tuple(n for n in range(self.layers) if n not in trainable)

    @property
    def split_stacks(self) -> list[str]:
        """The stacks of which only some layers are trained."""
        return [path for path in self.trainable if self.split_layers(path)]


def plan_partition(
    config: FinetuneConfig, logical_axes: Mapping[str, str], layers: int
) -> PartitionPlan:
    """Apply the config to a model. A weight with an adapter is not trained itself.

    Args:
      config: names parameters as in parameter_names.py.
      logical_axes: logical axes of all parameters, by path ('blocks/attention/query': 'NDHK').
      layers: number of layers of the model.

    Raises:
      UserError: a name matches nothing, or nothing would be trained.
    """
    adapted = lora.select_targets(logical_axes, config.targets, layers) if config.rank else {}
    names = ['*']
    if config.train or config.rank:
        # A task's head begins with random values, so it is always trained.
        has_head = any(path.startswith(f'{HEAD_NAME}/') for path in logical_axes)
        names = [*config.train, *([HEAD_NAME] if has_head else [])]
    trainable = subtract_selection(
        select_parameters(logical_axes, names, layers, 'finetune.train'),
        select_parameters(logical_axes, config.freeze, layers, 'finetune.freeze'),
    )
    trainable = {path: selected for path, selected in trainable.items() if path not in adapted}
    config_fields.require(
        bool(trainable or adapted),
        'finetune.freeze',
        'must leave a trainable parameter, got none; freeze less',
    )
    scale = 0.0
    if config.rank:
        scale = lora.lora_scale(config.rank, config.alpha, config.rank_stabilized)
    return PartitionPlan(trainable, adapted, logical_axes, layers, config.rank, scale)


def partition(params: Any, plan: PartitionPlan, key: jax.Array) -> PartitionedParams:
    """Partition the parameters, with new adapters drawn from `key`."""
    flat = flatten_dict(params, sep='/')
    adapters = lora.init_adapters(params, plan.logical_axes, plan.adapted, plan.rank, key)
    return _partition(
        plan,
        leaf=flat.__getitem__,
        adapter=adapters.__getitem__,
        base=lambda path: lora.make_base(flat[path], plan.logical_axes[path], plan.scale),
        take_layers=lambda stack, layers: jnp.stack([stack[n] for n in layers]),
    )


def partition_logical_axes(plan: PartitionPlan) -> PartitionedParams:
    """Return the logical axes of every leaf of the partitioned parameters."""
    logical_axes = plan.logical_axes
    return _partition(
        plan,
        leaf=logical_axes.__getitem__,
        adapter=lambda path: Adapter(*adapter_letters(logical_axes[path])),
        base=lambda path: BaseWeight(
            logical_axes[path], 'N' if logical_axes[path].startswith('N') else ''
        ),
        take_layers=lambda letters, _: letters,
    )


def make_trainable_multipliers(
    plan: PartitionPlan, values: Mapping[str, Any], adapters: Mapping[str, Any]
) -> Any:
    """Return a tree like the trainable one, with an optimizer's multiplier for each leaf.

    Args:
      plan: the plan of the partition.
      values: multipliers of the parameters that are trained themselves, by path: a number, or an
        array with one for each layer of a stack.
      adapters: multipliers of both factors of an adapter, by path.
    """

    def align(value: Any, ndim: int) -> Any:
        """Add dimensions, so that [layers] broadcasts against a stack."""
        return value if jnp.ndim(value) == 0 else value.reshape(-1, *[1] * (ndim - 1))

    def make_adapter(path: str) -> Adapter:
        a_letters, b_letters = adapter_letters(plan.logical_axes[path])
        value = adapters[path]
        return Adapter(align(value, len(a_letters)), align(value, len(b_letters)))

    return _partition(
        plan,
        leaf=lambda path: align(values[path], len(plan.logical_axes[path])),
        adapter=make_adapter,
        base=lambda _: None,
        take_layers=lambda value, layers: value if jnp.ndim(value) == 0 else value[list(layers)],
    ).trainable


def _partition(
    plan: PartitionPlan,
    *,
    leaf: Callable[[str], Any],
    adapter: Callable[[str], Any],
    base: Callable[[str], Any],
    take_layers: Callable[[Any, tuple[int, ...]], Any],
) -> PartitionedParams:
    """Build both trees from functions of a path; `take_layers` selects from the leaf of a stack."""
    trainable: dict[str, Any] = {}
    frozen: dict[str, Any] = {}
    for path in plan.logical_axes:
        layers = plan.split_layers(path)
        if path in plan.adapted:
            trainable[path], frozen[path] = adapter(path), base(path)
        elif layers is not None:
            trainable[path], frozen[path] = (
                LayerSubset(take_layers(leaf(path), subset), subset) for subset in layers
            )
        elif path in plan.trainable:
            trainable[path] = leaf(path)
        else:
            frozen[path] = leaf(path)
    return PartitionedParams(
        unflatten_dict(trainable, sep='/'), unflatten_dict(frozen, sep='/') if frozen else None
    )


def combine(
    params: PartitionedParams,
    dropout: float = 0.0,
    merge_layers: Callable[[LayerSubset, LayerSubset], Any] | None = None,
) -> Any:
    """Combine both trees into the model's parameters; layers stay stacked or unstacked.

    Args:
      params: both trees.
      dropout: dropout rate of the adapters; above 0, the model needs a Flax rng 'dropout'.
      merge_layers: makes a stack from its two subsets; None: `interleave`.
    """
    merge_layers = merge_layers or interleave

    def combine_nodes(trainable: Any, frozen: Any) -> Any:
        if trainable is None or frozen is None:
            return frozen if trainable is None else trainable
        if isinstance(trainable, Adapter):
            return AdaptedWeight(
                frozen.w, trainable.a, trainable.b, frozen.scale, key=None, rate=dropout
            )
        if isinstance(trainable, LayerSubset):
            return merge_layers(trainable, frozen)
        return {
            name: combine_nodes(trainable.get(name), frozen.get(name))
            for name in {**trainable, **frozen}
        }

    return combine_nodes(params.trainable, params.frozen)


def interleave(first: LayerSubset, second: LayerSubset) -> jax.Array:
    """Merge two subsets into the whole stack, as a concatenation of as few slices as possible."""
    layers = range(len(first.layers) + len(second.layers))
    slices = []
    for is_first, group in groupby(layers, lambda n: n in first.layers):
        run, source = list(group), first if is_first else second
        begin = source.layers.index(run[0])
        slices.append(source.value[begin : begin + len(run)])
    return jnp.concatenate(slices)


def unstack(tree: Any, layers: int) -> Any:
    """Turn the stacks of a trainable or frozen tree into one tree per layer: block_0, block_1, ...

    The result has the form of `unstack_layers` in model/gpt.py.
    """
    if tree is None or 'blocks' not in tree:
        return tree
    result = {name: part for name, part in tree.items() if name != 'blocks'}
    for n in range(layers):
        block = _take_layer(tree['blocks'], n)
        if block is not None:
            result[f'block_{n}'] = block
    return result


def _take_layer(node: Any, n: int) -> Any:
    """Take layer `n` of every stack below a node; None if no stack has it."""
    if isinstance(node, LayerSubset):
        return node.value[node.layers.index(n)] if n in node.layers else None
    if isinstance(node, dict):
        parts = {name: _take_layer(part, n) for name, part in node.items()}
        return {name: part for name, part in parts.items() if part is not None} or None
    return jax.tree.map(lambda a: a[n], node)


def stack(tree: Any, layers: int, like: Any) -> Any:
    """Invert `unstack`.

    Args:
      tree: the result of `unstack`.
      layers: number of layers of the model.
      like: a tree with the structure before `unstack`; None: that of all the model's parameters.
    """
    like = {'blocks': tree['block_0']} if like is None else like
    if 'blocks' not in like:
        return tree
    blocks = [tree.get(f'block_{n}') for n in range(layers)]
    rest = {name: part for name, part in tree.items() if not name.startswith('block_')}
    return rest | {'blocks': _stack_nodes(like['blocks'], blocks)}


def _stack_nodes(like: Any, blocks: list[Any]) -> Any:
    if isinstance(like, LayerSubset):
        return LayerSubset(jnp.stack([blocks[n] for n in like.layers]), like.layers)
    if isinstance(like, dict):
        return {
            name: _stack_nodes(part, [block and block.get(name) for block in blocks])
            for name, part in like.items()
        }
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
