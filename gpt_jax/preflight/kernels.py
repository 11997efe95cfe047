"""What does a kernel cost that XLA's compiler does not look into? Splash attention, by the instructions made of it.

The compiler notes no cycles and no FLOPs at a Pallas kernel. But it can write out the machine code (bundles, one a
cycle at best) of which the kernel is made: a loop over its grid, in it a large region for a visible pair of blocks and
two small ones for the first and the last pair of a row. Waiting for memory is not in it.
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

from gpt_jax.compiled.text import Computation, Instruction
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.splash import block

LARGE = 64  # bundles; smaller regions move data
PRODUCTS = {'fwd': 2, 'dkv': 4, 'dq': 3}  # matrix products on each pair of blocks


class Region(NamedTuple):
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start + 1


class Code(NamedTuple):
    """Bundles: of every step of the grid, of a row's first and last together, and of a visible pair of blocks besides.
    cores: that share the steps."""

    always: int
    once: int
    run: int
    cores: int


class Visible(NamedTuple):
    """Of a mask in blocks: how many are visible, and how many a row of the grid has (the most in any row)."""

    blocks: int
    rows: int
    width: int


def visible(config: ModelConfig, length: int) -> Visible:
    """Of the config's splash attention over `length` tokens."""
    size = block(length, config.attention_chunk)
    rows = length // size
    window = config.window if set(config.attention_pattern) == {'window'} else length
    counts = [row - max(0, (row * size - window + 1) // size) + 1 for row in range(rows)]
    return Visible(sum(counts), rows, max(counts))


def is_splash(one: Instruction) -> bool:
    return one.opcode == 'custom-call' and one.name.startswith('splash_')


def flops(computation: Computation, one: Instruction, config: ModelConfig) -> int:
    """Of all visible blocks, the diagonal's whole."""
    batch, heads, length, width = _queries(computation, one)
    size = block(length, config.attention_chunk)
    products = next((count for name, count in PRODUCTS.items() if f'_{name}_' in one.name), 0)
    return products * 2 * batch * heads * visible(config, length).blocks * size * size * width


def _queries(computation: Computation, one: Instruction) -> tuple[int, int, int, int]:
    """(B, H, L, K) of the first operand of numbers, the queries; its last two dims may stand either way, and where
    there is one row, B may be missing."""
    shapes = (shape for operand in one.operands for shape in computation.shapes(operand))
    dims = next(shape.dims for shape in shapes if shape.dtype in ('bf16', 'f32') and len(shape.dims) in (3, 4))
    batch, heads, *rest = dims if len(dims) == 4 else (1, *dims)
    return batch, heads, max(rest), min(rest)


def cycles(computation: Computation, one: Instruction, config: ModelConfig, code: dict[str, Code]) -> float | None:
    """Of one run, on all cores of a chip together; None where the machine code was not understood.

    Args:
      code: of `compiled`, for the same config.
    """
    found = next((each for name, each in code.items() if f'_{name}_' in one.name), None)
    if found is None or not is_splash(one):
        return None
    batch, heads, length, _ = _queries(computation, one)
    seen = visible(config, length)
    pairs = batch * heads * (seen.rows * (seen.width * found.always + found.once) + seen.blocks * found.run)
    return pairs / found.cores


def compiled(config: ModelConfig, generation: str, cores: int, segments: bool) -> dict[str, Code]:
    """The machine code of the config's splash kernels by the names in PRODUCTS, from a process of its own, since the
    compiler writes out all that it makes or nothing. Empty where that fails."""
    with tempfile.TemporaryDirectory(prefix='gpt_jax_kernels_') as folder:
        wanted = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
        arguments = {'config': dataclasses.asdict(config), 'generation': generation, 'segments': segments}
        environment = os.environ | {
            'LIBTPU_INIT_ARGS': f'{wanted} --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*',
            'PYTHONPATH': os.pathsep.join(sys.path),
        }
        subprocess.run(
            [sys.executable, '-m', 'gpt_jax.preflight.kernel_job', json.dumps(arguments)],
            env=environment, check=False, capture_output=True, timeout=300,
        )  # fmt: skip
        return {name: code for name in PRODUCTS if (code := _code(Path(folder), name, cores)) is not None}


def _code(folder: Path, name: str, cores: int) -> Code | None:
    files = [
        file for file in folder.glob(f'*splash_*_{name}_*final_bundles.txt') if 'schedule-analysis' not in file.name
    ]
    loop, regions = _read(files[-1].read_text().splitlines()) if files else (Region(0, 0), [])
    if not regions:
        return None
    run, *edges = sorted(regions, key=lambda region: -region.size)
    once = sum(region.size for region in edges)
    return Code(always=loop.size - run.size - once, once=once, run=run.size, cores=cores)


def _read(lines: list[str]) -> tuple[Region, list[Region]]:
    """The loop over the grid, and the large regions in it that hold no other large one."""
    regions, exits = list(_regions(lines)), re.compile(r'^\s*(0x[0-9a-f]+)\s.*/\* loop exit')
    found = [match for line in lines if (match := exits.match(line))]
    if not found:
        return Region(0, 0), []
    at = int(found[-1][1], 16)
    around = [region for region in regions if region.start < at - LARGE and region.end >= at] or [Region(0, at)]
    loop = min(around, key=lambda region: region.size)
    inside = [region for region in regions if loop.start < region.start and region.end <= at and region.size >= LARGE]
    leaves = [a for a in inside if not any(b != a and a.start <= b.start and b.end <= a.end for b in inside)]
    return loop, leaves


def _regions(lines: list[str]) -> Iterator[Region]:
    begun: dict[str, int] = {}
    for line in lines:
        address = re.match(r'\s*(0x[0-9a-f]+)\s', line)
        if not address:
            continue
        at = int(address[1], 16)
        begun |= dict.fromkeys(re.findall(r'Start region (\d+)', line), at)
        for name in re.findall(r'End region (\d+)', line):
            if name in begun:
                yield Region(begun[name], at)
