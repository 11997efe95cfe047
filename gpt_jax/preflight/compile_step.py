"""Ahead-of-time compilation of a training step for devices that are not attached."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gpt_jax.core.config import Config
from gpt_jax.core.errors import UserError
from gpt_jax.preflight import model_cost
from gpt_jax.preflight.topology import Machine
from gpt_jax.train import build


class CompiledStep(NamedTuple):
    """A training step compiled for a machine.

    Attributes:
      text: HLO text of the compiled program; '' if the compiler ran out of memory.
      missing_bytes: bytes that each device lacks; 0: the step fits.
      limit_bytes: memory of one device.
      memory_bytes: bytes used on one device, by kind.
      mesh: size of each mesh axis.
      coordinates: position of each device of the mesh in the torus; empty tuples for GPUs.
      compile_seconds: compile time, including tracing.
    """

    text: str
    missing_bytes: int
    limit_bytes: int
    memory_bytes: dict[str, int]
    mesh: dict[str, int]
    coordinates: list[tuple[int, ...]]
    microbatches: int
    compile_seconds: float


def compile_step(
    config: Config, machine: Machine, devices: Sequence[Any], options: Mapping[str, str]
) -> CompiledStep:
    """Compile the training step of a run for a machine.

    Args:
      options: compiler options on top of the defaults; a run on the machine would get them in
        LIBTPU_INIT_ARGS.

    Raises:
      UserError: the mesh does not fit the devices, or a kernel does not fit the machine.
    """
    started = time.perf_counter()
    parts = build.build_trainer_parts(config, devices)
    abstract_batch = build.make_abstract_batch(config, parts.mesh)
    lowered = parts.train_step.lower(parts.abstract_state, abstract_batch)
    memory_bytes = _count_known_bytes(config, parts, abstract_batch)
    text, stats, missing_bytes, limit_bytes = '', None, 0, machine.chip.memory_bytes
    try:
        compiled = lowered.compile(compiler_options=dict(options) or None)
        text, stats = compiled.as_text(), compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        if 'memory space vmem' in str(error):
            raise UserError(
                'preflight: a kernel of the step needs more on-chip memory (VMEM) than there is; '
                'try other --compiler_options or a smaller train.microbatch_size'
            ) from None
        missing_bytes, limit_bytes = parse_out_of_memory(str(error))
    if stats is not None:
        total = (
            stats.argument_size_in_bytes
            + stats.temp_size_in_bytes
            + stats.generated_code_size_in_bytes
            + stats.output_size_in_bytes
            - stats.alias_size_in_bytes
        )
        missing_bytes = max(0, total - limit_bytes)
        # The compiler's temporaries are the saved activations plus everything else: gradients,
        # gathered weights, scratch space.
        activations = min(memory_bytes['activations'], stats.temp_size_in_bytes)
        memory_bytes |= {
            'activations': activations,
            'temporaries': stats.temp_size_in_bytes - activations,
            'code': stats.generated_code_size_in_bytes,
            'total': total,
        }
    torus_dims = machine.chip.torus_dims
    coordinates = [
        tuple(getattr(device, 'coords', ()))[:torus_dims] for device in parts.mesh.devices.flat
    ]
    return CompiledStep(
        text=text,
        missing_bytes=missing_bytes,
        limit_bytes=limit_bytes,
        memory_bytes=memory_bytes,
        mesh=dict(parts.mesh.shape),
        coordinates=coordinates,
        microbatches=parts.microbatches,
        compile_seconds=time.perf_counter() - started,
    )


def _count_known_bytes(
    config: Config, parts: build.TrainerParts, abstract_batch: Any
) -> dict[str, int]:
    """Count the bytes on one device that are known before compilation, by kind."""
    sequences = config.train.batch_size // parts.batch_shards // parts.microbatches
    activations = model_cost.count_activation_bytes(config.model, sequences)
    return {
        'parameters': _count_device_bytes(parts.abstract_state.params),
        'optimizer': _count_device_bytes(parts.abstract_state.opt_state),
        'batch': _count_device_bytes(abstract_batch),
        # Mesh axes that do not split the batch split the activations of its sequences.
        'activations': activations * parts.batch_shards // parts.mesh.size,
    }


def _count_device_bytes(tree: Any) -> int:
    """Count the bytes of the shards on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for dim in leaf.sharding.shard_shape(leaf.shape):
            size *= dim
        total += size
    return total


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def parse_out_of_memory(message: str) -> tuple[int, int]:
    """Return (missing bytes, available bytes) from the TPU compiler's out-of-memory error.

    Known forms: 'requires ... (26.02G) exceeds ... (15.75G)' and 'Used 26.02G of 15.75G hbm.
    Exceeded ... by ...'.

    Raises:
      UserError: the message gives no number.
    """
    number = r'([\d.]+)([KMGT]?)i?B?'
    for pattern in (rf'\({number}\) exceeds [^(]*\({number}\)', rf'Used {number} of {number}'):
        if match := re.search(pattern, message):
            needed, available = (float(match[group]) * _UNITS[match[group + 1]] for group in (1, 3))
            return round(needed - available), round(available)
    if match := re.search(rf'by {number}', message):
        return round(float(match[1]) * _UNITS[match[2]]), 0
    raise UserError(
        f'preflight: the compiler ran out of memory and does not say by how much: {message[:200]}'
    )


def parse_compiler_options(text: str | None) -> dict[str, str]:
    """Parse 'name=value,name=value'.

    Raises:
      UserError: a name does not begin with 'xla_', or a value is missing.
    """
    pairs = [word.partition('=') for word in (text or '').split(',') if word]
    for name, equals, _ in pairs:
        if not name.startswith('xla_') or not equals:
            raise UserError(f'--compiler_options: must be xla_NAME=VALUE,..., got {name!r}')
    return {name: value for name, _, value in pairs}
