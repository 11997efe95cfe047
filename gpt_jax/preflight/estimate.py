"""How long does the compiled step take, and with what? From its text, the chip's numbers and the interconnect's."""

from dataclasses import dataclass

from gpt_jax.assemble import Settings
from gpt_jax.compiled import loops, text, work
from gpt_jax.compiled.collectives import Collective, collectives
from gpt_jax.compiled.cycles import Timeline, timeline
from gpt_jax.compiled.parts import Part, parts
from gpt_jax.compiled.text import Computation, Instruction
from gpt_jax.model.config import ModelConfig
from gpt_jax.preflight import kernels
from gpt_jax.preflight.chips import Chip
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
    wider = 1 if one.tpu else CPU_WIDER
    found = [(each, seconds(each, chip, made.places) / wider) for each in collectives(program, runs)]
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

    inside = {
        name: sum(_flops(program.computations[name], each, model) for each in program.computations[name].instructions)
        for name in runs.times
    }

    def closed(computation: Computation, instruction: Instruction) -> float:
        size, products = _cost(program, computation, instruction, inside, model)
        return max(size / wider / chip.bandwidth, products / (MATMUL * chip.peak))

    flops, moved, floor = _counted(program, runs, inside, chip, model, wider)
    line = timeline(program, sending, kernel, runs, None if one.tpu else closed)
    return Estimate(
        seconds=line.cycles / clock, floor=floor, exposed=line.exposed / clock, sending=line.sending / clock,
        flops=flops, moved=moved, collectives=found, parts=_parts(program, line, clock),
        unknown=[*runs.unknown, *line.unknown, *guessed],
    )  # fmt: skip


def _counted(
    program: text.Program, runs: loops.Times, inside: dict[str, int], chip: Chip, model: ModelConfig, wider: int
) -> tuple[int, int, float]:
    """FLOPs, bytes, and the seconds that each instruction takes at least, added up."""
    flops = moved = 0
    floor = 0.0
    for name, count in runs.times.items():
        computation = program.computations[name]
        flops += count * inside[name]
        for each in computation.instructions if name not in runs.fused else ():
            size, products = _cost(program, computation, each, inside, model)
            moved += count * size // wider
            floor += count * max(size / wider / chip.bandwidth, products / chip.peak)
    return flops, moved, floor


def _cost(
    program: text.Program, computation: Computation, one: Instruction, inside: dict[str, int], model: ModelConfig
) -> tuple[int, int]:
    """Bytes and FLOPs of an instruction, those inside a fusion included."""
    fused = sum(inside.get(name, 0) for name in one.called) if one.opcode == 'fusion' else 0
    return work.moved(program, computation, one), fused + _flops(computation, one, model)


def _flops(computation: Computation, one: Instruction, model: ModelConfig) -> int:
    if kernels.is_splash(one):
        return kernels.flops(computation, one, model)
    return work.flops(computation, one)


def _parts(program: text.Program, line: Timeline, clock: float) -> list[Part]:
    return [part._replace(cycles=part.cycles / clock) for part in parts(program, line, PARTS, REST)]
