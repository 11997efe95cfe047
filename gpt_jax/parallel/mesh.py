"""Device meshes: axis sizes from the config, divisibility checks, and automatic choice."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from gpt_jax.core import config_fields
from gpt_jax.core.config import MESH_AXES, MeshConfig
from gpt_jax.core.errors import UserError
from gpt_jax.parallel.rules import LOGICAL_AXIS_RULES

Sizes = dict[str, int]  # the size of every axis of MESH_AXES


class DivisibilityConstraints(NamedTuple):
    """What a mesh must divide.

    batch_sizes: batch sizes in sequences, by config field.
    dim_sizes: sizes of the dims H, G, F, U, V, E, N and L, as far as the model has them, by letter.
    """

    batch_sizes: Mapping[str, int]
    dim_sizes: Mapping[str, int]


class MemoryBudget(NamedTuple):
    """The memory that `choose_mesh` considers, in bytes.

    state_bytes: the whole training state.
    device_bytes: the memory of one device; 0: unknown.
    """

    state_bytes: int
    device_bytes: int


_DIM_FIELDS = {
    'H': 'model.heads',
    'G': 'model.kv_heads',
    'F': 'model.mlp_width',
    'U': 'model.shared_experts x mlp_width',
    'V': 'the vocabulary (model.vocab_multiple pads it)',
    'E': 'model.experts',
    'N': 'model.layers',
    'L': 'model.context',
}


def make_mesh(
    config: MeshConfig, constraints: DivisibilityConstraints, devices: Sequence[Any] | None = None
) -> Mesh:
    """Make the mesh over this run's devices.

    An automatic axis (size 0) takes all devices that the others leave; in a single process, the
    largest number of them that meets the constraints.

    Args:
      config: the mesh section.
      constraints: what the mesh must divide.
      devices: the run's devices; None: all.

    Raises:
      UserError: as in `resolve_axis_sizes`.
    """
    may_omit = devices is None and jax.process_count() == 1
    devices = jax.devices() if devices is None else list(devices)
    sizes = resolve_axis_sizes(config, constraints, len(devices), may_omit)
    total = math.prod(sizes.values())
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(_arrange_devices(sizes, devices[:total]), MESH_AXES, axis_types=axis_types)


def resolve_axis_sizes(
    config: MeshConfig, constraints: DivisibilityConstraints, count: int, may_omit: bool = False
) -> Sizes:
    """Return the sizes of the axes over `count` devices.

    Args:
      config: the mesh section.
      constraints: what the mesh must divide.
      count: number of devices.
      may_omit: whether devices may be left out to meet the constraints.

    Raises:
      UserError: the product of the axes is not the number of devices, or the axes do not divide
        what they shard; suggests the nearest mesh that works.
    """
    sizes = _fill_automatic_axis(config, constraints, count, may_omit)
    if violation := _find_violation(sizes, constraints):
        field, message = violation
        raise UserError(
            f'config.{field}: {message}{_suggest_mesh(sizes, constraints, count, may_omit)}'
        )
    total = math.prod(sizes.values())
    config_fields.require(
        config.strategy != 'fsdp' or sizes['fsdp'] > 1 or total == 1,
        'mesh.fsdp',
        f'must be above 1 to shard weights over the {total} devices with strategy fsdp, got 1; '
        '--config.mesh.data=1 --config.mesh.fsdp=0 uses all of them',
    )
    config_fields.require(
        config.strategy != 'replicated' or sizes['fsdp'] == 1,
        'mesh.fsdp',
        f'must be 1 with strategy replicated, got {sizes["fsdp"]}; '
        '--config.mesh.strategy=fsdp or zero1 shards weights, mesh.data only the batch',
    )
    return sizes


def _fill_automatic_axis(
    config: MeshConfig, constraints: DivisibilityConstraints, count: int, may_omit: bool
) -> Sizes:
    sizes = config.sizes
    automatic = next((axis for axis, size in sizes.items() if size == 0), None)
    fixed = math.prod(max(size, 1) for size in sizes.values())
    exact = count % fixed == 0 if automatic else count == fixed
    if not (count >= fixed if may_omit else exact):
        fixed_sizes = {axis: max(size, 1) for axis, size in sizes.items()}
        product = _format_sizes(sizes) or 'one device'
        suggestion = _suggest_mesh(fixed_sizes, constraints, count, may_omit)
        relation = 'be at most' if may_omit else 'divide' if automatic else 'equal'
        raise UserError(
            f'config.mesh: the product of the axes must {relation} the {count} devices, '
            f'got {product} = {fixed}{suggestion}'
        )
    if automatic:
        largest = count // fixed
        candidates = (
            n
            for n in range(largest, 0, -1)
            if not may_omit or not _find_violation({**sizes, automatic: n}, constraints)
        )
        sizes[automatic] = next(candidates, largest)
    return sizes


def _format_sizes(sizes: Mapping[str, int]) -> str:
    return ' x '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1)


def _find_violation(
    sizes: Mapping[str, int], constraints: DivisibilityConstraints
) -> tuple[str, str] | None:
    """Return the config field and the message of the first constraint that is not met."""
    for letter, size in constraints.dim_sizes.items():
        # The tensor axis also shards the length of the residual stream.
        rule_axes = (*LOGICAL_AXIS_RULES[letter], *(['tensor'] if letter == 'L' else []))
        axes = [axis for axis in rule_axes if sizes[axis] > 1]
        # The ring gives each device two parts of the sequence.
        parts = 2 if letter == 'L' and 'context' in axes else 1
        shards = parts * math.prod(sizes[axis] for axis in axes)
        # If there are fewer key/value heads than devices, several devices may share one.
        shared = letter == 'G' and sizes['tensor'] % size == 0
        if size % shards and not shared:
            product = ' x '.join(f'mesh.{axis} {sizes[axis]}' for axis in axes)
            two_parts = ' with two parts each' if parts == 2 else ''
            message = f'must divide {_DIM_FIELDS[letter]} ({size}), got {product}{two_parts}'
            return f'mesh.{axes[0]}', message
    batch_shards = math.prod(sizes[axis] for axis in LOGICAL_AXIS_RULES['B'])
    for field, batch in constraints.batch_sizes.items():
        if batch % batch_shards:
            nearest = max(1, round(batch / batch_shards)) * batch_shards
            return field, (
                f'must be a multiple of the {batch_shards} devices that share the batch, '
                f'got {batch}; {nearest} works'
            )
    return None


def _suggest_mesh(
    sizes: Mapping[str, int], constraints: DivisibilityConstraints, count: int, may_omit: bool
) -> str:
    """Return '; the nearest mesh that works: FLAGS', or '' if there is none.

    Prefers meshes of all devices; if there is none and devices may be left out, takes as many as
    possible.
    """

    def distance(other: Mapping[str, int]) -> tuple[float, float]:
        changes = {axis: abs(math.log2(other[axis] / sizes[axis])) for axis in MESH_AXES}
        # Of two equally near meshes, the one that leaves the other axes as they are.
        return sum(changes.values()), -changes['data']

    # Only axes that are in use change, and the data axis, which takes any remaining devices.
    axes = [axis for axis in MESH_AXES if sizes[axis] > 1 or axis == 'data']
    candidates: list[Sizes] = []
    for total in range(count, 0 if may_omit else count - 1, -1):
        meshes = _enumerate_meshes(axes, total)
        candidates = [mesh for mesh in meshes if not _find_violation(mesh, constraints)]
        if candidates:
            break
    if not candidates:
        return ''
    best = min(candidates, key=distance)
    changed = [axis for axis in axes if best[axis] != 1 or sizes[axis] != 1]
    flags = ' '.join(f'--config.mesh.{axis}={best[axis]}' for axis in changed)
    return f'; the nearest mesh that works: {flags or "one device"}'


def _enumerate_meshes(axes: Sequence[str], count: int) -> Iterator[Sizes]:
    """Yield every way of splitting `count` devices along these axes."""
    if not axes:
        if count == 1:
            yield dict.fromkeys(MESH_AXES, 1)
        return
    for size in (n for n in range(1, count + 1) if count % n == 0):
        for rest in _enumerate_meshes(axes[1:], count // size):
            yield rest | {axes[0]: size}


def _arrange_devices(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Arrange the devices in an array with one dim per mesh axis.

    On a TPU, neighbors along the last axes are close in the machine's network.
    """
    shape = tuple(sizes[axis] for axis in MESH_AXES)
    if getattr(devices[0], 'platform', '') != 'tpu':
        return np.array(devices).reshape(shape)
    if sizes['dcn'] > 1:
        within_slice = (1, *shape[1:])
        across_slices = (sizes['dcn'], *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(within_slice, across_slices, devices)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def choose_mesh(
    config: MeshConfig, constraints: DivisibilityConstraints, budget: MemoryBudget, count: int
) -> tuple[MeshConfig, str]:
    """Choose a mesh of `count` devices for strategy 'auto'; axes set in the config are kept.

    The simplest mesh that fits is preferred, since each further kind of parallelism adds
    communication. Weights are sharded only as far as needed for the state to take at most half of
    the memory. If the batch has fewer sequences than there are devices, the remaining devices share
    tensors first, and then the length of the sequences.

    Returns:
      The config with the mesh, and one line that explains it.

    Raises:
      UserError: no mesh meets the constraints.
    """
    fixed = {axis: size for axis, size in config.sizes.items() if size > 1}
    free = [axis for axis in ('data', 'fsdp', 'context', 'tensor') if axis not in fixed]
    remaining, remainder = divmod(count, math.prod(fixed.values()))
    meshes = [] if remainder else [sizes | fixed for sizes in _enumerate_meshes(free, remaining)]
    candidates = [sizes for sizes in meshes if not _find_violation(sizes, constraints)]
    given_text = ', '.join(f'{axis} {size}' for axis, size in fixed.items())
    config_fields.require(
        bool(candidates),
        'mesh.strategy',
        f'auto found no mesh of {count} devices{given_text and f" with {given_text}"} for this '
        'batch and model',
    )

    def local_bytes(sizes: Sizes) -> float:
        return budget.state_bytes / (sizes['fsdp'] * sizes['tensor'])

    def complexity(sizes: Sizes) -> tuple[int, ...]:
        return sizes['context'], sizes['tensor'], sizes['fsdp']

    limit = budget.device_bytes / 2 or math.inf
    fitting = [sizes for sizes in candidates if local_bytes(sizes) <= limit]
    if fitting:
        best = min(fitting, key=complexity)
    else:
        best = min(candidates, key=lambda sizes: (local_bytes(sizes), *complexity(sizes)))
    strategy = 'fsdp' if best['fsdp'] > 1 else 'replicated'
    changes: dict[str, Any] = {**best, 'strategy': strategy}
    reasons = '; '.join(_explain_choice(best, budget, bool(fitting)))
    mesh = f'mesh: {strategy}, {_format_sizes(best) or "one device"} ({reasons})'
    return dataclasses.replace(config, **changes), mesh


def _explain_choice(sizes: Sizes, budget: MemoryBudget, fits: bool) -> list[str]:
    reasons = [f'{budget.state_bytes / 1e9:.3g} GB of weights and optimizer state']
    if budget.device_bytes:
        reasons.append(f'{budget.device_bytes / 1e9:.3g} GB per device')
    else:
        reasons.append('unknown device memory')
    state_shards = sizes['fsdp'] * sizes['tensor']
    if not fits:
        reasons.append('sharded as far as possible')
    elif state_shards > 1:
        reasons.append(f'{state_shards} devices share the state')
    else:
        reasons.append('each device holds the whole state')
    if sizes['tensor'] * sizes['context'] > 1:
        reasons.append('fewer sequences than devices, or no other way to fit')
    return reasons
