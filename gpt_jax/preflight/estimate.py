"""Time, FLOPs and memory traffic of a compiled training step on a given chip and interconnect."""

import re
from dataclasses import dataclass

import numpy as np

from gpt_jax.core.config import Config, ModelConfig
from gpt_jax.preflight import splash_kernels
from gpt_jax.preflight.collectives import Collective, estimate_collective_seconds, find_collectives
from gpt_jax.preflight.compile_step import CompiledStep
from gpt_jax.preflight.hlo import (
    Computation,
    ExecutionCounts,
    HloProgram,
    HloShape,
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

# Instructions without traffic of their own: they name, view or await existing values, or run a
# computation whose instructions are counted themselves.
FREE_OPCODES = {
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'while',
    'conditional',
    'call',
    'after-all',
    'partition-id',
    'replica-id',
    'opt-barrier',
    'iota',
    'async-start',
    'async-update',
    'async-done',
    'copy-done',
}
_SLICES = ('dynamic-slice', 'slice', 'gather')


def count_flops(computation: Computation, instruction: Instruction) -> int:
    """Count the FLOPs of a matrix product or convolution, two per multiply-add; others have 0.

    A fusion has 0 too, since the products inside it are instructions of their own. A custom call,
    into which the compiler cannot look, has the cost that its author declared.
    """
    if instruction.opcode == 'dot':
        return 2 * instruction.shapes[0].size * _contraction_size(computation, instruction)
    if instruction.opcode == 'convolution':
        return _convolution_flops(computation, instruction)
    if instruction.opcode == 'custom-call':
        return _custom_call_flops(computation, instruction)
    return 0


def _contraction_size(computation: Computation, instruction: Instruction) -> int:
    left = computation.shapes(instruction.operands[0])[0]
    size = 1
    for dim in instruction.int_attribute('lhs_contracting_dims'):
        size *= left.dims[dim]
    return size


def _custom_call_flops(computation: Computation, instruction: Instruction) -> int:
    target = instruction.attribute(r'custom_call_target="([^"]*)"') or ''
    if 'gemm' not in target and 'matmul' not in target.lower():
        return int(instruction.attribute(r'"flops":"?(\d+)') or 0)
    text = instruction.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]') or ''
    left = computation.shapes(instruction.operands[0])[0]
    contracted = [int(dim) for dim in re.findall(r'\d+', text)] or [len(left.dims) - 1]
    return 2 * instruction.shapes[0].size * int(np.prod([left.dims[dim] for dim in contracted]))


def _convolution_flops(computation: Computation, instruction: Instruction) -> int:
    """Count the FLOPs of a convolution.

    The TPU compiler turns every matrix product into one. Batch dimensions become window dimensions
    that consist mostly of dilation holes, which need no products.
    """
    left, right = (computation.shapes(operand)[0] for operand in instruction.operands[:2])
    labels = instruction.attribute(r'dim_labels=(\S+?)(?:,|\s|$)') or ''
    left_labels, right_labels, out_labels = re.split(r'_|->', labels)
    out = instruction.shapes[0]
    batch_groups = int(instruction.attribute(r'batch_group_count=(\d+)') or 1)
    products = right.dims[right_labels.index('i')] * out.dims[out_labels.index('f')]
    products *= left.dims[left_labels.index('b')] // batch_groups
    window = instruction.attribute(r'window=\{([^}]*)\}') or ''
    for dim, label in enumerate(sorted(set(left_labels) - {'b', 'f'})):
        products *= _count_window_pairs(
            left.dims[left_labels.index(label)],
            right.dims[right_labels.index(label)],
            out.dims[out_labels.index(label)],
            window,
            dim,
        )
    return 2 * products


def _count_window_pairs(inputs: int, kernel: int, outputs: int, window: str, dim: int) -> int:
    """Count the pairs (output, kernel tap) of one spatial dim that read an input.

    All other pairs read a dilation hole or the padding.
    """

    def read_field(name: str, default: str) -> str:
        match = re.search(rf'\b{name}=(\S+)', window)
        return match[1].split('x')[dim] if match else default

    stride, low = int(read_field('stride', '1')), int(read_field('pad', '0_0').split('_')[0])
    dilation = int(read_field('lhs_dilate', '1'))
    kernel_dilation = int(read_field('rhs_dilate', '1'))
    taps = np.arange(kernel)[None] * kernel_dilation
    position = np.arange(outputs)[:, None] * stride + taps - low
    inside = (position >= 0) & (position <= (inputs - 1) * dilation)
    return int(np.sum(inside & (position % dilation == 0)))


def count_bytes(program: HloProgram, computation: Computation, instruction: Instruction) -> int:
    """Count the bytes that an instruction reads from and writes to main memory.

    Operands and results count in full; slices and in-place updates count only their own size.
    On-chip memory and the padding of tiled layouts are not counted.
    """
    if instruction.opcode in FREE_OPCODES:
        return 0
    if instruction.opcode == 'custom-call' and not instruction.operands:
        return 0
    if instruction.opcode in ('copy-start', 'collective-permute-start'):
        return sum(_main_memory_bytes(shape) for shape in instruction.shapes[:2])
    if instruction.opcode == 'fusion' and instruction.called:
        body = program.computations.get(instruction.called[0])
        if body is not None:
            return _fusion_bytes(computation, body, instruction)
    written = sum(map(_main_memory_bytes, instruction.shapes))
    operands = [computation.shapes(operand) for operand in instruction.operands]
    if instruction.opcode in _SLICES:
        return 2 * written
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * sum(map(_main_memory_bytes, operands[1]))
    return written + sum(_main_memory_bytes(shape) for shapes in operands for shape in shapes)


def _main_memory_bytes(shape: HloShape) -> int:
    return 0 if shape.on_chip else shape.bytes


def _fusion_bytes(computation: Computation, body: Computation, fusion: Instruction) -> int:
    total = 0
    for parameter in (inner for inner in body.instructions if inner.opcode == 'parameter'):
        operand = fusion.operands[int(parameter.literal)]
        operand_bytes = sum(map(_main_memory_bytes, computation.shapes(operand)))
        total += min(operand_bytes, _bytes_read(body, parameter)) if operand_bytes else 0
    roots = [body.root]
    if body.root.opcode == 'tuple':
        roots = [body.by_name[operand] for operand in body.root.operands]
    for root, shape in zip(roots, fusion.shapes, strict=False):
        if not shape.on_chip:
            update = _update_bytes(body, root)
            total += shape.bytes if update is None else update
    return total


def _bytes_read(body: Computation, parameter: Instruction) -> int:
    """Count the bytes of a fusion's parameter that are read.

    They are the slices if only slices are taken, none if the parameter is only updated in place,
    and all of its bytes otherwise.
    """
    total, pending = 0, [parameter]
    while pending:
        value = pending.pop()
        for user in body.users.get(value.name, []):
            if user.opcode in _SLICES and user.operands[0] == value.name:
                total += user.bytes
            elif user.opcode == 'dynamic-update-slice' and user.operands[0] == value.name:
                continue
            elif user.opcode == 'bitcast':
                pending.append(user)
            else:
                return parameter.bytes
    return total


def _update_bytes(body: Computation, root: Instruction) -> int | None:
    """Return the bytes written if a fusion updates a parameter in place, else None."""
    while root.opcode == 'bitcast':
        root = body.by_name[root.operands[0]]
    if root.opcode != 'dynamic-update-slice':
        return None
    return sum(shape.bytes for shape in body.shapes(root.operands[1]))


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
        return count_bytes(self.program, computation, instruction), flops

    def _count_flops(self, computation: Computation, instruction: Instruction) -> int:
        if splash_kernels.is_splash(instruction):
            return splash_kernels.count_splash_flops(computation, instruction, self.model_config)
        return count_flops(computation, instruction)
