"""What stands in a compiled program's text? Computations of instructions, each with its shape, operands and attributes.

The text is what `jax.stages.Compiled.as_text()` gives, of a CPU, a GPU or a TPU.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32, 's64': 64, 'u64': 64,
    'bf16': 16, 'f16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_LEAF = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?')
_OPCODE = re.compile(r'\s*([a-z][\w\-]*)\(')
_NAME = re.compile(r'%([\w.\-]+)')


class Shape(NamedTuple):
    """One array. fast: in memory on the chip (a TPU's space 1), not in the device's main memory."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool

    @property
    def size(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count

    @property
    def bytes(self) -> int:
        """Without what a layout's tiles pad. Types of eight bits have many names (f8e4m3fn, ...); tokens have none."""
        return self.size * BITS.get(self.dtype, 8 if self.dtype.startswith('f8') else 0) // 8


@dataclass(frozen=True, eq=False)
class Instruction:
    """One line. shapes: what it makes, tuples flattened. operands: names. literal: what a constant holds.
    attributes: the rest of the line."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str) -> str | None:
        """The first group of the regular expression in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def ints(self, name: str) -> tuple[int, ...]:
        """Of an attribute `name={0,1}`."""
        return tuple(map(int, re.findall(r'\d+', self.attribute(rf'\b{name}=\{{([\d,]*)\}}') or '')))

    @cached_property
    def op_name(self) -> str:
        """The path of the source's operation, 'jit(step)/while/body/dot_general'; '' where it is not known."""
        return self.attribute(r'op_name="([^"]*)"') or ''

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of computations that run when this does, each as a whole: not those applied to single elements."""
        if self.opcode in ('fusion', 'async-start'):
            return tuple(_NAME.findall(self.attribute(r'\bcalls=(%[\w.\-]+)') or ''))
        if self.opcode == 'call':
            return tuple(_NAME.findall(self.attribute(r'\bto_apply=(%[\w.\-]+)') or ''))
        if self.opcode == 'while':
            return tuple(_NAME.findall(self.attribute(r'\bbody=(%[\w.\-]+)') or ''))
        if self.opcode == 'conditional':
            several = self.attribute(r'\bbranch_computations=\{([^}]*)\}')
            if several is None:
                several = ' '.join(re.findall(r'\b(?:true|false)_computation=(%[\w.\-]+)', self.attributes))
            return tuple(_NAME.findall(several))
        return ()


@dataclass(frozen=True, eq=False)
class Computation:
    """Instructions in the order of the text, which in a scheduled program is that of execution."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def root(self) -> Instruction:
        return next(instruction for instruction in reversed(self.instructions) if instruction.root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for operand in instruction.operands:
                found.setdefault(operand, []).append(instruction)
        return found

    def shapes(self, name: str) -> tuple[Shape, ...]:
        return self.by_name[name].shapes


@dataclass(frozen=True, eq=False)
class Program:
    """entry: the computation that is run. devices: how many run it together."""

    computations: dict[str, Computation]
    entry: Computation
    devices: int


def parse(text: str) -> Program:
    """Reads a compiled program.

    Raises:
      ValueError: the text has no ENTRY, so it is none.
    """
    computations: dict[str, Computation] = {}
    entry, name = None, None
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            if head := _HEAD.match(line):
                name, lines = head[2], []
                entry = name if head[1] else entry
        elif line == '}':
            computations[name], name = Computation(name, tuple(map(_instruction, lines))), None
        elif _LINE.match(line):
            lines.append(line)
        elif lines:
            lines[-1] += line  # what a foreign kernel notes may hold ends of lines
    if entry is None:
        raise ValueError('no compiled program: the text has no ENTRY')
    header = text[: text.find('\n')]
    counts = [int(count) for count in re.findall(r'\b(?:num_partitions|replica_count)=(\d+)', header)]
    devices = 1
    for count in counts:
        devices *= count
    return Program(computations, computations[entry], devices)


def _instruction(line: str) -> Instruction:
    match = _LINE.match(line)
    assert match is not None
    start = match.end()
    end = _close(line, start) if line[start] == '(' else line.index(' ', start)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        raise ValueError(f'not an instruction: {line[:200]}')
    closing = _close(line, opcode.end() - 1)
    inside = line[opcode.end() : closing - 1]
    return Instruction(
        name=match[2],
        opcode=opcode[1],
        shapes=shapes(line[start:end]),
        operands=() if opcode[1] in ('constant', 'parameter') else tuple(_NAME.findall(inside)),
        literal=inside if opcode[1] in ('constant', 'parameter') else '',
        attributes=line[closing:],
        root=bool(match[1]),
    )


def _close(line: str, start: int) -> int:
    """Where the bracket that opens at `start` has closed."""
    depth = 0
    for at in range(start, len(line)):
        depth += {'(': 1, ')': -1}.get(line[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError(f'an open bracket: {line[:200]}')


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type as the text writes it: 'f32[2,3]{1,0}', '(s32[], bf16[8]{0:T(256)S(1)})'."""
    found = []
    for dtype, dims, layout in _LEAF.findall(text):
        numbers = tuple(int(dim.lstrip('<=')) for dim in dims.split(',') if dim)
        found.append(Shape(dtype, numbers, 'S(1)' in layout))
    return tuple(found)
