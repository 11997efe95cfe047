"""How often does each computation run? Loops multiplied out."""

import re
from typing import NamedTuple

from gpt_jax.compiled.text import Computation, Instruction, Program

_SAME = ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start', 'reshape')


class Times(NamedTuple):
    """times: runs of each computation in one run of the program. fused: whether it is the inside of a fusion.
    unknown: loops whose length the text does not tell; their bodies are counted once."""

    times: dict[str, int]
    fused: set[str]
    unknown: list[str]


def times(program: Program) -> Times:
    """Of a conditional's branches the one with the most instructions is taken to run every time."""
    found = Times({}, set(), [])
    _visit(program, program.entry, 1, False, found)
    return found


def _visit(program: Program, computation: Computation, count: int, fused: bool, found: Times) -> None:
    found.times[computation.name] = found.times.get(computation.name, 0) + count
    if fused:
        found.fused.add(computation.name)
    for instruction in computation.instructions:
        called = [program.computations[name] for name in instruction.called if name in program.computations]
        if not called:
            continue
        repeats = 1
        if instruction.opcode == 'while':
            length = trip_count(program, computation, instruction)
            if length is None:
                found.unknown.append(instruction.name)
            repeats = 1 if length is None else length
        chosen = max(called, key=lambda one: len(one.instructions))
        _visit(program, chosen, count * repeats, fused or instruction.opcode == 'fusion', found)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often the loop's body runs: what the compiler notes, or what the condition compares with. None: unknown."""
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known is not None:
        return int(known)
    name = loop.attribute(r'\bcondition=%?([\w.\-]+)')
    condition = program.computations.get(name or '')
    if condition is None:
        return None
    compare, operands = _unwrapped(program, condition.root)
    if compare.opcode != 'compare':
        return None
    start, end = (_value(computation, loop, condition, operand) for operand in operands)
    direction = compare.attribute(r'direction=(\w+)')
    step = _step(program, loop, condition, operands)
    if start is None or end is None or not step:
        return None
    distance = {'LT': end - start, 'LE': end - start + 1, 'NE': end - start, 'GT': start - end, 'GE': start - end + 1}
    if direction not in distance:
        return None
    return max(0, -(-distance[direction] // abs(step)))


def _unwrapped(program: Program, one: Instruction) -> tuple[Instruction, tuple[str, ...]]:
    """The instruction inside a fusion or call of it alone, with the operands' names outside; else itself."""
    if one.opcode in ('fusion', 'call') and one.called:
        inner = program.computations[one.called[0]]
        named = [inner.by_name[operand] for operand in inner.root.operands]
        if named and all(each.opcode == 'parameter' for each in named):
            return inner.root, tuple(one.operands[int(each.literal)] for each in named)
    return one, one.operands


def _value(computation: Computation, loop: Instruction, condition: Computation, name: str) -> int | None:
    """What the condition sees there before the first round."""
    one = _source(condition, name)
    if one.opcode == 'get-tuple-element':  # something that the loop carries: what it begins with
        index = int(one.attribute(r'\bindex=(\d+)') or 0)
        begin = computation.by_name[loop.operands[0]]
        if begin.opcode != 'tuple':
            return None
        one = _source(computation, begin.operands[index])
    return int(one.literal) if one.opcode == 'constant' and re.fullmatch(r'-?\d+', one.literal) else None


def _source(computation: Computation, name: str) -> Instruction:
    one = computation.by_name[name]
    while one.opcode in _SAME and one.operands:
        one = computation.by_name[one.operands[0]]
    return one


def _step(program: Program, loop: Instruction, condition: Computation, operands: tuple[str, ...]) -> int | None:
    """By how much the counter grows in a round; 1 where the body's addition cannot be read."""
    counter = next((one for one in map(condition.by_name.get, operands) if one and one.opcode != 'constant'), None)
    body = program.computations.get(next(iter(loop.called), ''))
    if counter is None or body is None or counter.opcode != 'get-tuple-element' or body.root.opcode != 'tuple':
        return 1
    index = int(counter.attribute(r'\bindex=(\d+)') or 0)
    grown, added = _unwrapped(program, _source(body, body.root.operands[index]))
    if grown.opcode not in ('add', 'subtract'):
        return 1
    constants = [one.literal for one in (_source(body, name) for name in added) if one.opcode == 'constant']
    numbers = [int(literal) for literal in constants if re.fullmatch(r'-?\d+', literal)]
    return numbers[0] if len(numbers) == 1 else 1
