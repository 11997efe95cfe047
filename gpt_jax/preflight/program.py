"""Does the step fit, and what becomes of it? The real step, compiled for devices that hold nothing."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gpt_jax import assemble
from gpt_jax.assemble import Settings
from gpt_jax.errors import UserError
from gpt_jax.model import memory
from gpt_jax.preflight.topology import Machine


class Made(NamedTuple):
    """text: of the compiled program; '' where it does not fit. short: bytes that each device lacks; 0: it fits.
    limit: bytes that a device has. bytes: of each device, by kind. places: of the mesh's devices in the torus."""

    text: str
    short: int
    limit: int
    bytes: dict[str, int]
    mesh: dict[str, int]
    places: list[tuple[int, ...]]
    microbatches: int
    seconds: float


def make(settings: Settings, one: Machine, devices: Sequence[Any], options: Mapping[str, str]) -> Made:
    """Compiles the run's step for the machine.

    Args:
      options: of the compiler, beside its own defaults; what the run would be given as LIBTPU_INIT_ARGS.

    Raises:
      UserError: the mesh does not suit the devices, or the kernel does not suit the machine.
    """
    began = time.perf_counter()
    program = assemble.build(settings, devices)
    lowered = program.step.lower(program.abstract_state, assemble.abstract_batch(settings, program.mesh))
    known, microbatches = _known(settings, program), program.microbatches
    text, stats, short, limit = '', None, 0, one.chip.memory
    try:
        compiled = lowered.compile(compiler_options=dict(options) or None)
        text, stats = compiled.as_text(), compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        if 'memory space vmem' in str(error):
            raise UserError(
                'preflight: a kernel of the step wants more of the fast memory than there is; other options of the '
                'compiler, or a smaller train.microbatch'
            ) from None
        short, limit = exhausted(str(error))
    if stats is not None:
        total = stats.argument_size_in_bytes + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
        total += stats.output_size_in_bytes - stats.alias_size_in_bytes
        short = max(0, total - limit)
        known |= _temporaries(known, stats.temp_size_in_bytes)
        known |= {'code': stats.generated_code_size_in_bytes, 'total': total}
    places = [tuple(getattr(device, 'coords', ()))[: one.chip.dims] for device in program.mesh.devices.flat]
    return Made(
        text=text, short=short, limit=limit, bytes=known, mesh=dict(program.mesh.shape), places=places,
        microbatches=microbatches, seconds=time.perf_counter() - began,
    )  # fmt: skip


def _known(settings: Settings, program: assemble.Program) -> dict[str, int]:
    """Bytes of one device that do not wait for the compiler."""
    state, rows = program.abstract_state, settings.train.batch // program.rows // program.microbatches
    return {
        'parameters': _bytes(state.params),
        'optimizer': _bytes(state.optimizer),
        'batch': _bytes(assemble.abstract_batch(settings, program.mesh)),
        # Those of a device's rows; the axes that do not share rows share what they keep.
        'activations': memory.activation_bytes(settings.model, rows) * program.rows // program.mesh.size,
    }


def _bytes(tree: Any) -> int:
    """On one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for dim in leaf.sharding.shard_shape(leaf.shape):
            size *= dim
        total += size
    return total


def _temporaries(known: Mapping[str, int], temporaries: int) -> dict[str, int]:
    """Of the compiler's temporaries, what the backward pass keeps, and the rest: gradients, gathered weights, work."""
    kept = min(known['activations'], temporaries)
    return {'activations': kept, 'temporaries': temporaries - kept}


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def exhausted(message: str) -> tuple[int, int]:
    """(bytes that are lacking, bytes that there are) from what the TPU's compiler says where a program does not fit.

    It has said it as 'requires ... (26.02G) exceeds ... (15.75G)' and 'Used 26.02G of 15.75G hbm. Exceeded ... by ...'.
    """
    number = r'([\d.]+)([KMGT]?)i?B?'
    for pattern in (rf'\({number}\) exceeds [^(]*\({number}\)', rf'Used {number} of {number}'):
        if found := re.search(pattern, message):
            need, there = (float(found[at]) * _UNITS[found[at + 1]] for at in (1, 3))
            return round(need - there), round(there)
    if found := re.search(rf'by {number}', message):
        return round(float(found[1]) * _UNITS[found[2]]), 0
    raise UserError(f'preflight: the compiler ran out of memory, and says not by how much: {message[:200]}')


def options(words: str | None) -> dict[str, str]:
    """Of 'name=value,name=value', for the compiler."""
    pairs = [word.partition('=') for word in (words or '').split(',') if word]
    for name, sign, _ in pairs:
        if not name.startswith('xla_') or not sign:
            raise UserError(f'--compiler_options: {name}: wants xla_NAME=VALUE,...')
    return {name: value for name, _, value in pairs}
