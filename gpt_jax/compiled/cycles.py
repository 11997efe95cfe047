"""How long does a TPU's program take, by its compiler's own estimates? Its schedule played through on one clock.

The compiler notes `estimated_cycles` at what it has put into windows; collectives and foreign kernels have none, so the
caller says what they take. Work between the start and the end of an asynchronous collective hides that much of it; one
collective is under way at a time, which is the careful assumption.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gpt_jax.compiled.collectives import DONE, START, channel, kind_of, phase
from gpt_jax.compiled.loops import Times, times, trip_count
from gpt_jax.compiled.text import Computation, Instruction, Program

Cost = Callable[[Computation, Instruction], float]  # cycles of one run


class Spent(NamedTuple):
    """cycles: of all runs of one instruction. waiting: of them those in which nothing but sending goes on."""

    instruction: Instruction
    computation: str
    times: int
    cycles: float
    waiting: bool


@dataclass
class Timeline:
    """cycles: of the whole program. computing: of them those that compute. sending: of all collectives, hidden or not.
    spent: by instruction. unknown: custom calls that nobody knows the cycles of."""

    cycles: float = 0.0
    computing: float = 0.0
    sending: float = 0.0
    spent: list[Spent] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def exposed(self) -> float:
        """Cycles in which nothing but sending goes on."""
        return self.cycles - self.computing


def estimated(one: Instruction) -> int | None:
    """The compiler's cycles of one run."""
    found = one.attribute(r'"estimated_cycles":"(\d+)"')
    return None if found is None else int(found)


def timeline(
    program: Program, collective: Cost, kernel: Cost | None = None, runs: Times | None = None, other: Cost | None = None
) -> Timeline:
    """Plays the schedule through.

    Args:
      collective: what a collective takes, if nothing else goes on.
      kernel: what a custom call of a foreign kernel takes; None: nothing, and it is listed as unknown.
      other: what any other instruction takes; None: what the compiler says.
    """
    player = _Player(program, collective, kernel, runs or times(program), other)
    line = player.line
    line.cycles = player.play(program.entry, 1)
    return line


class _Player:
    def __init__(self, program: Program, collective: Cost, kernel: Cost | None, runs: Times, other: Cost | None):
        self.program, self.collective, self.kernel, self.runs, self.other = program, collective, kernel, runs, other
        self.line = Timeline()

    def play(self, computation: Computation, count: int) -> float:
        """The cycles of one run of the computation; what all `count` runs of it spend goes into the timeline."""
        now = free = 0.0
        ends: dict[str, float] = {}
        for one in computation.instructions:
            sending = self._sending(computation, one)
            part, name = self._part(one)
            began = now
            if one.opcode in ('while', 'call', 'conditional'):
                now += self._inner(computation, one, count)
            elif sending is not None and (one.opcode.endswith('-start') or part == START):
                ends[name] = free = max(now, free) + sending
                self.line.sending += sending * count
            elif (ended := self._ended(one, part, name)) in ends:
                now = max(now, ends[ended])
                self._note(computation, one, count, now - began, True)
            elif sending is not None and part is None:
                computing = self._computing(computation, one)  # a fusion may compute while it sends
                now = free = max(max(now, free) + sending, began + computing)
                self.line.sending += sending * count
                self.line.computing += computing * count
                self._note(computation, one, count, computing, False)
                self._note(computation, one, count, now - began - computing, True)
            elif cycles := self._computing(computation, one):
                now += cycles
                self.line.computing += cycles * count
                self._note(computation, one, count, cycles, False)
        return now

    def _part(self, one: Instruction) -> tuple[str | None, str]:
        """(which part a fusion has in an asynchronous collective, by what name its parts know each other)."""
        for name in one.called if one.opcode == 'fusion' else ():
            inner = self.program.computations[name]
            if (part := phase(inner)) is not None:
                return part, next((f'channel {channel(each)}' for each in inner.instructions if kind_of(each)), '')
        return None, one.name

    def _ended(self, one: Instruction, part: str | None, name: str) -> str:
        """What is waited for here; '' nothing."""
        if part == DONE:
            return name
        return one.operands[0] if one.opcode.endswith('-done') and one.operands else ''

    def _note(self, computation: Computation, one: Instruction, count: int, cycles: float, waiting: bool) -> None:
        if cycles > 0:
            self.line.spent.append(Spent(one, computation.name, count, cycles * count, waiting))

    def _inner(self, computation: Computation, one: Instruction, count: int) -> float:
        called = [self.program.computations[name] for name in one.called if name in self.program.computations]
        if not called:
            return 0.0
        repeats = 1
        if one.opcode == 'while':
            repeats = trip_count(self.program, computation, one) or 1
        chosen = max(called, key=lambda each: len(each.instructions))
        return repeats * self.play(chosen, count * repeats)

    def _sending(self, computation: Computation, one: Instruction) -> float | None:
        """The cycles of a collective, or of those inside of a fusion; None: there is none."""
        if kind_of(one) is not None:
            return self.collective(computation, one)
        if one.opcode not in ('fusion', 'async-start'):
            return None
        found = [
            self.collective(inner, each)
            for name in one.called for inner in [self.program.computations[name]]
            for each in inner.instructions if kind_of(each) is not None
        ]  # fmt: skip
        return sum(found) if found else None

    def _computing(self, computation: Computation, one: Instruction) -> float:
        if self.other is not None:
            return self.other(computation, one)
        cycles = estimated(one)
        if cycles is not None:
            return float(cycles)
        if one.opcode != 'custom-call' or 'tpu_custom_call' not in one.attributes:
            return 0.0
        if self.kernel is None:
            self.line.unknown.append(one.name)
            return 0.0
        return self.kernel(computation, one)
