"""Published figures of accelerators: FLOP/s, memory, interconnect, price, and their sources."""

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
PRICE_SOURCE = "Google Cloud's list price on demand, United States, per chip, as of 2025-01"
_TPU_SOURCE = 'Google Cloud, TPU system architecture'


@dataclass(frozen=True)
class Chip:
    """One device of a mesh.

    Attributes:
      device_kinds: prefixes of `jax.Device.device_kind` of this chip; the first is its full name.
      peak_flops: dense matrix FLOP/s by dtype of the operands.
      memory_bytes: main memory that a program may use.
      memory_bandwidth: bytes/s of main memory.
      link_bandwidth: bytes/s of one interconnect link, in one direction. Without a torus (GPUs) it
        is the total bandwidth from one device to all others on its host.
      torus_dims: dimensions of the torus that the links form; 0: the devices of a host are fully
        connected.
      network_bandwidth: bytes/s from one device to other hosts; 0.0: unknown, or the links reach
        other hosts.
      devices_per_host: number of devices in one host.
      clock_hz: frequency of the cycles that the TPU's compiler estimates; 0.0: no such estimates.
      price_per_hour: US dollars (PRICE_SOURCE); None: unknown.
      cores: number of cores that share a program's work.
      source: where the other numbers come from.
    """

    device_kinds: tuple[str, ...]
    peak_flops: Mapping[str, float]
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    torus_dims: int
    network_bandwidth: float
    devices_per_host: int
    clock_hz: float
    price_per_hour: float | None
    cores: int
    source: str

    @property
    def bfloat16_peak(self) -> float:
        """Dense bfloat16 matrix FLOP/s."""
        return self.peak_flops['bfloat16']


def _tpu(
    device_kinds: tuple[str, ...],
    peak_flops: Mapping[str, float],
    *,
    memory: int,
    bandwidth: float,
    link: float,
    torus_dims: int,
    clock: float,
    price: float,
    cores: int = 1,
) -> Chip:
    return Chip(
        device_kinds=device_kinds,
        peak_flops=peak_flops,
        memory_bytes=memory,
        memory_bandwidth=bandwidth,
        link_bandwidth=link,
        torus_dims=torus_dims,
        network_bandwidth=0.0,
        devices_per_host=4,
        clock_hz=clock,
        price_per_hour=price,
        cores=cores,
        source=_TPU_SOURCE,
    )


def _gpu(
    device_kinds: tuple[str, ...],
    peak_flops: Mapping[str, float],
    *,
    memory: int,
    bandwidth: float,
    link: float,
    network: float,
    source: str,
) -> Chip:
    return Chip(
        device_kinds=device_kinds,
        peak_flops=peak_flops,
        memory_bytes=memory,
        memory_bandwidth=bandwidth,
        link_bandwidth=link,
        torus_dims=0,
        network_bandwidth=network,
        devices_per_host=8,
        clock_hz=0.0,
        price_per_hour=None,
        cores=1,
        source=source,
    )


# Links of TPUs: the documented bandwidth of a chip over all ports in both directions (v4 600,
# v5e 400, v5p 1200, v6e 800 GB/s), divided by its ports (2 for each dimension of the torus) and by
# the two directions. Clocks: those at which all multipliers of the chip together reach the
# documented peak (v4, v5e, v5p: MXUs of 128 x 128; v6e: as many multipliers as four of 256 x 256).
CHIPS: Mapping[str, Chip] = {
    'v4': _tpu(
        ('TPU v4',),
        {'bfloat16': 275e12},
        memory=32 * GIB,
        bandwidth=1.228e12,
        link=50e9,
        torus_dims=3,
        clock=1.05e9,
        price=3.22,
        cores=2,
    ),
    'v5e': _tpu(
        ('TPU v5 lite', 'TPU v5e'),
        {'bfloat16': 197e12},
        memory=16 * GIB,
        bandwidth=0.819e12,
        link=50e9,
        torus_dims=2,
        clock=1.5e9,
        price=1.20,
    ),
    'v5p': _tpu(
        ('TPU v5p', 'TPU v5'),
        {'bfloat16': 459e12},
        memory=95 * GIB,
        bandwidth=2.765e12,
        link=100e9,
        torus_dims=3,
        clock=1.75e9,
        price=4.20,
        cores=2,
    ),
    'v6e': _tpu(
        ('TPU v6 lite', 'TPU v6e'),
        {'bfloat16': 918e12},
        memory=32 * GIB,
        bandwidth=1.640e12,
        link=100e9,
        torus_dims=2,
        clock=1.75e9,
        price=2.70,
    ),
    'a100': _gpu(
        ('NVIDIA A100-SXM4-80GB',),
        {'bfloat16': 312e12},
        memory=80 * 10**9,
        bandwidth=2.039e12,
        link=300e9,
        network=25e9,
        source='NVIDIA, A100 80GB data sheet',
    ),
    'a100-40gb': _gpu(
        ('NVIDIA A100-SXM4-40GB',),
        {'bfloat16': 312e12},
        memory=40 * 10**9,
        bandwidth=1.555e12,
        link=300e9,
        network=25e9,
        source='NVIDIA, A100 40GB data sheet',
    ),
    'h100': _gpu(
        ('NVIDIA H100 80GB HBM3',),
        {'bfloat16': 989e12},
        memory=80 * 10**9,
        bandwidth=3.350e12,
        link=450e9,
        network=50e9,
        source='NVIDIA, H100 SXM data sheet',
    ),
    'h100-pcie': _gpu(
        ('NVIDIA H100 PCIe',),
        {'bfloat16': 756e12},
        memory=80 * 10**9,
        bandwidth=2.0e12,
        link=64e9,
        network=0.0,
        source='NVIDIA, H100 PCIe data sheet',
    ),
    'h200': _gpu(
        ('NVIDIA H200',),
        {'bfloat16': 989e12},
        memory=141 * 10**9,
        bandwidth=4.800e12,
        link=450e9,
        network=50e9,
        source='NVIDIA, H200 SXM data sheet',
    ),
}


def find_chip(name: str) -> Chip | None:
    """Return the chip of this name, or None if it is not in the table.

    Args:
      name: the vendor's short name ('v5e', 'h100'), or a `jax.Device.device_kind`
        ('TPU v5 lite', 'NVIDIA H100 80GB HBM3'), for which the longest matching prefix is used.
    """
    if name.lower() in CHIPS:
        return CHIPS[name.lower()]
    prefixes = {kind: chip for chip in CHIPS.values() for kind in chip.device_kinds}
    longest = max(filter(name.startswith, prefixes), key=len, default=None)
    return None if longest is None else prefixes[longest]


def find_peak_flops(name: str, dtype: str = 'bfloat16') -> float | None:
    """Return the dense matrix FLOP/s of one chip, or None if chip or dtype is not in the table."""
    chip = find_chip(name)
    return None if chip is None else chip.peak_flops.get(dtype)
