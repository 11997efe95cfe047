"""Which devices work together, and along which axes?"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from gpt_jax import schema
from gpt_jax.errors import UserError
from gpt_jax.parallel.rules import AXES, CUT, STRATEGIES

LONG = ('ring', 'all_to_all')
AUTO = 'auto'


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes (0: all devices that are left) and the strategy that spreads weights over them."""

    strategy: str
    slice: int
    data: int
    fsdp: int
    expert: int
    pipeline: int
    context: int
    tensor: int
    long: str
    cpu_devices: int

    def __post_init__(self) -> None:
        schema.choice(self.strategy, (*STRATEGIES, AUTO), 'mesh.strategy')
        schema.choice(self.long, LONG, 'mesh.long')
        for name in (*AXES, 'cpu_devices'):
            schema.require(getattr(self, name) >= 0, f'mesh.{name}', 'must be 0 (automatic) or positive')
        free = [axis for axis, size in self.sizes.items() if size == 0]
        schema.require(len(free) <= 1, 'mesh', f'only one of {" and ".join(free)} can be 0 (automatic)')

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def axes(self) -> int:
        """Those with more than one device, as far as is known before the devices are; an automatic one counts."""
        return max(1, sum(size != 1 for size in self.sizes.values())) if self.strategy != AUTO else len(AXES)


class Demands(NamedTuple):
    """What a mesh must divide.

    batches: sequences, by their config field. dims: sizes, by letter: of H, G, F, U, V, E, N and L those that the
    model has.
    """

    batches: Mapping[str, int]
    dims: Mapping[str, int]


ANY = Demands(batches={}, dims={})
FIELDS = {
    'H': 'model.heads',
    'G': 'model.kv_heads',
    'F': 'model.mlp_width',
    'U': 'model.shared_experts x mlp_width',
    'V': 'the vocabulary (model.vocab_multiple pads it)',
    'E': 'model.experts',
    'N': 'model.layers',
    'L': 'model.context',
}


def sized(config: MeshConfig, demands: Demands, count: int, alone: bool = False) -> dict[str, int]:
    """The sizes of the axes over `count` devices.

    Args:
      alone: whether an automatic axis may leave devices out so that the demands are met.

    Raises:
      UserError: the axes do not multiply to the devices, or do not divide what they cut; with the nearest mesh that
        does.
    """
    sizes = _filled(config, demands, count, alone)
    found = _problem(sizes, demands)
    if found:
        field, said = found
        raise UserError(f'config.{field}: {said}{_nearest(sizes, demands, count, alone)}')
    total = math.prod(sizes.values())
    schema.require(
        config.strategy != 'fsdp' or sizes['fsdp'] > 1 or total == 1,
        'mesh.fsdp',
        f'1, so the strategy fsdp spreads no weights over the {total} devices; '
        '--config.mesh.data=1 --config.mesh.fsdp=0 takes all of them',
    )
    schema.require(
        config.strategy != 'replicated' or sizes['fsdp'] == 1,
        'mesh.fsdp',
        f'{sizes["fsdp"]}, but the strategy replicated spreads no weights; --config.mesh.strategy=fsdp or zero1 does, '
        'and mesh.data shares the batch alone',
    )
    return sizes


def make_mesh(config: MeshConfig, demands: Demands, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over this run's devices.

    An automatic axis takes all devices that the others leave; in a single process, the largest number of them that
    meets the demands.

    Args:
      devices: those of the run; None: all there are.

    Raises:
      UserError: the axes do not multiply to the devices, or do not divide what they cut; with the nearest mesh that
        does.
    """
    alone = devices is None and jax.process_count() == 1
    devices = jax.devices() if devices is None else list(devices)
    sizes = sized(config, demands, len(devices), alone)
    total = math.prod(sizes.values())
    return Mesh(_arranged(sizes, devices[:total]), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _filled(config: MeshConfig, demands: Demands, count: int, alone: bool) -> dict[str, int]:
    """The sizes with the automatic one found."""
    sizes = config.sizes
    automatic = next((axis for axis, size in sizes.items() if size == 0), None)
    fixed = math.prod(max(size, 1) for size in sizes.values())
    fits = count >= fixed if alone else count % fixed == 0 if automatic else count == fixed
    if not fits:
        product = ' x '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or 'one'
        near = _nearest({axis: max(size, 1) for axis, size in sizes.items()}, demands, count, alone)
        raise UserError(f'config.mesh: {product} makes {fixed} devices, but there are {count}{near}')
    if automatic:
        most = count // fixed
        ways = (n for n in range(most, 0, -1) if not alone or not _problem({**sizes, automatic: n}, demands))
        sizes[automatic] = next(ways, most)
    return sizes


def _problem(sizes: Mapping[str, int], demands: Demands) -> tuple[str, str] | None:
    """(config field, what is wrong), of the first demand that is not met."""
    tensor = sizes['tensor']
    for letter, size in demands.dims.items():
        # The residual stream is cut by the tensor axis too, and the ring gives each device two parts of the text.
        cut = [axis for axis in (*CUT[letter], *(['tensor'] if letter == 'L' else [])) if sizes[axis] > 1]
        parts = 2 if letter == 'L' and 'context' in cut else 1
        ways = parts * math.prod(sizes[axis] for axis in cut)
        if size % ways and not (letter == 'G' and tensor % size == 0):
            axes = ' x '.join(f'mesh.{axis} {sizes[axis]}' for axis in cut)
            halves = ', two parts each,' if parts == 2 else ''
            return f'mesh.{cut[0]}', f'{axes}{halves} does not divide {FIELDS[letter]}, {size}'
    rows = math.prod(sizes[axis] for axis in CUT['B'])
    for field, batch in demands.batches.items():
        if batch % rows:
            return (
                field,
                f'{batch} sequences do not divide over {rows} devices; {max(1, round(batch / rows)) * rows} would',
            )
    return None


def _nearest(sizes: Mapping[str, int], demands: Demands, count: int, alone: bool) -> str:
    """'; the nearest that works: flags', or '' where none does. Of all devices, or where there is none and some may be
    left out, of as many as can be."""

    def distance(other: Mapping[str, int]) -> tuple[float, float]:
        changes = {axis: abs(math.log2(other[axis] / sizes[axis])) for axis in AXES}
        return sum(changes.values()), -changes['data']  # of two as near, that which keeps what was asked for

    # What is not asked for stays out, but for the data axis, which takes any devices that are left.
    used = [axis for axis in AXES if sizes[axis] > 1 or axis == 'data']
    working: list[dict[str, int]] = []
    for some in range(count, 0 if alone else count - 1, -1):
        working = working or [other for other in _meshes(used, some) if not _problem(other, demands)]
    if not working:
        return ''
    best = min(working, key=distance)
    flags = ' '.join(f'--config.mesh.{axis}={best[axis]}' for axis in used if best[axis] != 1 or sizes[axis] != 1)
    return f'; the nearest mesh that works: {flags or "one device"}'


def _meshes(axes: Sequence[str], count: int) -> Iterator[dict[str, int]]:
    """Every way of cutting `count` devices along these axes."""
    if not axes:
        if count == 1:
            yield dict.fromkeys(AXES, 1)
        return
    for size in (n for n in range(1, count + 1) if count % n == 0):
        for rest in _meshes(axes[1:], count // size):
            yield rest | {axes[0]: size}


def _arranged(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as an array of the axes; neighbours along the last ones are close, where the machine says so."""
    shape = tuple(sizes[axis] for axis in AXES)
    if getattr(devices[0], 'platform', '') != 'tpu':
        return np.array(devices).reshape(shape)
    if sizes['slice'] > 1:
        inner, outer = (1, *shape[1:]), (sizes['slice'], *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


class Needs(NamedTuple):
    """What `automatic` weighs: bytes of the training state on one device, of a device's memory; 0: not known."""

    state: int
    memory: int


def automatic(config: MeshConfig, demands: Demands, needs: Needs, count: int) -> tuple[MeshConfig, str]:
    """A mesh for `count` devices where the strategy is 'auto': (the config with it, why). What is given stays.

    The plainest that fits comes first: each further kind of parallelism talks more between devices. Weights are spread
    as little as lets the state take half of the memory; where the batch has fewer sequences than there are devices, the
    rest of them share tensors, and then the length of the text.

    Raises:
      UserError: nothing divides what must be.
    """
    given = {axis: size for axis, size in config.sizes.items() if size > 1}
    free = [axis for axis in ('data', 'fsdp', 'context', 'tensor') if axis not in given]
    left, rest = divmod(count, math.prod(given.values()))
    meshes = [] if rest else [sizes | given for sizes in _meshes(free, left)]
    working = [sizes for sizes in meshes if not _problem(sizes, demands)]
    named = ', '.join(f'{axis} {size}' for axis, size in given.items())
    schema.require(
        bool(working),
        'mesh.strategy',
        f'auto finds no mesh of {count} devices{named and f" with {named}"} for this batch and model',
    )
    share = lambda sizes: needs.state / (sizes['fsdp'] * sizes['tensor'])  # noqa: E731
    fits = [sizes for sizes in working if not needs.memory or share(sizes) <= needs.memory / 2]
    key: Callable[[dict[str, int]], tuple[float, ...]] = lambda s: (s['context'], s['tensor'], s['fsdp'])  # noqa: E731
    best = min(fits, key=key) if fits else min(working, key=lambda s: (share(s), *key(s)))
    strategy = 'fsdp' if best['fsdp'] > 1 else 'replicated'
    why = [f'{needs.state / 1e9:.3g} GB of weights and optimizer state']
    why.append(f'{needs.memory / 1e9:.3g} GB on a device' if needs.memory else 'a device of unknown memory')
    sharing = best['fsdp'] * best['tensor']
    shared = f'{sharing} devices share the state' if sharing > 1 else 'each holds all of it'
    why.append(shared if fits else 'spread as far as it goes')
    if best['tensor'] * best['context'] > 1:
        why.append('fewer sequences than devices, or no other way to fit')
    changes: dict[str, Any] = {**best, 'strategy': strategy}
    chosen = dataclasses.replace(config, **changes)
    named = ' x '.join(f'{axis} {size}' for axis, size in best.items() if size > 1) or 'one device'
    return chosen, f'mesh: {strategy}, {named} ({"; ".join(why)})'
