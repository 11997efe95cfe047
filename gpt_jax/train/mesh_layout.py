"""Layout of a run on its devices: mesh, parameter shardings, collectives, rows of the batch."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core import config_fields
from gpt_jax.core.config import AUTO, MESH_AXES, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.finetune.partition import PartitionedParams
from gpt_jax.model.context_parallel import sequence_order
from gpt_jax.parallel.axis_group import AxisGroup
from gpt_jax.parallel.mesh import DivisibilityConstraints, MemoryBudget, choose_mesh, make_mesh
from gpt_jax.parallel.rules import LOGICAL_AXIS_RULES, STRATEGIES, Strategy
from gpt_jax.parallel.sharding import (
    ShardingPolicy,
    axis_group,
    count_devices,
    make_manual_policy,
    partition_spec,
    storage_axes,
)
from gpt_jax.train.step import StepSharding

# During training: a parameter, its gradient and two moments, each in float32.
STATE_BYTES_PER_PARAMETER = 16


class MeshLayout(NamedTuple):
    """A mesh and how a run uses it.

    reason: why this mesh was chosen, in a sentence; '' if the config gives the mesh.
    context_parallel: how attention is computed if several devices share a sequence.
    batch_shards: number of devices with different rows of the batch.
    microbatches: parts into which the step splits a device's rows; 1 with a pipeline, which splits
      them inside the model.
    microbatch_rows: rows that a pipeline stage processes at a time.
    """

    mesh: Mesh
    strategy: Strategy
    reason: str
    context_parallel: str
    batch_shards: int
    microbatches: int
    microbatch_rows: int


def make_mesh_layout(
    config: MeshConfig,
    model: ModelConfig,
    train: TrainConfig,
    parameters: int,
    devices: Sequence[Any] | None = None,
) -> MeshLayout:
    """Make the mesh, or choose one if the strategy is 'auto'.

    Args:
      config: the section `mesh`.
      model: for the dimensions that the mesh must divide.
      train: for the batch sizes.
      parameters: number of the model's parameters; used by 'auto' only.
      devices: None: all devices.

    Raises:
      UserError: the mesh does not fit; names the field and the nearest mesh that fits.
    """
    constraints, reason = make_divisibility_constraints(model, train), ''
    if config.strategy == AUTO:
        available = jax.devices() if devices is None else devices
        budget = MemoryBudget(
            state_bytes=STATE_BYTES_PER_PARAMETER * parameters,
            device_bytes=_read_device_memory(available[0]),
        )
        config, reason = choose_mesh(config, constraints, budget, len(available))
    mesh = make_mesh(config, constraints, devices)
    _check_context_parallel(config, model, mesh)
    batch_shards, stages = count_devices(LOGICAL_AXIS_RULES['B'], mesh), mesh.shape['pipeline']
    return MeshLayout(
        mesh,
        STRATEGIES[config.strategy],
        reason,
        config.context_parallel,
        batch_shards,
        microbatches=1 if stages > 1 else train.microbatches(batch_shards),
        microbatch_rows=_choose_microbatch_rows(train, batch_shards, stages),
    )


def make_divisibility_constraints(
    model: ModelConfig, train: TrainConfig
) -> DivisibilityConstraints:
    """List the sizes that the mesh must divide; the vocabulary only if it is known (above 1)."""
    dim_sizes = {
        'H': model.heads,
        'G': model.kv_heads,
        'F': model.mlp_width,
        'U': model.dims['U'],
        'E': model.experts,
        'N': model.layers,
        'L': model.context,
        'V': model.dims['V'] if model.vocab_size > 1 else 0,
    }
    return DivisibilityConstraints(
        batch_sizes={
            'train.batch_size': train.batch_size,
            'train.eval_batch_size': train.evaluation_batch_size,
        },
        dim_sizes={letter: size for letter, size in dim_sizes.items() if size},
    )


def _read_device_memory(device: Any) -> int:
    """Return the device's memory in bytes; 0 for a CPU, which shares the host's memory."""
    if device.platform == 'cpu':
        return 0
    return int((device.memory_stats() or {}).get('bytes_limit', 0))


def _check_context_parallel(config: MeshConfig, model: ModelConfig, mesh: Mesh) -> None:
    context, tensor = mesh.shape['context'], mesh.shape['tensor']
    if config.context_parallel == 'ring' and context > 1:
        config_fields.require(
            model.attention_kernel == 'chunked',
            'mesh.context_parallel',
            'must be all_to_all unless model.attention_kernel is chunked, got ring with '
            f'{model.attention_kernel}; ring attention has its own kernel',
        )
    if config.context_parallel == 'all_to_all':
        heads, groups = model.heads // tensor, max(1, model.kv_heads // tensor)
        config_fields.require(
            heads % context == 0 and (groups % context == 0 or context % groups == 0),
            'mesh.context_parallel',
            f'must be ring if the {context} devices of mesh.context do not divide the {heads} '
            f'heads and {groups} key/value heads of a device, got all_to_all',
        )


def _choose_microbatch_rows(train: TrainConfig, batch_shards: int, stages: int) -> int:
    """Choose the rows of a pipeline's microbatch; by default, four microbatches per stage."""
    rows = train.batch_size // batch_shards * stages
    preferred = train.microbatch_size or max(1, rows // (4 * stages))
    small = [n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0]
    divisors = [*small, *(rows // n for n in small)]
    return max(n for n in divisors if n <= preferred)


def make_sharding_policy(layout: MeshLayout) -> ShardingPolicy:
    """Make the sharding policy of the model inside a step."""
    return make_manual_policy(
        layout.strategy, layout.mesh, layout.context_parallel, layout.microbatch_rows
    )


def make_step_sharding(
    layout: MeshLayout, abstract: PartitionedParams, logical_axes: PartitionedParams
) -> StepSharding | None:
    """Distribute a step over the mesh; None on a single device.

    Args:
      layout: the run's layout.
      abstract: shapes of the parameters.
      logical_axes: logical axes of the parameters, as letters.
    """
    mesh, strategy = layout.mesh, layout.strategy
    if mesh.size == 1:
        return None
    shapes = jax.tree.map(lambda a: a.shape, abstract, is_leaf=lambda a: hasattr(a, 'shape'))
    # A tuple for each parameter: the mesh axes that shard each of its dimensions.
    stored_axes = jax.tree.map(
        lambda letters, shape: storage_axes(letters, shape, strategy, mesh),
        logical_axes,
        shapes,
        is_leaf=lambda node: isinstance(node, str),
    )
    # A strategy that gathers per layer gathers and scatters inside the model.
    gather_at_once = strategy.shard_axes and not strategy.gather_per_layer

    def gather_params(shards: PartitionedParams) -> PartitionedParams:
        if not gather_at_once:
            return shards
        gather = lambda shard, axes: _apply_collective(
            AxisGroup.all_gather, shard, axes, strategy, mesh
        )
        return jax.tree.map(gather, shards, stored_axes)

    def reduce_gradients(gradients: Any) -> Any:
        if gather_at_once:
            scatter = lambda gradient, axes: _apply_collective(
                AxisGroup.reduce_scatter, gradient, axes, strategy, mesh
            )
            gradients = jax.tree.map(scatter, gradients, stored_axes.trainable)
        return _sum_over_replicas(gradients, stored_axes.trainable, mesh)

    return StepSharding(
        mesh=mesh,
        param_specs=jax.tree.map(
            partition_spec, stored_axes, is_leaf=lambda node: isinstance(node, tuple)
        ),
        batch_spec=make_batch_spec(mesh),
        gather_params=gather_params,
        reduce_gradients=reduce_gradients,
        token_group=axis_group('BL', mesh),
        device_group=AxisGroup(_list_used_axes(mesh), mesh.size),
    )


def _apply_collective(
    collective: Callable[[AxisGroup, jax.Array, int], jax.Array],
    array: jax.Array,
    axes_by_dim: Sequence[tuple[str, ...]],
    strategy: Strategy,
    mesh: Mesh,
) -> jax.Array:
    """Apply all_gather or reduce_scatter along the dimension that the strategy shards, if any."""
    for dim, axes in enumerate(axes_by_dim):
        shard_axes = tuple(axis for axis in axes if axis in strategy.shard_axes)
        if shard_axes:
            return collective(AxisGroup(shard_axes, count_devices(shard_axes, mesh)), array, dim)
    return array


def _sum_over_replicas(gradients: Any, stored_axes: Any, mesh: Mesh) -> Any:
    """Sum each gradient over the devices that have the same shard of its parameter."""
    leaves, structure = jax.tree.flatten(gradients)
    axes_by_leaf: Any = structure.flatten_up_to(stored_axes)  # type: ignore[attr-defined]
    replica_axes = [
        tuple(axis for axis in _list_used_axes(mesh) if axis not in sum(axes_by_dim, ()))
        for axes_by_dim in axes_by_leaf
    ]
    # One collective for all leaves that are summed over the same devices.
    for axes in dict.fromkeys(replica_axes):
        indices = [n for n, leaf_axes in enumerate(replica_axes) if leaf_axes == axes]
        group = AxisGroup(axes, count_devices(axes, mesh))
        totals = group.sum([leaves[n] for n in indices])
        for n, total in zip(indices, totals, strict=True):
            leaves[n] = total
    return jax.tree.unflatten(structure, leaves)


def _list_used_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in MESH_AXES if mesh.shape[axis] > 1)


def add_shardings(abstract: Any, shardings: Any) -> Any:
    """Add shardings to a tree of shapes and dtypes."""
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def make_batch_spec(mesh: Mesh) -> PartitionSpec:
    """Make the PartitionSpec of tokens [B, L]."""
    return PartitionSpec(axis_group('B', mesh).axes or None, axis_group('L', mesh).axes or None)


def find_batch_shard(mesh: Mesh) -> tuple[int, int]:
    """Find which part of the batch's rows this process reads: (index, number of parts)."""
    return find_process_batch_shard(mesh, jax.process_index())


def find_process_batch_shard(mesh: Mesh, process: int) -> tuple[int, int]:
    """Find which part of the batch's rows a process reads: (index, number of parts).

    Several processes read the same rows if another axis of the mesh extends over them.

    Raises:
      UserError: the rows of the process are not contiguous.
    """
    batch_axes = [MESH_AXES.index(axis) for axis in LOGICAL_AXIS_RULES['B']]
    other_axes = [n for n in range(len(MESH_AXES)) if n not in batch_axes]
    shard_count = count_devices(LOGICAL_AXIS_RULES['B'], mesh)
    devices = np.transpose(mesh.devices, (*batch_axes, *other_axes)).reshape(shard_count, -1)
    own_shards = [
        n
        for n, replicas in enumerate(devices)
        if any(device.process_index == process for device in replicas)
    ]
    own_count = len(own_shards)
    index = own_shards[0] // own_count
    contiguous = list(range(index * own_count, (index + 1) * own_count))
    config_fields.require(
        shard_count % own_count == 0 and own_shards == contiguous,
        'mesh',
        'the devices of one process must have contiguous rows of the batch; put the axes that '
        'share rows last',
    )
    return index, shard_count // own_count


# Batch fields of `score_tokens` that have one entry per scored token instead of one per position.
QUERY_FIELDS = ('query_positions', 'query_tokens')


def shard_batches(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, context_parallel: str
) -> Iterator[dict[str, jax.Array]]:
    """Yield this process's rows as global arrays.

    If several devices share a sequence, its positions are permuted to the order in which the
    devices hold them, and the field 'positions' says where each one belongs.
    """
    sharding, context = NamedSharding(mesh, make_batch_spec(mesh)), mesh.shape['context']
    _, parts = find_batch_shard(mesh)
    for batch in batches:
        rows, length = batch['inputs'].shape
        if context > 1:
            batch = _permute_positions(batch, sequence_order(length, context, context_parallel))
        yield {
            name: jax.make_array_from_process_local_data(
                sharding, array, (rows * parts, array.shape[1])
            )
            for name, array in batch.items()
        }


def _permute_positions(batch: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    """Reorder each sequence: index i of the result is position `order[i]`."""
    inputs = batch['inputs']
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    permuted = {
        name: array if name in QUERY_FIELDS else array[:, order]
        for name, array in ({'positions': positions} | batch).items()
    }
    if 'query_positions' in permuted:
        inverse = np.argsort(order).astype(np.int32)
        permuted['query_positions'] = inverse[permuted['query_positions']]
    return permuted
