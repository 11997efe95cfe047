"""Collectives of a compiled program: kind, bytes, replica groups, and time on the interconnect."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.core.hardware import Chip
from gpt_jax.preflight.hlo import (
    Computation,
    ExecutionCounts,
    HloProgram,
    Instruction,
    count_executions,
)

COLLECTIVE_OPCODES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)

# Phases of an asynchronous collective that the TPU compiler emits as fusions.
ASYNC_START = 'AsyncCollectiveStart'
ASYNC_BODY = 'meanwhile'
ASYNC_DONE = 'AsyncCollectiveDone'

HOP_SECONDS = 1e-6  # lower bound of the latency between neighboring chips

ReplicaGroups = tuple[tuple[int, ...], ...]
TorusCoordinates = Sequence[tuple[int, ...]]


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
      kind: one of COLLECTIVE_OPCODES.
      bytes: size of the full array on one device in one execution: the output of an all-gather,
        the input of every other collective.
      wire_bytes: lower bound of the bytes that a device sends in one execution (ring algorithms).
      group_size: number of devices in a group; 1: nothing is sent.
      groups: device numbers of each group; for a permutation, the pairs (source, target).
      executions: number of executions in one run of the program.
      op_name: path of the source operation.
      asynchronous: whether other instructions may run meanwhile.
    """

    name: str
    computation: str
    kind: str
    bytes: int
    wire_bytes: int
    group_size: int
    groups: ReplicaGroups
    executions: int
    op_name: str
    dtype: str
    asynchronous: bool


def find_collectives(
    program: HloProgram, counts: ExecutionCounts | None = None
) -> list[Collective]:
    """Return all collectives of a program, in the order of the text."""
    counts = counts or count_executions(program)
    collectives = []
    for name, executions in counts.executions.items():
        computation = program.computations[name]
        for instruction in computation.instructions:
            kind = collective_kind(instruction)
            if kind is not None and async_phase(computation) in (None, ASYNC_START):
                collectives.append(
                    _make_collective(program, computation, instruction, kind, executions)
                )
    return collectives


def collective_kind(instruction: Instruction) -> str | None:
    """Return one of COLLECTIVE_OPCODES; None for other instructions and for '-done'."""
    kind = instruction.opcode.removesuffix('-start')
    return kind if kind in COLLECTIVE_OPCODES else None


def async_phase(fusion_body: Computation) -> str | None:
    """Return the phase of an asynchronous collective that a fusion implements, or None.

    The TPU compiler emits such a collective as three or more fusions that contain the same
    collective with the same channel: its start, the products that run meanwhile, and its end.
    """
    for instruction in fusion_body.instructions:
        for phase in (ASYNC_START, ASYNC_DONE):
            if phase in instruction.attributes:
                return phase
    return ASYNC_BODY if fusion_body.name.startswith('async_collective_fusion') else None


def channel_id(instruction: Instruction) -> str | None:
    """Return the channel number, which all phases of a collective share."""
    return instruction.attribute(r'\bchannel_id=(\d+)')


def _make_collective(
    program: HloProgram,
    computation: Computation,
    instruction: Instruction,
    kind: str,
    executions: int,
) -> Collective:
    inputs = [shape for name in instruction.operands for shape in computation.shapes(name)]
    # The TPU compiler emits a reduce-scatter as a fusion of an all-reduce and a slice.
    if kind == 'all-reduce' and 'all-reduce-scatter' in computation.name:
        kind = 'reduce-scatter'
    groups = parse_replica_groups(instruction, program.devices)
    group_size = 2 if kind == 'collective-permute' else len(groups[0]) if groups else 1
    size = sum(shape.bytes for shape in inputs) * (group_size if kind == 'all-gather' else 1)
    sent_share = {
        'all-reduce': 2 * (group_size - 1) / group_size,
        'collective-permute': 1,
        'collective-broadcast': 1,
    }
    wire_bytes = size * sent_share.get(kind, (group_size - 1) / group_size)
    return Collective(
        name=instruction.name,
        computation=computation.name,
        kind=kind,
        bytes=size,
        wire_bytes=round(wire_bytes) if group_size > 1 else 0,
        group_size=group_size,
        groups=groups,
        executions=executions,
        op_name=instruction.op_name,
        dtype='+'.join(dict.fromkeys(shape.dtype for shape in inputs)),
        asynchronous=instruction.opcode.endswith('-start')
        or computation.name.startswith('async')
        or bool(async_phase(computation)),
    )


def parse_replica_groups(instruction: Instruction, devices: int) -> ReplicaGroups:
    """Return the groups of devices of a collective, from any of the forms in HLO text.

    {{0,1},{2,3}}; [2,4]<=[8] and [4,2]<=[2,4]T(1,0) (device numbers in that shape, transposed,
    split into groups); mesh['x'=2,'y'=4] {'y'} (mesh axes along which a group extends); {} or no
    attribute: all devices. For a permutation, the pairs (source, target).
    """
    text = instruction.attributes
    if match := re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', text):
        return _parse_group_list(match[1])
    if match := re.search(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}', text):
        return _parse_group_list(match[1]) or (tuple(range(devices)),)
    if match := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
        shape, dims, permutation = (_parse_ints(part) for part in match.groups())
        array = np.arange(math.prod(dims)).reshape(dims)
        array = array.transpose(permutation) if permutation else array
        return tuple(map(tuple, array.reshape(shape).tolist()))
    mesh_form = r'replica_groups=@?\w*(?:\[([^\]]*)\])(?:,? ?device_ids=\(([^)]*)\))? ?\{([^}]*)\}'
    if match := re.search(mesh_form, text):
        return _parse_mesh_axes(*match.groups())
    return (tuple(range(devices)),)


def _parse_ints(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', text or '')]


def _parse_group_list(text: str) -> ReplicaGroups:
    return tuple(tuple(_parse_ints(group)) for group in re.findall(r'\{([\d,]*)\}', text))


def _parse_mesh_axes(mesh: str, order: str | None, along: str) -> ReplicaGroups:
    """Return the groups along mesh axes; 'x':(2)4 is a sub-axis of x: size 4, after one of size 2.

    Args:
      mesh: "'x'=2,'y'=4".
      order: device numbers of the mesh; None: ascending.
      along: names of the axes or sub-axes.
    """
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    selectors = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)
    shape: list[int] = []  # of the mesh, with axes split where a sub-axis is selected
    selected: list[int] = []
    for name, size in axes.items():
        sub_axes = [
            (int(before), int(part)) for axis, before, part in selectors if axis == name and part
        ]
        if sub_axes:
            before, part = sub_axes[0]
            selected.append(len(shape) + 1)
            shape += [before, part, size // before // part]
        else:
            if any(axis == name for axis, _, _ in selectors):
                selected.append(len(shape))
            shape.append(size)
    numbers = _parse_ints(order)
    devices = np.array(numbers) if len(numbers) == math.prod(shape) else np.arange(math.prod(shape))
    others = [dim for dim in range(len(shape)) if dim not in selected]
    array = devices.reshape(shape).transpose([*others, *selected])
    return tuple(map(tuple, array.reshape(-1, math.prod(shape[dim] for dim in selected)).tolist()))


def estimate_collective_seconds(
    collective: Collective, chip: Chip, coordinates: TorusCoordinates
) -> float:
    """Estimate the seconds of one execution on an otherwise idle interconnect.

    Closed form: bytes over the bandwidth of the usable links, plus the latency to the farthest
    member of the group.

    Args:
      coordinates: position of each device in the torus, in the order of the mesh; empty for GPUs.
    """
    if collective.group_size <= 1 or not collective.wire_bytes:
        return 0.0
    if not chip.torus_dims:
        return _estimate_host_seconds(collective, chip)
    if collective.kind == 'collective-permute':
        distances = (
            _torus_distance(coordinates[source], coordinates[target], coordinates)
            for source, target in collective.groups
        )
        hops = max(distances, default=1)
        return collective.bytes * max(1, hops) / chip.link_bandwidth + hops * HOP_SECONDS
    group = [coordinates[member] for member in collective.groups[0]]
    links, hops = _count_links(group, coordinates)
    seconds = collective.wire_bytes / (links * chip.link_bandwidth)
    if collective.kind in ('all-to-all', 'ragged-all-to-all'):
        # Messages pass through other chips: each link of a ring of n carries n / 4 times the bytes
        # of a device (twice that on a line).
        seconds *= max(1.0, max(_extents(group)) / 4)
    return seconds + hops * HOP_SECONDS


def _estimate_host_seconds(collective: Collective, chip: Chip) -> float:
    hosts_by_group = [
        {member // chip.devices_per_host for member in group} for group in collective.groups
    ]
    within_host = all(len(hosts) == 1 for hosts in hosts_by_group)
    bandwidth = chip.link_bandwidth if within_host else chip.network_bandwidth
    latency = HOP_SECONDS * math.log2(max(2, collective.group_size))
    return collective.wire_bytes / bandwidth + latency


def _extents(group: TorusCoordinates) -> list[int]:
    """Return how many positions the group occupies in each dimension of the torus."""
    return [len(set(column)) for column in zip(*group, strict=True)]


def find_wraparound(size: Sequence[int]) -> list[bool]:
    """Return, for each dimension of a slice, whether its links form a ring.

    A 3D slice has wraparound links if all its dimensions are multiples of 4; a 2D slice has them in
    each dimension of size 16.
    """
    if len([dim for dim in size if dim > 1]) > 2 or (len(size) == 3 and size[2] > 1):
        return [all(dim % 4 == 0 for dim in size)] * len(size)
    return [dim == 16 for dim in size]


def _count_links(group: TorusCoordinates, coordinates: TorusCoordinates) -> tuple[int, int]:
    """Return (links on which a member can send to its group at once, hops to the farthest)."""
    slice_size, group_extents = _extents(coordinates), _extents(group)
    links = hops = 0
    wraparound = find_wraparound(slice_size)
    for size, extent, wraps in zip(slice_size, group_extents, wraparound, strict=True):
        if extent > 1:
            is_ring = wraps and extent == size
            links += 2 if is_ring else 1
            hops += extent // 2 if is_ring else extent - 1
    return max(1, links), max(1, hops)


def _torus_distance(a: tuple[int, ...], b: tuple[int, ...], coordinates: TorusCoordinates) -> int:
    slice_size = _extents(coordinates)
    total = 0
    for x, y, size, wraps in zip(a, b, slice_size, find_wraparound(slice_size), strict=True):
        direct = abs(x - y)
        total += min(direct, size - direct) if wraps else direct
    return total
