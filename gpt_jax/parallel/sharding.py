"""Sharding of activations and weights, from their letters and the tables of rules.py.

A training step is one program per device inside shard_map (`make_manual_policy`): each device holds
its shards and calls the collectives itself. Inference is one program that XLA partitions
(`make_constraint_policy`).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core.config import MESH_AXES
from gpt_jax.parallel.axis_group import SINGLE_DEVICE, AxisGroup
from gpt_jax.parallel.rules import LOGICAL_AXIS_RULES, SHARDED_DIMS, Strategy

GATHERED = 'gathered'  # checkpoint_name of gathered weights, which the backward pass gathers again


class ShardingPolicy(NamedTuple):
    """How a model shards its tensors, without naming a mesh axis.

    activation: (tensor, its letters) -> the tensor, with its sharding constrained.
    weight: (stored shard, its letters, the global shape, the dtype of the product) -> the part that
      this device computes with.
    shard_map_block: turns a function (tensor [B, ...], weights) -> (tensor [B, ...], scalars) into
      one that each device runs on its own rows of the batch; the scalars are averaged.
    group: letters -> the devices over which any of these dims is sharded.
    remat_policy: what may be stored for the backward pass, as a policy of jax.checkpoint:
      everything except gathered weights, which would otherwise be stored for all layers at once.
      None: everything.
    context_parallel: how attention crosses devices that share a sequence; a value of
      mesh.context_parallel.
    microbatch_rows: rows of the batch that a pipeline stage processes at a time.
    """

    activation: Callable[[jax.Array, str], jax.Array]
    weight: Callable[[jax.Array, str, tuple[int, ...], Any], jax.Array]
    shard_map_block: Callable[[Callable[..., Any]], Callable[..., Any]]
    group: Callable[[str], AxisGroup]
    remat_policy: Callable[..., bool] | None
    context_parallel: str
    microbatch_rows: int


UNSHARDED = ShardingPolicy(
    activation=lambda tensor, _letters: tensor,
    weight=lambda shard, _letters, _shape, _dtype: shard,
    shard_map_block=lambda function: function,
    group=lambda _letters: SINGLE_DEVICE,
    remat_policy=None,
    context_parallel='',
    microbatch_rows=0,
)


# Letters to mesh axes


def axis_group(letters: str, mesh: Mesh) -> AxisGroup:
    """Return the devices over which any of the dims is sharded."""
    sharding_axes = {axis for letter in letters for axis in LOGICAL_AXIS_RULES.get(letter, ())}
    axes = tuple(axis for axis in MESH_AXES if axis in sharding_axes and mesh.shape[axis] > 1)
    return AxisGroup(axes, count_devices(axes, mesh))


def count_devices(axes: Sequence[str], mesh: Mesh) -> int:
    """Return the number of devices along these axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def storage_axes(
    letters: str, shape: Sequence[int], strategy: Strategy, mesh: Mesh
) -> tuple[tuple[str, ...], ...]:
    """Return the mesh axes that shard each dim of a stored weight, the slowest first."""
    dim_axes = _rule_axes(letters, shape, mesh)
    shard_axes = tuple(axis for axis in strategy.shard_axes if mesh.shape[axis] > 1)
    is_matrix = len(set(letters) - {'N', 'K'}) > 1
    if shard_axes and is_matrix:
        for letter in SHARDED_DIMS:
            dim = letters.find(letter)
            if dim >= 0 and shape[dim] % count_devices((*dim_axes[dim], *shard_axes), mesh) == 0:
                dim_axes[dim] = (*dim_axes[dim], *shard_axes)
                break
    return tuple(dim_axes)


def _rule_axes(letters: str, shape: Sequence[int], mesh: Mesh) -> list[tuple[str, ...]]:
    """Return the axes that LOGICAL_AXIS_RULES give each dim; none if they do not divide it."""

    def axes_of(letter: str, size: int) -> tuple[str, ...]:
        if letter == 'L':  # every device may need any row of a position table
            return ()
        axes = tuple(a for a in LOGICAL_AXIS_RULES.get(letter, ()) if mesh.shape[a] > 1)
        return axes if size % count_devices(axes, mesh) == 0 else ()

    return [axes_of(letter, size) for letter, size in zip(letters, shape, strict=True)]


def partition_spec(dim_axes: Sequence[tuple[str, ...]]) -> PartitionSpec:
    """Return the PartitionSpec of a tensor whose dims are sharded over these axes."""
    return PartitionSpec(*(axes or None for axes in dim_axes))


def param_shardings(abstract: Any, letters: Any, strategy: Strategy, mesh: Mesh) -> Any:
    """Return the shardings of stored weights, or of other arrays of the same shapes.

    Args:
      abstract: a tree of arrays or their abstract shapes.
      letters: the tree of their letters.
      strategy: how they are stored.
      mesh: the run's mesh.
    """

    def sharding(leaf: Any, letters: str) -> NamedSharding:
        dim_axes = storage_axes(letters, leaf.shape, strategy, mesh)
        return NamedSharding(mesh, partition_spec(dim_axes))

    return jax.tree.map(sharding, abstract, letters)


# The policy of a training step


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _all_gather_cast(shard: jax.Array, group: AxisGroup, dim: int, dtype: Any) -> jax.Array:
    """Gather a weight in `dtype`; its gradient is summed in float32."""
    return group.all_gather(shard.astype(dtype), dim)


def _all_gather_forward(
    shard: jax.Array, group: AxisGroup, dim: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    # Not a call of `_all_gather_cast`: a rematerialization policy does not see inside a function
    # with a custom gradient.
    return group.all_gather(shard.astype(dtype), dim), jnp.zeros(0, shard.dtype)


def _all_gather_backward(
    group: AxisGroup, dim: int, dtype: Any, empty: jax.Array, dw: jax.Array
) -> tuple[jax.Array]:
    del dtype
    return (group.reduce_scatter(dw.astype(jnp.float32), dim).astype(empty.dtype),)


_all_gather_cast.defvjp(_all_gather_forward, _all_gather_backward)


def make_manual_policy(
    strategy: Strategy, mesh: Mesh, context_parallel: str, microbatch_rows: int
) -> ShardingPolicy:
    """Make the policy of one device's program, inside shard_map over the whole mesh.

    Args:
      strategy: how weights are stored.
      mesh: the run's mesh.
      context_parallel, microbatch_rows: as in `ShardingPolicy`.
    """
    if mesh.size == 1:
        return UNSHARDED
    shard_axes = tuple(axis for axis in strategy.shard_axes if mesh.shape[axis] > 1)

    def remat_policy(primitive: Any, *_: Any, **parameters: Any) -> bool:
        is_gather = primitive.name == 'all_gather' and parameters['axis_name'] == shard_axes
        return not is_gather and parameters.get('name') != GATHERED

    def gather_weight(
        shard: jax.Array, letters: str, shape: tuple[int, ...], dtype: Any
    ) -> jax.Array:
        """Undo the strategy's sharding, but not that of LOGICAL_AXIS_RULES."""
        for dim, axes in enumerate(storage_axes(letters, shape, strategy, mesh)):
            gathered_axes = tuple(axis for axis in axes if axis in strategy.shard_axes)
            if gathered_axes:
                group = AxisGroup(gathered_axes, count_devices(gathered_axes, mesh))
                return checkpoint_name(_all_gather_cast(shard, group, dim, dtype), GATHERED)
        return shard

    policy = UNSHARDED._replace(
        group=lambda letters: axis_group(letters, mesh),
        context_parallel=context_parallel,
        microbatch_rows=microbatch_rows,
    )
    if strategy.gather_per_layer and shard_axes:
        policy = policy._replace(weight=gather_weight, remat_policy=remat_policy)
    return policy


# The policy of inference


def make_constraint_policy(mesh: Mesh) -> ShardingPolicy:
    """Make the policy of a program that XLA partitions: constraints on every tensor."""
    if mesh.size == 1:
        return UNSHARDED

    def constrain(tensor: jax.Array, letters: str, shape: Sequence[int]) -> jax.Array:
        spec = partition_spec(_rule_axes(letters, shape, mesh))
        return jax.lax.with_sharding_constraint(tensor, NamedSharding(mesh, spec))

    def shard_map_block(function: Callable[..., Any]) -> Callable[..., Any]:
        group = axis_group('B', mesh)

        def run_on_shard(rows: jax.Array, weights: Any) -> Any:
            activations, scalars = function(rows, weights)
            return activations, group.mean(scalars)

        def run(rows: jax.Array, weights: Any) -> Any:
            if rows.shape[0] % group.size or not group.axes:
                return function(rows, weights)
            sharded, replicated = PartitionSpec(group.axes), PartitionSpec()
            return jax.shard_map(
                run_on_shard,
                mesh=mesh,
                in_specs=(sharded, replicated),
                out_specs=(sharded, replicated),
                axis_names=set(group.axes),
                check_vma=False,
            )(rows, weights)

        return run

    return UNSHARDED._replace(
        activation=lambda tensor, letters: constrain(tensor, letters, tensor.shape),
        weight=lambda shard, letters, shape, _dtype: constrain(shard, letters, shape),
        shard_map_block=shard_map_block,
    )
