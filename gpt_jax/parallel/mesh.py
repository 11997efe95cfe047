"""Which devices work together, and along which axes?"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from gpt_jax import schema
from gpt_jax.parallel.rules import AXES, STRATEGIES


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes (0: all devices that are left) and the strategy that spreads tensors over them."""

    data: int
    fsdp: int
    strategy: str
    cpu_devices: int

    def __post_init__(self) -> None:
        schema.choice(self.strategy, STRATEGIES, 'mesh.strategy')
        for name in ('data', 'fsdp', 'cpu_devices'):
            schema.require(getattr(self, name) >= 0, f'mesh.{name}', 'must be 0 (automatic) or positive')
        schema.require(self.data > 0 or self.fsdp > 0, 'mesh', 'only one of data and fsdp can be 0 (automatic)')


def make_mesh(config: MeshConfig, batches: dict[str, int], given: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over this run's devices.

    An automatic axis takes all devices that the other leaves; in a single process, the largest number of them over
    which every batch divides.

    Args:
      batches: the batch sizes, in sequences, that must divide over the devices, by their config field.
      given: devices of a machine that is not here; None: those that are.

    Raises:
      UserError: the axes do not multiply to the devices, or a batch does not divide over them.
    """
    devices, alone = list(given or jax.devices()), jax.process_count() == 1
    sizes = {'data': config.data, 'fsdp': config.fsdp}
    fixed = max(config.data, 1) * max(config.fsdp, 1)
    automatic = next((axis for axis, size in sizes.items() if size == 0), None)
    fits = len(devices) >= fixed if alone else len(devices) % fixed == 0 if automatic else len(devices) == fixed
    schema.require(
        fits,
        'mesh',
        f'data x fsdp makes {fixed} devices, but there are {len(devices)}; --config.mesh.data=0 takes what is there',
    )
    if automatic:
        most = len(devices) // fixed
        dividing = [n for n in range(most, 0, -1) if all(batch % (n * fixed) == 0 for batch in batches.values())]
        sizes[automatic] = dividing[0] if alone and dividing else most
    total = sizes['data'] * sizes['fsdp']
    schema.require(
        config.strategy != 'fsdp' or sizes['fsdp'] > 1 or total == 1,
        'mesh.fsdp',
        f'1, so the strategy fsdp spreads no weights over the {total} devices; '
        '--config.mesh.data=1 --config.mesh.fsdp=0 takes all of them',
    )
    for field, batch in batches.items():
        schema.require(
            batch % total == 0,
            field,
            f'{batch} sequences do not divide over {total} devices; {max(1, round(batch / total)) * total} would',
        )
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:total])
