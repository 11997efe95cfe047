"""Partition of the parameters into a trainable and a frozen tree, and the optimizer of one.

Full training, frozen parts and adapters are treated alike: the optimizer sees the trainable tree,
and `combine` makes the model's parameters from both. If everything is trained, the trainable tree
holds the parameters and the frozen one is None. Otherwise

    a parameter                       is in one of the trees
    a partly frozen stack of layers   is in both, as a `LayerSubset` each
    a weight with an adapter          is an `Adapter` in the trainable tree, and a `BaseWeight` in
                                      the frozen one
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax.core import config_fields, parametrization
from gpt_jax.core.config import FinetuneConfig, ModelConfig, OptimizerConfig
from gpt_jax.core.parametrization import OptimizerMultipliers
from gpt_jax.finetune import lora
from gpt_jax.finetune.heads import HEAD_NAME
from gpt_jax.finetune.parameter_names import (
    ParameterSelection,
    select_parameters,
    subtract_selection,
)
from gpt_jax.model import weights
from gpt_jax.model.low_rank import AdaptedWeight, Adapter, BaseWeight, adapter_letters
from gpt_jax.optim.optimizers import make_optimizer
from gpt_jax.optim.transforms import scale_learning_rates


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
      config: names parameters as in parameter_names.py; its defaults are in core/config.py.
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


# Random stream of the adapters' initial values. The seed's key is folded with 0 for the model's
# initial values and with the step for dropout, which are smaller numbers.
ADAPTER_STREAM = 2**31
INPUT_MODULES = ('embedding', 'position')  # before the first layer


class Partitioner:
    """Partitions a run's parameters into trainable and frozen ones, and makes the optimizer.

    abstract: shapes and dtypes of both parts.
    logical_axes: logical axes of both parts.
    combined_abstract, combined_axes: the same for the result of `combine`.
    """

    def __init__(self, config: FinetuneConfig, model: ModelConfig, boxed: Any, seed: int):
        """Apply the config to a model.

        Args:
          config: the section `finetune`.
          model: the model section.
          boxed: the declared parameters, abstract, including the head of a task.
          seed: determines the adapters' initial values.

        Raises:
          UserError: a name of the config matches no parameter, or nothing would be trained.
        """
        self._config, self._seed = config, seed
        logical_axes = flatten_dict(weights.logical_axes(boxed), sep='/')
        self._plan = plan_partition(config, logical_axes, model.layers)
        self._multipliers = parametrization.optimizer_multipliers(weights.param_roles(boxed), model)

        self.abstract: PartitionedParams = jax.eval_shape(self.partition, weights.unbox(boxed))
        self.logical_axes = partition_logical_axes(self._plan)
        self.combined_abstract = jax.eval_shape(self.combine, self.abstract)
        self.combined_axes = combine(self.logical_axes, merge_layers=lambda first, _: first.value)

    def partition(self, params: Any) -> PartitionedParams:
        """Partition the model's parameters, with new adapters."""
        key = jax.random.fold_in(jax.random.key(self._seed), ADAPTER_STREAM)
        return partition(params, self._plan, key)

    def combine(self, params: PartitionedParams) -> Any:
        """Combine both parts into the model's parameters, for evaluation."""
        return combine(params)

    def combine_with_dropout(self, params: PartitionedParams) -> Any:
        """Combine both parts in the form that the loss takes, for training."""
        return combine(params, self._config.dropout)

    def make_optimizer(
        self, config: OptimizerConfig, steps: int, peak: float | jax.Array | None = None
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Make the optimizer of the trainable part; arguments as in optim/optimizers.py.

        All multipliers of adapters are 1, so they decay like matrices.
        """
        plan, ones = self._plan, dict.fromkeys(self._plan.adapted, 1.0)
        params_info = OptimizerMultipliers(
            *(
                make_trainable_multipliers(plan, flatten_dict(tree, sep='/'), ones)
                for tree in self._multipliers
            )
        )
        optimizer, schedule = make_optimizer(config, params_info, steps, peak)
        if self._config.layer_decay < 1:
            decay = make_layer_multipliers(plan.logical_axes, plan.layers, self._config.layer_decay)
            optimizer = scale_learning_rates(
                optimizer, make_trainable_multipliers(plan, decay, decay)
            )
        return optimizer, schedule

    def check_pipeline(self, stages: int) -> None:
        """Raise UserError if the stages of a pipeline would split a stack that is partly frozen."""
        split_stacks = self._plan.split_stacks
        config_fields.require(
            stages == 1 or not split_stacks,
            'mesh.pipeline',
            f'must be 1 if only some layers of {", ".join(split_stacks[:1])} are trained, got '
            f'{stages}; mesh.fsdp also distributes parameters',
        )


def make_layer_multipliers(paths: Iterable[str], layers: int, decay: float) -> dict[str, Any]:
    """Make multipliers of the learning rate for layer-wise decay: lower layers learn more slowly.

    With L layers, the multiplier is decay^(L - l) for layer l (from 0), decay^(L + 1) for the
    embedding and positions before the layers, and 1 after them (the last norm, a head); as in Clark
    et al. 2020 (ELECTRA, appendix B) and Bao et al. 2022 (BEiT), after Howard and Ruder 2018.

    Returns:
      By path, a number, or float32 [N] for a stack of layers.
    """
    layer_multipliers = np.float32(decay) ** np.arange(layers, 0, -1, dtype=np.float32)

    def multiplier(path: str) -> Any:
        module = path.split('/')[0]
        if decay == 1 or (module != 'blocks' and module not in INPUT_MODULES):
            return 1.0
        return layer_multipliers if module == 'blocks' else decay ** (layers + 1)

    return {path: multiplier(path) for path in paths}
