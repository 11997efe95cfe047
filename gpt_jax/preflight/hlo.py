"""Parser for compiled HLO text: computations, instructions, shapes, loop trip counts.

The text is that of `jax.stages.Compiled.as_text()`, for CPU, GPU or TPU.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

DTYPE_BITS = {
    'pred': 8,
    's4': 4,
    'u4': 4,
    's8': 8,
    'u8': 8,
    's16': 16,
    'u16': 16,
    's32': 32,
    'u32': 32,
    's64': 64,
    'u64': 64,
    'bf16': 16,
    'f16': 16,
    'f32': 32,
    'f64': 64,
    'c64': 64,
    'c128': 128,
}

_COMPUTATION_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION_HEAD = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = ')
_ARRAY_TYPE = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?')
_OPCODE = re.compile(r'\s*([a-z][\w\-]*)\(')
_NAME = re.compile(r'%([\w.\-]+)')
_INTEGER = re.compile(r'-?\d+')


class HloShape(NamedTuple):
    """Type of one array.

    on_chip: whether it is in on-chip memory (memory space 1 of a TPU) instead of main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for dim in self.dims:
            count *= dim
        return count

    @property
    def bytes(self) -> int:
        """Bytes without the padding of a tiled layout.

        8-bit floats have many names (f8e4m3fn, ...); tokens have no size.
        """
        return self.size * DTYPE_BITS.get(self.dtype, 8 if self.dtype.startswith('f8') else 0) // 8


@dataclass(frozen=True, eq=False)
class Instruction:
    """One instruction of a computation.

    Attributes:
      shapes: shapes of the result, with tuples flattened.
      operands: names of instructions of the same computation.
      literal: value of a constant, or index of a parameter.
      attributes: the rest of the line, after the operands.
      root: whether its result is the result of the computation.
    """

    name: str
    opcode: str
    shapes: tuple[HloShape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern: str) -> str | None:
        """Return the first group of the regular expression in the attributes, or None."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None

    def int_attribute(self, name: str) -> tuple[int, ...]:
        """Return the integers of an attribute `name={0,1}`."""
        text = self.attribute(rf'\b{name}=\{{([\d,]*)\}}') or ''
        return tuple(map(int, re.findall(r'\d+', text)))

    @cached_property
    def op_name(self) -> str:
        """Path of the source operation, 'jit(step)/while/body/dot_general'; '' if unknown."""
        return self.attribute(r'op_name="([^"]*)"') or ''

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that run as a whole when this instruction does.

        Computations applied to single elements, such as those of a reduce or a sort, are left out.
        """
        if self.opcode in ('fusion', 'async-start'):
            text = self.attribute(r'\bcalls=(%[\w.\-]+)')
        elif self.opcode == 'call':
            text = self.attribute(r'\bto_apply=(%[\w.\-]+)')
        elif self.opcode == 'while':
            text = self.attribute(r'\bbody=(%[\w.\-]+)')
        elif self.opcode == 'conditional':
            text = self.attribute(r'\bbranch_computations=\{([^}]*)\}')
            if text is None:
                branch = r'\b(?:true|false)_computation=(%[\w.\-]+)'
                text = ' '.join(re.findall(branch, self.attributes))
        else:
            text = None
        return tuple(_NAME.findall(text or ''))


@dataclass(frozen=True, eq=False)
class Computation:
    """Instructions in the order of the text; in a scheduled module, the order of execution."""

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
        """Instructions that read a result, by its name."""
        users: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
        return users

    def shapes(self, name: str) -> tuple[HloShape, ...]:
        return self.by_name[name].shapes


@dataclass(frozen=True, eq=False)
class HloProgram:
    """A compiled module.

    entry: the computation that runs. devices: number of devices that run it together.
    """

    computations: dict[str, Computation]
    entry: Computation
    devices: int

    def find_called(self, instruction: Instruction) -> list[Computation]:
        """Return the called computations that the text contains."""
        names = instruction.called
        return [self.computations[name] for name in names if name in self.computations]


def parse_hlo(text: str) -> HloProgram:
    """Parse the text of a compiled module.

    Raises:
      ValueError: the text has no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry, name = None, None
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            if head := _COMPUTATION_HEAD.match(line):
                name, lines = head[2], []
                entry = name if head[1] else entry
        elif line == '}':
            instructions = tuple(map(_parse_instruction, lines))
            computations[name], name = Computation(name, instructions), None
        elif _INSTRUCTION_HEAD.match(line):
            lines.append(line)
        elif lines:
            lines[-1] += line  # the metadata of a custom kernel may contain line breaks
    if entry is None:
        raise ValueError('not a compiled module: the text has no ENTRY')
    header = text[: text.find('\n')]
    devices = 1
    for count in re.findall(r'\b(?:num_partitions|replica_count)=(\d+)', header):
        devices *= int(count)
    return HloProgram(computations, computations[entry], devices)


def _parse_instruction(line: str) -> Instruction:
    head = _INSTRUCTION_HEAD.match(line)
    assert head is not None
    start = head.end()
    end = _find_closing(line, start) if line[start] == '(' else line.index(' ', start)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        raise ValueError(f'not an instruction: {line[:200]}')
    closing = _find_closing(line, opcode.end() - 1)
    arguments = line[opcode.end() : closing - 1]
    is_literal = opcode[1] in ('constant', 'parameter')
    return Instruction(
        name=head[2],
        opcode=opcode[1],
        shapes=parse_shapes(line[start:end]),
        operands=() if is_literal else tuple(_NAME.findall(arguments)),
        literal=arguments if is_literal else '',
        attributes=line[closing:],
        root=bool(head[1]),
    )


def _find_closing(line: str, start: int) -> int:
    """Return the position after the parenthesis that matches the one at `start`."""
    depth = 0
    for position in range(start, len(line)):
        depth += {'(': 1, ')': -1}.get(line[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError(f'unmatched parenthesis: {line[:200]}')


def parse_shapes(text: str) -> tuple[HloShape, ...]:
    """Return the arrays of a type: 'f32[2,3]{1,0}', '(s32[], bf16[8]{0:T(256)S(1)})'."""
    shapes = []
    for dtype, dims, layout in _ARRAY_TYPE.findall(text):
        numbers = tuple(int(dim.lstrip('<=')) for dim in dims.split(',') if dim)
        shapes.append(HloShape(dtype, numbers, 'S(1)' in layout))
    return tuple(shapes)


# Instructions that pass on a loop counter unchanged.
_PASS_THROUGH = ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start', 'reshape')


class ExecutionCounts(NamedTuple):
    """How often each computation runs in one run of the program.

    executions: number of executions of each computation, by name.
    fused: names of the bodies of fusions.
    unknown: loops without a known trip count, whose bodies are counted once.
    """

    executions: dict[str, int]
    fused: set[str]
    unknown: list[str]


def count_executions(program: HloProgram) -> ExecutionCounts:
    """Count the executions of each computation, from the trip counts of all loops.

    Of the branches of a conditional, the one with the most instructions is assumed to run.
    """
    counts = ExecutionCounts({}, set(), [])
    _add_executions(program, program.entry, 1, False, counts)
    return counts


def _add_executions(
    program: HloProgram, computation: Computation, count: int, fused: bool, counts: ExecutionCounts
) -> None:
    counts.executions[computation.name] = counts.executions.get(computation.name, 0) + count
    if fused:
        counts.fused.add(computation.name)
    for instruction in computation.instructions:
        called = program.find_called(instruction)
        if not called:
            continue
        repeats = 1
        if instruction.opcode == 'while':
            trip_count = find_trip_count(program, computation, instruction)
            if trip_count is None:
                counts.unknown.append(instruction.name)
            repeats = 1 if trip_count is None else trip_count
        largest = max(called, key=lambda callee: len(callee.instructions))
        is_fused = fused or instruction.opcode == 'fusion'
        _add_executions(program, largest, count * repeats, is_fused, counts)


def find_trip_count(program: HloProgram, computation: Computation, loop: Instruction) -> int | None:
    """Return how often the body of a loop runs, or None if the text does not say.

    The compiler's own annotation takes precedence; otherwise, start, limit and step are read from
    the condition and the body.
    """
    annotated = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if annotated is not None:
        return int(annotated)
    name = loop.attribute(r'\bcondition=%?([\w.\-]+)')
    condition = program.computations.get(name or '')
    if condition is None:
        return None
    compare, operands = _unwrap(program, condition.root)
    if compare.opcode != 'compare':
        return None
    start, end = (_initial_value(computation, loop, condition, operand) for operand in operands)
    direction = compare.attribute(r'direction=(\w+)')
    step = _find_step(program, loop, condition, operands)
    if start is None or end is None or not step:
        return None
    distance = {
        'LT': end - start,
        'LE': end - start + 1,
        'NE': end - start,
        'GT': start - end,
        'GE': start - end + 1,
    }
    if direction not in distance:
        return None
    return max(0, -(-distance[direction] // abs(step)))


def _unwrap(program: HloProgram, instruction: Instruction) -> tuple[Instruction, tuple[str, ...]]:
    """Return the only instruction of a fusion or call, with the names of the outer operands.

    Any other instruction is returned as it is.
    """
    if instruction.opcode in ('fusion', 'call') and instruction.called:
        body = program.computations[instruction.called[0]]
        inputs = [body.by_name[operand] for operand in body.root.operands]
        if inputs and all(operand.opcode == 'parameter' for operand in inputs):
            outer = tuple(instruction.operands[int(operand.literal)] for operand in inputs)
            return body.root, outer
    return instruction, instruction.operands


def _initial_value(
    computation: Computation, loop: Instruction, condition: Computation, name: str
) -> int | None:
    """Return the value of an operand of the condition before the first iteration."""
    source = _find_definition(condition, name)
    if source.opcode == 'get-tuple-element':  # loop-carried: read the initial value
        index = int(source.attribute(r'\bindex=(\d+)') or 0)
        initial = computation.by_name[loop.operands[0]]
        if initial.opcode != 'tuple':
            return None
        source = _find_definition(computation, initial.operands[index])
    is_integer = source.opcode == 'constant' and _INTEGER.fullmatch(source.literal)
    return int(source.literal) if is_integer else None


def _find_definition(computation: Computation, name: str) -> Instruction:
    instruction = computation.by_name[name]
    while instruction.opcode in _PASS_THROUGH and instruction.operands:
        instruction = computation.by_name[instruction.operands[0]]
    return instruction


def _find_step(
    program: HloProgram, loop: Instruction, condition: Computation, operands: tuple[str, ...]
) -> int | None:
    """Return the increment of the loop counter; 1 if its addition is not found in the body."""
    inputs = [condition.by_name.get(name) for name in operands]
    counter = next(
        (operand for operand in inputs if operand and operand.opcode != 'constant'), None
    )
    body = program.computations.get(next(iter(loop.called), ''))
    if counter is None or counter.opcode != 'get-tuple-element':
        return 1
    if body is None or body.root.opcode != 'tuple':
        return 1
    index = int(counter.attribute(r'\bindex=(\d+)') or 0)
    update, addends = _unwrap(program, _find_definition(body, body.root.operands[index]))
    if update.opcode not in ('add', 'subtract'):
        return 1
    sources = [_find_definition(body, name) for name in addends]
    literals = [source.literal for source in sources if source.opcode == 'constant']
    steps = [int(literal) for literal in literals if _INTEGER.fullmatch(literal)]
    return steps[0] if len(steps) == 1 else 1
