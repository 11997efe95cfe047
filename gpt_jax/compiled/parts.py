"""Which parts of the source does the time go to? Instructions put together by their source's operations."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt_jax.compiled.cycles import Timeline
from gpt_jax.compiled.text import Instruction, Program

UNNAMED = 'made by the compiler'  # copies, joined collectives: what has no source


class Part(NamedTuple):
    """cycles: of all its instructions, in one run of the program. examples: the costliest sources in it."""

    name: str
    cycles: float
    examples: tuple[str, ...]


def parts(program: Program, line: Timeline, patterns: Mapping[str, str], rest: str) -> list[Part]:
    """The parts by falling cycles.

    Args:
      patterns: part -> regular expression; the first that is found in an operation's name takes it.
      rest: the name of the part of all that no pattern takes; what has no source is UNNAMED.
    """
    cycles: dict[str, float] = {}
    sources: dict[str, dict[str, float]] = {}
    for spent in line.spent:
        source = source_of(program, spent.instruction)
        name = next((part for part, pattern in patterns.items() if re.search(pattern, source)), rest)
        name = name if source else UNNAMED
        if spent.waiting:
            name = f'waiting for {name}'
        cycles[name] = cycles.get(name, 0.0) + spent.cycles
        short = '/'.join(source.split('/')[-2:]) or spent.instruction.name.split('.')[0]
        table = sources.setdefault(name, {})
        table[short] = table.get(short, 0.0) + spent.cycles
    ordered = sorted(cycles.items(), key=lambda item: -item[1])
    return [Part(name, count, _largest(sources[name])) for name, count in ordered]


def _largest(table: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(table, key=lambda name: -table[name])[:3])


def source_of(program: Program, one: Instruction) -> str:
    """The name of the source's operation: its own, or the one that most instructions inside have."""
    if one.op_name or not one.called:
        return one.op_name
    inner: Sequence[Instruction] = program.computations[one.called[0]].instructions
    names = [each.op_name for each in inner if each.op_name]
    return max(set(names), key=names.count) if names else ''
