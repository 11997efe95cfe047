"""Cycles and FLOPs of splash attention kernels, from the TPU compiler's machine code.

The compiler annotates a Pallas kernel with neither cycles nor FLOPs. It can, however, write out the
kernel's machine code: bundles, of which a core runs at most one per cycle. The code is a loop over
the grid with one large region for a visible pair of blocks, and two small regions for the first and
the last pair of a row. The time spent waiting for memory is not included.

    python -m gpt_jax.preflight.splash_kernels JSON

compiles the kernels of one config alone (`compile_kernels` runs it).
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.hardware import CHIPS
from gpt_jax.model.splash_attention import splash_block_size
from gpt_jax.preflight import topology
from gpt_jax.preflight.hlo import Computation, Instruction

LARGE_REGION = 64  # bundles; smaller regions move data
MATMULS_PER_BLOCK = {'fwd': 2, 'dkv': 4, 'dq': 3}  # matrix products per pair of blocks
_COMPILE_TIMEOUT = 300  # seconds


class CodeRegion(NamedTuple):
    """Bundle addresses of a region, both inclusive."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start + 1


class KernelCode(NamedTuple):
    """Bundles of one kernel.

    always: bundles of every grid step.
    once: further bundles of the first and the last step of a row together.
    run: further bundles of a visible pair of blocks.
    cores: number of cores that share the steps.
    """

    always: int
    once: int
    run: int
    cores: int


class VisibleBlocks(NamedTuple):
    """Attention mask in blocks.

    blocks: number of visible pairs of blocks.
    rows: number of grid rows.
    width: number of steps in a row, the maximum over all rows.
    """

    blocks: int
    rows: int
    width: int


def count_visible_blocks(model_config: ModelConfig, length: int) -> VisibleBlocks:
    """Count the visible pairs of blocks of splash attention over `length` tokens."""
    size = splash_block_size(length, model_config.attention_chunk)
    rows = length // size
    only_windows = set(model_config.attention_pattern) == {'window'}
    window = model_config.window if only_windows else length
    counts = [row - max(0, (row * size - window + 1) // size) + 1 for row in range(rows)]
    return VisibleBlocks(sum(counts), rows, max(counts))


def is_splash(instruction: Instruction) -> bool:
    return instruction.opcode == 'custom-call' and instruction.name.startswith('splash_')


def count_splash_flops(
    computation: Computation, instruction: Instruction, model_config: ModelConfig
) -> int:
    """Count the FLOPs of all visible pairs of blocks; pairs on the diagonal count in full."""
    batch, heads, length, head_dim = _read_query_dims(computation, instruction)
    size = splash_block_size(length, model_config.attention_chunk)
    blocks = count_visible_blocks(model_config, length).blocks
    matmuls = (
        count for name, count in MATMULS_PER_BLOCK.items() if f'_{name}_' in instruction.name
    )
    return next(matmuls, 0) * 2 * batch * heads * blocks * size * size * head_dim


def _read_query_dims(
    computation: Computation, instruction: Instruction
) -> tuple[int, int, int, int]:
    """Return (B, H, L, K) of the queries, the first floating-point operand.

    Its last two dims come in either order, and B may be missing if there is one sequence.
    """
    shapes = (shape for name in instruction.operands for shape in computation.shapes(name))
    dims = next(
        shape.dims
        for shape in shapes
        if shape.dtype in ('bf16', 'f32') and len(shape.dims) in (3, 4)
    )
    batch, heads, *rest = dims if len(dims) == 4 else (1, *dims)
    return batch, heads, max(rest), min(rest)


def estimate_splash_cycles(
    computation: Computation,
    instruction: Instruction,
    model_config: ModelConfig,
    kernels: dict[str, KernelCode],
) -> float | None:
    """Estimate the cycles of one execution on all cores of a chip together.

    Args:
      kernels: the result of `compile_kernels` for the same config.

    Returns:
      The cycles; None if this is not a splash kernel or its machine code is unknown.
    """
    code = next((code for name, code in kernels.items() if f'_{name}_' in instruction.name), None)
    if code is None or not is_splash(instruction):
        return None
    batch, heads, length, _ = _read_query_dims(computation, instruction)
    visible = count_visible_blocks(model_config, length)
    per_row = visible.width * code.always + code.once
    return batch * heads * (visible.rows * per_row + visible.blocks * code.run) / code.cores


def compile_kernels(
    model_config: ModelConfig, generation: str, cores: int, segments: bool
) -> dict[str, KernelCode]:
    """Compile the splash kernels of a config and read their machine code.

    A separate process compiles them alone, since the compiler writes out the machine code of
    either everything or nothing.

    Args:
      segments: whether attention is restricted to documents (segment ids).

    Returns:
      The code by the names in MATMULS_PER_BLOCK; empty if compilation fails.
    """
    with tempfile.TemporaryDirectory(prefix='gpt_jax_kernels_') as folder:
        dump_flags = (
            f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true '
            '--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*'
        )
        job = {
            'config': dataclasses.asdict(model_config),
            'generation': generation,
            'segments': segments,
        }
        environment = os.environ | {
            'LIBTPU_INIT_ARGS': dump_flags,
            'PYTHONPATH': os.pathsep.join(sys.path),
        }
        subprocess.run(
            [sys.executable, '-m', 'gpt_jax.preflight.splash_kernels', json.dumps(job)],
            env=environment,
            check=False,
            capture_output=True,
            timeout=_COMPILE_TIMEOUT,
        )
        codes = {name: _read_kernel(Path(folder), name, cores) for name in MATMULS_PER_BLOCK}
        return {name: code for name, code in codes.items() if code is not None}


def _read_kernel(folder: Path, name: str, cores: int) -> KernelCode | None:
    paths = [
        path
        for path in folder.glob(f'*splash_*_{name}_*final_bundles.txt')
        if 'schedule-analysis' not in path.name
    ]
    if not paths:
        return None
    loop, regions = _find_regions(paths[-1].read_text().splitlines())
    if not regions:
        return None
    run, *edges = sorted(regions, key=lambda region: -region.size)
    once = sum(region.size for region in edges)
    return KernelCode(always=loop.size - run.size - once, once=once, run=run.size, cores=cores)


def _find_regions(lines: list[str]) -> tuple[CodeRegion, list[CodeRegion]]:
    """Return (loop over the grid, large regions in it that contain no other large region)."""
    regions = list(_parse_regions(lines))
    loop_exit = re.compile(r'^\s*(0x[0-9a-f]+)\s.*/\* loop exit')
    exits = [match for line in lines if (match := loop_exit.match(line))]
    if not exits:
        return CodeRegion(0, 0), []
    address = int(exits[-1][1], 16)
    around = [
        region
        for region in regions
        if region.start < address - LARGE_REGION and region.end >= address
    ]
    loop = min(around or [CodeRegion(0, address)], key=lambda region: region.size)
    inside = [
        region
        for region in regions
        if loop.start < region.start and region.end <= address and region.size >= LARGE_REGION
    ]
    return loop, [region for region in inside if not _contains_another(region, inside)]


def _contains_another(region: CodeRegion, others: list[CodeRegion]) -> bool:
    return any(
        other != region and region.start <= other.start and other.end <= region.end
        for other in others
    )


def _parse_regions(lines: list[str]) -> Iterator[CodeRegion]:
    starts: dict[str, int] = {}
    for line in lines:
        match = re.match(r'\s*(0x[0-9a-f]+)\s', line)
        if not match:
            continue
        address = int(match[1], 16)
        starts |= dict.fromkeys(re.findall(r'Start region (\d+)', line), address)
        for name in re.findall(r'End region (\d+)', line):
            if name in starts:
                yield CodeRegion(starts[name], address)


def compile_job(text: str) -> None:
    """Compile the forward and backward kernels of one config.

    Args:
      text: JSON of config, generation and segments.
    """
    import jax
    import jax.numpy as jnp

    from gpt_jax.model.mask import AttentionMask
    from gpt_jax.model.splash_attention import splash_attention

    job = json.loads(text)
    generation = job['generation']
    smallest = topology.SLICES[generation][1 if CHIPS[generation].torus_dims == 2 else 0]
    machine = topology.parse_machine(f'{generation}:{smallest}')
    topology.set_compile_environment(machine)
    pattern = tuple(job['config']['attention_pattern'])
    model_config = ModelConfig(**(job['config'] | {'attention_pattern': pattern}))
    sharding = jax.sharding.SingleDeviceSharding(topology.make_devices(machine)[0])
    window = model_config.window if set(pattern) == {'window'} else None

    def make_array(*shape: int, dtype: str = model_config.matmul_dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def attend(
        q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None
    ) -> jax.Array:
        mask = AttentionMask(segments_BL, window, sink_H=None, slopes_H=None)
        o_BLHK = splash_attention(q_BLHK, k_BMGK, v_BMGK, mask, model_config)
        return jnp.sum(o_BLHK.astype(jnp.float32))

    length, head_dim = model_config.context, model_config.head_dim
    q_BLHK = make_array(2, length, model_config.heads, head_dim)
    k_BMGK = make_array(2, length, model_config.kv_heads, head_dim)
    segments_BL = make_array(2, length, dtype='int32') if job['segments'] else None
    gradient = jax.jit(jax.grad(attend, argnums=(0, 1, 2)))
    gradient.lower(q_BLHK, k_BMGK, k_BMGK, segments_BL).compile()


if __name__ == '__main__':
    compile_job(sys.argv[1])
