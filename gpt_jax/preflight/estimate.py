"""Time, FLOPs and memory traffic of a compiled training step on a given chip and interconnect."""

from dataclasses import dataclass

from gpt_jax.core.config import Config, ModelConfig
from gpt_jax.preflight import hlo_cost, splash_kernels
from gpt_jax.preflight.collectives import Collective, estimate_collective_seconds, find_collectives
from gpt_jax.preflight.compile_step import CompiledStep
from gpt_jax.preflight.hlo import (
    Computation,
    ExecutionCounts,
    HloProgram,
    Instruction,
    count_executions,
    parse_hlo,
)
from gpt_jax.preflight.timeline import (
    OTHER_PART,
    PART_PATTERNS,
    StepPart,
    group_by_part,
    simulate_schedule,
)
from gpt_jax.preflight.topology import Machine

MATMUL_EFFICIENCY = 0.6  # assumed share of the peak in products, without a compiler's estimate
CPU_BFLOAT16_WIDENING = 2  # the CPU compiler stores and sends bfloat16 as float32


@dataclass(frozen=True)
class StepEstimate:
    """Cost of one training step on one device.

    Attributes:
      seconds: from the compiler's cycle estimates; for GPUs, from closed forms.
      ideal_seconds: sum over the instructions of their time at peak FLOP/s or memory bandwidth.
      exposed_seconds: seconds in which only communication runs.
      collective_seconds: seconds of all communication, hidden or not.
      flops: FLOPs executed.
      moved_bytes: bytes read from and written to main memory.
      collectives: each with the seconds of one execution.
      parts: parts of the model; their `cycles` are seconds here.
      unknown: instructions of unknown cost, and loops of unknown trip count.
    """

    seconds: float
    ideal_seconds: float
    exposed_seconds: float
    collective_seconds: float
    flops: int
    moved_bytes: int
    collectives: list[tuple[Collective, float]]
    parts: list[StepPart]
    unknown: list[str]


def estimate_step(
    step: CompiledStep,
    config: Config,
    machine: Machine,
    kernels: dict[str, splash_kernels.KernelCode],
) -> StepEstimate:
    """Estimate the cost of the compiled step.

    Args:
      kernels: splash attention kernels (splash_kernels.compile_kernels), if the program uses them.
    """
    program = parse_hlo(step.text)
    counts = count_executions(program)
    chip = machine.chip
    widening = 1 if machine.is_tpu else CPU_BFLOAT16_WIDENING
    clock = chip.clock_hz or 1.0
    costs = _InstructionCosts(program, counts, config.model)
    collectives = [
        (collective, estimate_collective_seconds(collective, chip, step.coordinates) / widening)
        for collective in find_collectives(program, counts)
    ]
    cycles_by_name = {
        (collective.computation, collective.name): seconds * clock
        for collective, seconds in collectives
    }
    unknown_kernels: list[str] = []

    def collective_cost(computation: Computation, instruction: Instruction) -> float:
        return cycles_by_name.get((computation.name, instruction.name), 0.0)

    def kernel_cost(computation: Computation, instruction: Instruction) -> float:
        cycles = splash_kernels.estimate_splash_cycles(
            computation, instruction, config.model, kernels
        )
        if cycles is None:
            unknown_kernels.append(instruction.name)
        return cycles or 0.0

    def gpu_cost(computation: Computation, instruction: Instruction) -> float:
        size, flops = costs.find(computation, instruction)
        memory_seconds = size / widening / chip.memory_bandwidth
        return max(memory_seconds, flops / (MATMUL_EFFICIENCY * chip.bfloat16_peak))

    flops = moved_bytes = 0
    ideal_seconds = 0.0
    for name, executions in counts.executions.items():
        computation = program.computations[name]
        flops += executions * costs.flops_inside[name]
        for instruction in computation.instructions if name not in counts.fused else ():
            size, products = costs.find(computation, instruction)
            moved_bytes += executions * size // widening
            memory_seconds = size / widening / chip.memory_bandwidth
            ideal_seconds += executions * max(memory_seconds, products / chip.bfloat16_peak)
    other_cost = None if machine.is_tpu else gpu_cost
    timeline = simulate_schedule(program, collective_cost, kernel_cost, other_cost)
    parts = group_by_part(program, timeline, PART_PATTERNS, OTHER_PART)
    return StepEstimate(
        seconds=timeline.cycles / clock,
        ideal_seconds=ideal_seconds,
        exposed_seconds=timeline.exposed_cycles / clock,
        collective_seconds=timeline.collective_cycles / clock,
        flops=flops,
        moved_bytes=moved_bytes,
        collectives=collectives,
        parts=[part._replace(cycles=part.cycles / clock) for part in parts],
        unknown=[*counts.unknown, *timeline.unknown, *unknown_kernels],
    )


class _InstructionCosts:
    """Bytes and FLOPs of instructions, including splash attention and the inside of fusions.

    flops_inside: FLOPs of each computation, summed over its instructions.
    """

    def __init__(self, program: HloProgram, counts: ExecutionCounts, model_config: ModelConfig):
        self.program = program
        self.model_config = model_config
        self.flops_inside = {
            name: sum(
                self._count_flops(program.computations[name], instruction)
                for instruction in program.computations[name].instructions
            )
            for name in counts.executions
        }

    def find(self, computation: Computation, instruction: Instruction) -> tuple[int, int]:
        """Return (bytes, FLOPs) of one execution."""
        fused = instruction.called if instruction.opcode == 'fusion' else ()
        flops = sum(self.flops_inside.get(name, 0) for name in fused)
        flops += self._count_flops(computation, instruction)
        return hlo_cost.count_bytes(self.program, computation, instruction), flops

    def _count_flops(self, computation: Computation, instruction: Instruction) -> int:
        if splash_kernels.is_splash(instruction):
            return splash_kernels.count_splash_flops(computation, instruction, self.model_config)
        return hlo_cost.count_flops(computation, instruction)
