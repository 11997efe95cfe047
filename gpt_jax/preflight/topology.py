"""Which machine is meant by a word, and what are its devices? Before JAX is imported, too."""

import difflib
import math
import os
import re
import sys
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.preflight.chips import CHIPS, Chip

# Slices that Google lists, by chips; libtpu knows more of the same form.
FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
SOLID = (
    '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16', '8x16x16', '16x16x16', '16x16x24',
)  # fmt: skip
SLICES = {'v4': SOLID[:-1], 'v5e': FLAT, 'v5p': SOLID, 'v6e': FLAT}
CORES = ('v4', 'v5p')  # whose accelerator types (v5p-512) count cores, two a chip
# What libtpu must be told to describe a v4, whose two cores it would else count apart.
DESCRIPTION: dict[str, dict[str, Any]] = {
    'v4': {'chip_config_name': 'megacore', 'chips_per_host_bounds': (2, 2, 1)},
    '1x1': {'chips_per_host_bounds': (1, 1, 1)},
}


class Machine(NamedTuple):
    """name: 'v5p:8x8x16', 'h100:8'. size: of its torus; of GPUs their number."""

    name: str
    generation: str
    chip: Chip
    size: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.size)

    @property
    def tpu(self) -> bool:
        return self.chip.dims > 0


def machine(word: str) -> Machine:
    """Of 'v5p:8x8x16', 'v5e-16' (Google's accelerator types: of v4 and v5p they count cores) or 'h100:8'.

    Raises:
      UserError: there is no such machine; names the nearest.
    """
    found = re.fullmatch(r'(\w+?)(?:litepod)?[:\-](\d+(?:x\d+)*)', word.strip().lower())
    generation = found[1] if found else ''
    if found is None or generation not in CHIPS:
        names = [f'{name}:{slices[-1]}' for name, slices in SLICES.items()] + ['h100:8', 'a100:8', 'h200:8']
        near = difflib.get_close_matches(word, names, 3, 0.3) or names
        raise UserError(
            f'--topology={word}: not a machine known here; {", ".join(near)}, say (README, "Before you pay")'
        )
    size, chip = tuple(int(one) for one in found[2].split('x')), CHIPS[generation]
    if not chip.dims:
        _check(len(size) == 1 and size[0] > 0, word, f'{generation}:8, a number of GPUs')
        return Machine(f'{generation}:{size[0]}', generation, chip, size)
    if len(size) == 1:
        size = _slice(word, generation, size[0])
    _check(len(size) == chip.dims and min(size) > 0, word, _nearest(generation, math.prod(size)))
    return Machine(f'{generation}:{"x".join(map(str, size))}', generation, chip, size)


def _slice(word: str, generation: str, count: int) -> tuple[int, ...]:
    chips = count // 2 if generation in CORES else count
    for name in SLICES[generation]:
        size = tuple(map(int, name.split('x')))
        if math.prod(size) == chips:
            return size
    raise UserError(f'--topology={word}: no slice of {chips} chips; {_nearest(generation, chips)} are the nearest')


def _check(condition: bool, word: str, instead: str) -> None:
    if not condition:
        raise UserError(f'--topology={word}: there is none of this shape; {instead}, say')


def _nearest(generation: str, chips: int) -> str:
    away = lambda name: abs(math.log(math.prod(map(int, name.split('x'))) / max(chips, 1)))  # noqa: E731
    return ', '.join(f'{generation}:{name}' for name in sorted(SLICES[generation], key=away)[:3])


def prepare(one: Machine) -> None:
    """Sets the environment for compiling for the machine; before JAX is imported.

    Raises:
      RuntimeError: JAX is imported already and looks for devices of its own.
    """
    if 'jax' in sys.modules and os.environ.get('JAX_PLATFORMS') != 'cpu':
        raise RuntimeError('preflight: JAX is imported; set JAX_PLATFORMS=cpu before')
    os.environ |= {'JAX_PLATFORMS': 'cpu', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_SKIP_MDS_QUERY': '1'}
    os.environ |= {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_ACCELERATOR_TYPE': f'{one.generation}-8'}
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def devices(one: Machine) -> list[Any]:
    """The machine's devices, which can be compiled for but hold nothing; for GPUs as many simulated ones of this CPU.

    Raises:
      UserError: libtpu is missing, or does not know the slice.
    """
    import jax

    if not one.tpu:
        jax.config.update('jax_num_cpu_devices', one.chips)
        return jax.devices('cpu')[: one.chips]
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("--topology: the TPU's compiler is missing; pip install -e '.[tpu]' (needs no TPU)") from None
    from jax.experimental import topologies

    name = one.name.partition(':')[2]
    options = DESCRIPTION.get(one.generation, {}) | DESCRIPTION.get(name, {})
    try:
        return list(topologies.get_topology_desc(platform='tpu', topology_name=one.name, **options).devices)
    except Exception as error:
        reason = ' '.join(str(error).split())[:150]
        near = _nearest(one.generation, one.chips)
        raise UserError(f'--topology={one.name}: libtpu knows no such slice ({reason}); {near}, say') from None
