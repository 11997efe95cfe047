"""How long does the compiled step take, and with what? From its text, the chip's numbers and the interconnect's."""

from dataclasses import dataclass
from typing import Any

from gpt_jax.assemble import Settings
from gpt_jax.compiled import loops, text, work
from gpt_jax.compiled.collectives import Collective, collectives
from gpt_jax.compiled.cycles import Timeline, timeline
from gpt_jax.compiled.parts import Part, parts
from gpt_jax.compiled.text import Computation, Instruction
from gpt_jax.preflight import kernels
from gpt_jax.preflight.links import seconds
from gpt_jax.preflight.parts import PARTS, REST
from gpt_jax.preflight.program import Made
from gpt_jax.preflight.topology import Machine

MATMUL = 0.6  # of a GPU's peak that products are taken to reach, where no compiler says
CPU_WIDER = 2  # a CPU's compiler sends and keeps bfloat16 as float32


@dataclass(frozen=True)
class Estimate:
    """Of one device and one step.

    seconds: by the compiler's cycles, or of GPUs by closed forms. floor: what each instruction takes at the chip's peak
    or bandwidth, added up. exposed: seconds in which nothing but sending goes on. sending: all of it, hidden or not.
    flops, moved: executed, and bytes to and from main memory. unknown: what was counted as nothing.
    """

    seconds: float
    floor: float
    exposed: float
    sending: float
    flops: int
    moved: int
    collectives: list[tuple[Collective, float]]
    parts: list[Part]
    unknown: list[str]


def estimate(made: Made, settings: Settings, one: Machine, code: dict[str, kernels.Code]) -> Estimate:
    """Reads the compiled program.

    Args:
      code: of splash attention (kernels.compiled), where the program uses it.
    """
    program = text.parse(made.text)
    runs = loops.times(program)
    chip, model = one.chip, settings.model
    found = [(each, seconds(each, chip, made.places)) for each in collectives(program, runs)]
    clock = chip.clock or 1.0
    by_name = {(each.computation, each.name): wanted * clock for each, wanted in found}

    def sending(computation: Computation, instruction: Instruction) -> float:
        return by_name.get((computation.name, instruction.name), 0.0)

    guessed: list[str] = []

    def kernel(computation: Computation, instruction: Instruction) -> float:
        known = kernels.cycles(computation, instruction, model, code)
        if known is None:
            guessed.append(instruction.name)
        return known or 0.0

    flops, moved, floor = _counted(program, runs, chip, model)
    line = timeline(program, sending, kernel, runs)
    if one.tpu:
        total, exposed = line.cycles / clock, line.exposed / clock
    else:
        exposed = sum(each.times * wanted for each, wanted in found) / CPU_WIDER
        total = max(flops / (MATMUL * chip.peak), moved / CPU_WIDER / chip.bandwidth) + exposed
    return Estimate(
        seconds=total, floor=floor, exposed=exposed, sending=sum(each.times * wanted for each, wanted in found),
        flops=flops, moved=moved, collectives=found, parts=_parts(program, line, clock),
        unknown=[*runs.unknown, *line.unknown, *guessed],
    )  # fmt: skip


def _counted(program: text.Program, runs: loops.Times, chip: Any, model: Any) -> tuple[int, int, float]:
    """FLOPs, bytes, and the seconds that each instruction takes at least, added up."""
    flops = moved = 0
    floor = 0.0
    inside: dict[str, int] = {}
    for name in runs.times:
        computation = program.computations[name]
        inside[name] = sum(_flops(computation, each, model) for each in computation.instructions)
    for name, count in runs.times.items():
        computation = program.computations[name]
        flops += count * inside[name]
        if name in runs.fused:
            continue
        for each in computation.instructions:
            size = work.moved(program, computation, each)
            products = _flops(computation, each, model) + sum(
                inside.get(called, 0) for called in each.called if each.opcode == 'fusion'
            )
            moved += count * size
            floor += count * max(size / chip.bandwidth, products / chip.peak)
    return flops, moved, floor


def _flops(computation: Computation, one: Instruction, model: Any) -> int:
    if kernels.is_splash(one):
        return kernels.flops(computation, one, model)
    return work.flops(computation, one)


def _parts(program: text.Program, line: Timeline, clock: float) -> list[Part]:
    return [part._replace(cycles=part.cycles / clock) for part in parts(program, line, PARTS, REST)]
