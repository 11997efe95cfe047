"""What do devices send each other? Every collective with its bytes, its groups and how often it runs."""

import math
import re
from typing import NamedTuple

import numpy as np

from gpt_jax.compiled.loops import Times, times
from gpt_jax.compiled.text import Computation, Instruction, Program

KINDS = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute',
    'collective-broadcast',
)  # fmt: skip

START, MEANWHILE, DONE = 'AsyncCollectiveStart', 'meanwhile', 'AsyncCollectiveDone'

Groups = tuple[tuple[int, ...], ...]


class Collective(NamedTuple):
    """One collective instruction of the program.

    kind: one of KINDS. bytes: what one device has of the whole in one run: of an all-gather what comes out, of every
    other what goes in. wire_bytes: what a device must send at least in one run, with the algorithms for rings. group:
    devices that take part together; 1: nothing is sent. groups: their numbers; of a permutation the pairs (from, to).
    times: runs in one run of the program. op_name: of the source. asynchronous: other work may go on meanwhile.
    """

    name: str
    computation: str
    kind: str
    bytes: int
    wire_bytes: int
    group: int
    groups: Groups
    times: int
    op_name: str
    dtype: str
    asynchronous: bool


def collectives(program: Program, runs: Times | None = None) -> list[Collective]:
    """All of them, in the order of the text."""
    runs = runs or times(program)
    found = []
    for name, count in runs.times.items():
        computation = program.computations[name]
        for one in computation.instructions:
            if (kind := kind_of(one)) is not None and phase(computation) in (None, START):
                found.append(_collective(program, computation, one, kind, count))
    return found


def kind_of(one: Instruction) -> str | None:
    """One of KINDS; None for any other instruction, and for the end of an asynchronous one."""
    kind = one.opcode.removesuffix('-start')
    return kind if kind in KINDS else None


def phase(inside: Computation) -> str | None:
    """Of the computation of a fusion, which part it has in an asynchronous collective; None: in none.

    A TPU's compiler writes one as three fusions or more that hold the same collective, of the same channel: its start,
    products during which it goes on, and its end.
    """
    for one in inside.instructions:
        for part in (START, DONE):
            if part in one.attributes:
                return part
    return MEANWHILE if inside.name.startswith('async_collective_fusion') else None


def channel(one: Instruction) -> str | None:
    """The number of a collective that its parts have in common."""
    return one.attribute(r'\bchannel_id=(\d+)')


def _collective(program: Program, computation: Computation, one: Instruction, kind: str, count: int) -> Collective:
    given = [shape for operand in one.operands for shape in computation.shapes(operand)]
    # A TPU's compiler writes a reduce-scatter as a fusion of an all-reduce and the slice that a device keeps of it.
    if kind == 'all-reduce' and 'all-reduce-scatter' in computation.name:
        kind = 'reduce-scatter'
    members = groups(one, program.devices)
    group = 2 if kind == 'collective-permute' else len(members[0]) if members else 1
    size = sum(shape.bytes for shape in given) * (group if kind == 'all-gather' else 1)
    share = {'all-reduce': 2 * (group - 1) / group, 'collective-permute': 1, 'collective-broadcast': 1}
    wire = size * share.get(kind, (group - 1) / group)
    return Collective(
        name=one.name, computation=computation.name, kind=kind, bytes=size, wire_bytes=round(wire) if group > 1 else 0,
        group=group, groups=members, times=count, op_name=one.op_name,
        dtype='+'.join(dict.fromkeys(shape.dtype for shape in given)),
        asynchronous=one.opcode.endswith('-start') or computation.name.startswith('async') or bool(phase(computation)),
    )  # fmt: skip


def groups(one: Instruction, devices: int) -> Groups:
    """The devices that work together, from any of the forms in which the text writes them.

    {{0,1},{2,3}}; [2,4]<=[8] and [4,2]<=[2,4]T(1,0) (device numbers in that shape, transposed, cut into groups);
    mesh['x'=2,'y'=4] {'y'} (axes of a mesh along which a group lies); {} and nothing: all of them. Of a permutation
    the pairs.
    """
    text = one.attributes
    if found := re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', text):
        return _listed(found[1])
    if found := re.search(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}', text):
        return _listed(found[1]) or (tuple(range(devices)),)
    if found := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
        shape, numbers, turn = (_numbers(part) for part in found.groups())
        array = np.arange(math.prod(numbers)).reshape(numbers)
        array = array.transpose(turn) if turn else array
        return tuple(map(tuple, array.reshape(shape).tolist()))
    if found := re.search(r'replica_groups=@?\w*(?:\[([^\]]*)\])(?:,? ?device_ids=\(([^)]*)\))? ?\{([^}]*)\}', text):
        return _along_axes(*found.groups())
    return (tuple(range(devices)),)


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', text or '')]


def _listed(text: str) -> Groups:
    return tuple(tuple(_numbers(group)) for group in re.findall(r'\{([\d,]*)\}', text))


def _along_axes(mesh: str, order: str | None, along: str) -> Groups:
    """Axes of a mesh; 'x':(2)4 is the part of size 4 of x that has a part of size 2 before it."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts: list[tuple[str, int]] = []  # every axis, cut where a part of it is spoken of
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)
    chosen = []
    for name, size in sizes.items():
        cut = [(int(before), int(part)) for axis, before, part in wanted if axis == name and part]
        if cut:
            before, part = cut[0]
            pieces = [before, part, size // before // part]
            chosen.append(len(parts) + 1)
        else:
            pieces = [size]
            chosen += [len(parts)] if any(axis == name for axis, _, _ in wanted) else []
        parts += [(name, piece) for piece in pieces]
    shape = [size for _, size in parts]
    numbers = _numbers(order)
    devices = np.array(numbers) if len(numbers) == math.prod(shape) else np.arange(math.prod(shape))
    rest = [at for at in range(len(parts)) if at not in chosen]
    array = devices.reshape(shape).transpose([*rest, *chosen])
    return tuple(map(tuple, array.reshape(-1, math.prod(shape[at] for at in chosen)).tolist()))
