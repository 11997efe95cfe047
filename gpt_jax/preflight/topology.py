"""Machines by name ('v5p:8x8x16', 'h100:8') and their devices for ahead-of-time compilation.

Parsing a name does not import JAX, so that the environment can be set beforehand.
"""

import difflib
import math
import os
import re
import sys
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.core.hardware import CHIPS, Chip

# The slices that Google lists; libtpu supports more of the same form.
SLICES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
SLICES_3D = (
    '2x2x1',
    '2x2x2',
    '2x2x4',
    '2x4x4',
    '4x4x4',
    '4x4x8',
    '4x8x8',
    '8x8x8',
    '8x8x16',
    '8x16x16',
    '16x16x16',
    '16x16x24',
)
SLICES = {'v4': SLICES_3D[:-1], 'v5e': SLICES_2D, 'v5p': SLICES_3D, 'v6e': SLICES_2D}
COUNTED_BY_CORE = ('v4', 'v5p')  # their accelerator types (v5p-512) count cores, two per chip
# Options of libtpu's topology, by generation and by slice. Without them, the two cores of a v4 chip
# would count as two devices.
TOPOLOGY_OPTIONS: dict[str, dict[str, Any]] = {
    'v4': {'chip_config_name': 'megacore', 'chips_per_host_bounds': (2, 2, 1)},
    '1x1': {'chips_per_host_bounds': (1, 1, 1)},
}


class Machine(NamedTuple):
    """A TPU slice or a number of GPUs.

    name: such as 'v5p:8x8x16' or 'h100:8'.
    size: dimensions of the torus; for GPUs, their number.
    """

    name: str
    generation: str
    chip: Chip
    size: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.size)

    @property
    def is_tpu(self) -> bool:
        return self.chip.torus_dims > 0


def parse_machine(text: str) -> Machine:
    """Parse the name of a machine.

    Args:
      text: 'v5p:8x8x16', 'h100:8', or an accelerator type of Google Cloud such as 'v5e-16', which
        counts cores for v4 and v5p.

    Raises:
      UserError: there is no such machine; names the nearest ones.
    """
    match = re.fullmatch(r'(\w+?)(?:litepod)?[:\-](\d+(?:x\d+)*)', text.strip().lower())
    if match is None or match[1] not in CHIPS:
        examples = [f'{name}:{slices[-1]}' for name, slices in SLICES.items()]
        examples += ['h100:8', 'a100:8', 'h200:8']
        nearest = difflib.get_close_matches(text, examples, 3, 0.3) or examples
        raise UserError(
            f'--topology: must be a TPU slice or a number of GPUs, got {text!r}; '
            f'for example {", ".join(nearest)}'
        )
    generation = match[1]
    chip = CHIPS[generation]
    size = tuple(int(dim) for dim in match[2].split('x'))
    if not chip.torus_dims:
        if len(size) != 1 or size[0] < 1:
            raise UserError(
                f'--topology: must be a number of GPUs such as {generation}:8, got {text!r}'
            )
        return Machine(f'{generation}:{size[0]}', generation, chip, size)
    if len(size) == 1:
        size = _find_slice(text, generation, size[0])
    if len(size) != chip.torus_dims or min(size) < 1:
        nearest_slices = _find_nearest(generation, math.prod(size))
        raise UserError(
            f'--topology: {generation} has no slice of this shape, got {text!r}; '
            f'for example {nearest_slices}'
        )
    return Machine(f'{generation}:{"x".join(map(str, size))}', generation, chip, size)


def _find_slice(text: str, generation: str, count: int) -> tuple[int, ...]:
    """Return the slice of an accelerator type.

    Args:
      count: number of cores for v4 and v5p, of chips for other generations.
    """
    chips = count // 2 if generation in COUNTED_BY_CORE else count
    for name in SLICES[generation]:
        size = tuple(map(int, name.split('x')))
        if math.prod(size) == chips:
            return size
    raise UserError(
        f'--topology: {generation} has no slice of {chips} chips, got {text!r}; '
        f'the nearest are {_find_nearest(generation, chips)}'
    )


def _find_nearest(generation: str, chips: int) -> str:
    def distance(name: str) -> float:
        return abs(math.log(math.prod(map(int, name.split('x'))) / max(chips, 1)))

    nearest = sorted(SLICES[generation], key=distance)[:3]
    return ', '.join(f'{generation}:{name}' for name in nearest)


def set_compile_environment(machine: Machine) -> None:
    """Set the environment variables for compilation; must run before JAX is imported.

    Raises:
      RuntimeError: JAX is already imported with another platform.
    """
    if 'jax' in sys.modules and os.environ.get('JAX_PLATFORMS') != 'cpu':
        raise RuntimeError('preflight: JAX is already imported; set JAX_PLATFORMS=cpu first')
    os.environ |= {
        'JAX_PLATFORMS': 'cpu',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_SKIP_MDS_QUERY': '1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': f'{machine.generation}-8',
    }
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def make_devices(machine: Machine) -> list[Any]:
    """Return devices to compile for, which have no memory; for GPUs, simulated CPU devices.

    Raises:
      UserError: libtpu is not installed, or does not know the slice.
    """
    import jax

    if not machine.is_tpu:
        jax.config.update('jax_num_cpu_devices', machine.chips)
        return jax.devices('cpu')[: machine.chips]
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            "--topology: compiling for TPUs needs libtpu; pip install -e '.[tpu]' (no TPU needed)"
        ) from None
    from jax.experimental import topologies

    slice_name = machine.name.partition(':')[2]
    options = TOPOLOGY_OPTIONS.get(machine.generation, {}) | TOPOLOGY_OPTIONS.get(slice_name, {})
    try:
        description = topologies.get_topology_desc(
            platform='tpu', topology_name=machine.name, **options
        )
        return list(description.devices)
    except Exception as error:
        reason = ' '.join(str(error).split())[:150]
        nearest = _find_nearest(machine.generation, machine.chips)
        raise UserError(
            f'--topology: libtpu has no slice {machine.name} ({reason}); for example {nearest}'
        ) from None
