"""Simulated schedule of a compiled TPU program, from the compiler's own cycle estimates.

The compiler annotates `estimated_cycles` on the instructions that it has scheduled. Collectives and
custom kernels have no such annotation, so the caller provides their cost. Work between the start
and the end of an asynchronous collective hides as much of its time; collectives run one at a time,
which is a conservative assumption.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gpt_jax.preflight.collectives import (
    ASYNC_DONE,
    ASYNC_START,
    async_phase,
    channel_id,
    collective_kind,
)
from gpt_jax.preflight.hlo import Computation, HloProgram, Instruction, find_trip_count

CostFn = Callable[[Computation, Instruction], float]  # cycles of one execution


class InstructionCost(NamedTuple):
    """Cost of one instruction.

    cycles: cycles of all its executions.
    waiting: whether only communication runs in these cycles.
    """

    instruction: Instruction
    computation: str
    executions: int
    cycles: float
    waiting: bool


@dataclass
class Timeline:
    """Cycles of one run of a program.

    Attributes:
      cycles: total cycles.
      compute_cycles: cycles in which something is computed.
      collective_cycles: cycles of all collectives, hidden or not.
      costs: cost of each instruction.
      unknown: custom calls of unknown cost, counted as 0.
    """

    cycles: float = 0.0
    compute_cycles: float = 0.0
    collective_cycles: float = 0.0
    costs: list[InstructionCost] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def exposed_cycles(self) -> float:
        """Cycles in which only communication runs."""
        return self.cycles - self.compute_cycles


def read_estimated_cycles(instruction: Instruction) -> int | None:
    """Return the compiler's estimate of the cycles of one execution, or None."""
    text = instruction.attribute(r'"estimated_cycles":"(\d+)"')
    return None if text is None else int(text)


def simulate_schedule(
    program: HloProgram,
    collective_cost: CostFn,
    kernel_cost: CostFn | None = None,
    other_cost: CostFn | None = None,
) -> Timeline:
    """Simulate the schedule on a single clock.

    Args:
      collective_cost: cost of a collective on an otherwise idle interconnect.
      kernel_cost: cost of a Pallas kernel; None: 0, and the kernel is listed as unknown.
      other_cost: cost of any other instruction; None: the compiler's estimate.
    """
    simulator = _Simulator(program, collective_cost, kernel_cost, other_cost)
    timeline = simulator.timeline
    timeline.cycles = simulator.run_computation(program.entry, 1)
    return timeline


class _Simulator:
    def __init__(
        self,
        program: HloProgram,
        collective_cost: CostFn,
        kernel_cost: CostFn | None,
        other_cost: CostFn | None,
    ):
        self.program = program
        self.collective_cost = collective_cost
        self.kernel_cost = kernel_cost
        self.other_cost = other_cost
        self.timeline = Timeline()

    def run_computation(self, computation: Computation, executions: int) -> float:
        """Return the cycles of one execution; add the cost of all executions to the timeline."""
        timeline = self.timeline
        # `link_free` is when the last collective ends; `ends` holds those still in flight.
        now = link_free = 0.0
        ends: dict[str, float] = {}
        for instruction in computation.instructions:
            communication = self._communication_cycles(computation, instruction)
            phase, name = self._find_async_phase(instruction)
            started = now
            if instruction.opcode in ('while', 'call', 'conditional'):
                now += self._run_called(computation, instruction, executions)
            elif communication is not None and (
                instruction.opcode.endswith('-start') or phase == ASYNC_START
            ):
                ends[name] = link_free = max(now, link_free) + communication
                timeline.collective_cycles += communication * executions
            elif (awaited := _find_awaited(instruction, phase, name)) in ends:
                now = max(now, ends[awaited])
                self._record(computation, instruction, executions, now - started, True)
            elif communication is not None and phase is None:
                # A fusion may compute while it communicates.
                compute = self._compute_cycles(computation, instruction)
                now = link_free = max(max(now, link_free) + communication, started + compute)
                timeline.collective_cycles += communication * executions
                timeline.compute_cycles += compute * executions
                self._record(computation, instruction, executions, compute, False)
                waiting = now - started - compute
                self._record(computation, instruction, executions, waiting, True)
            elif cycles := self._compute_cycles(computation, instruction):
                now += cycles
                timeline.compute_cycles += cycles * executions
                self._record(computation, instruction, executions, cycles, False)
        return now

    def _find_async_phase(self, instruction: Instruction) -> tuple[str | None, str]:
        """Return (phase of an asynchronous collective or None, name shared by its phases)."""
        for name in instruction.called if instruction.opcode == 'fusion' else ():
            body = self.program.computations[name]
            if (phase := async_phase(body)) is not None:
                channels = (
                    channel_id(inner) for inner in body.instructions if collective_kind(inner)
                )
                return phase, next((f'channel {channel}' for channel in channels), '')
        return None, instruction.name

    def _record(
        self,
        computation: Computation,
        instruction: Instruction,
        executions: int,
        cycles: float,
        waiting: bool,
    ) -> None:
        if cycles > 0:
            total = cycles * executions
            self.timeline.costs.append(
                InstructionCost(instruction, computation.name, executions, total, waiting)
            )

    def _run_called(
        self, computation: Computation, instruction: Instruction, executions: int
    ) -> float:
        called = self.program.find_called(instruction)
        if not called:
            return 0.0
        repeats = 1
        if instruction.opcode == 'while':
            repeats = find_trip_count(self.program, computation, instruction) or 1
        largest = max(called, key=lambda callee: len(callee.instructions))
        return repeats * self.run_computation(largest, executions * repeats)

    def _communication_cycles(
        self, computation: Computation, instruction: Instruction
    ) -> float | None:
        """Return the cycles of a collective, or of those inside a fusion; None if there is none."""
        if collective_kind(instruction) is not None:
            return self.collective_cost(computation, instruction)
        if instruction.opcode not in ('fusion', 'async-start'):
            return None
        bodies = [self.program.computations[name] for name in instruction.called]
        cycles = [
            self.collective_cost(body, inner)
            for body in bodies
            for inner in body.instructions
            if collective_kind(inner) is not None
        ]
        return sum(cycles) if cycles else None

    def _compute_cycles(self, computation: Computation, instruction: Instruction) -> float:
        if self.other_cost is not None:
            return self.other_cost(computation, instruction)
        cycles = read_estimated_cycles(instruction)
        if cycles is not None:
            return float(cycles)
        is_custom_call = instruction.opcode == 'custom-call'
        if not is_custom_call or 'tpu_custom_call' not in instruction.attributes:
            return 0.0
        if self.kernel_cost is None:
            self.timeline.unknown.append(instruction.name)
            return 0.0
        return self.kernel_cost(computation, instruction)


def _find_awaited(instruction: Instruction, phase: str | None, name: str) -> str:
    """Return the name of the collective that the instruction waits for; '' if there is none."""
    if phase == ASYNC_DONE:
        return name
    is_done = instruction.opcode.endswith('-done') and instruction.operands
    return instruction.operands[0] if is_done else ''


UNATTRIBUTED = 'made by the compiler'  # copies and merged collectives without a source operation
OTHER_PART = 'optimizer, gradient norm'

# Parts of a GPT's training step, by the names of the model's modules in the source path (op_name);
# the first pattern that matches applies.
PART_PATTERNS: Mapping[str, str] = {
    'attention, scores': r'splash|BG[SM][KM],BG[SM][KM]->|/attention/(reduce_max|exp|select_n)',
    'attention, projections': r'/attention/',
    'feed-forward, routing': (
        r'/feedforward/.*(sort|top_k|ragged|(?<!all_)gather|(?<!reduce_)scatter)'
    ),
    'feed-forward': r'/feedforward/',
    'norms': r'/(norm_\d|norm)/',
    'embedding': r'/(embedding|position)/|jvp\(GPT\)+/(gather|scatter)',
    'layers, in and out': r'\(GPT\)|/blocks/',
    'head and loss': r'jvp\(\)|BLD,VD|logsumexp|take_along_axis',
}


class StepPart(NamedTuple):
    """The instructions of one part of the model.

    cycles: total cycles in one run of the program.
    examples: the costliest source operations.
    """

    name: str
    cycles: float
    examples: tuple[str, ...]


def group_by_part(
    program: HloProgram, timeline: Timeline, patterns: Mapping[str, str], rest: str
) -> list[StepPart]:
    """Group the cost of instructions by part of the model; the costliest part first.

    Args:
      patterns: regular expression of each part; the first that matches the op_name applies.
      rest: name of the part for all others; instructions without a source are UNATTRIBUTED.
    """
    cycles: dict[str, float] = {}
    source_cycles: dict[str, dict[str, float]] = {}
    for cost in timeline.costs:
        source = find_source(program, cost.instruction)
        matches = (part for part, pattern in patterns.items() if re.search(pattern, source))
        name = next(matches, rest) if source else UNATTRIBUTED
        if cost.waiting:
            name = f'waiting for {name if source else "copies and merged collectives"}'
        cycles[name] = cycles.get(name, 0.0) + cost.cycles
        short = '/'.join(source.split('/')[-2:]) or cost.instruction.name.split('.')[0]
        by_source = source_cycles.setdefault(name, {})
        by_source[short] = by_source.get(short, 0.0) + cost.cycles
    ordered = sorted(cycles.items(), key=lambda item: -item[1])
    return [StepPart(name, total, _find_largest(source_cycles[name])) for name, total in ordered]


def _find_largest(cycles: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(cycles, key=lambda name: -cycles[name])[:3])


def find_source(program: HloProgram, instruction: Instruction) -> str:
    """Return the op_name of an instruction; for a fusion, the most frequent one in its body."""
    if instruction.op_name or not instruction.called:
        return instruction.op_name
    body = program.computations[instruction.called[0]]
    names = [inner.op_name for inner in body.instructions if inner.op_name]
    return max(dict.fromkeys(names), key=names.count) if names else ''
