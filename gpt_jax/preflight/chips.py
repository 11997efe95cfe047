"""What can one chip do? Makers' published numbers, each with its source."""

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """One device of a mesh.

    peak: dense bfloat16 FLOP/s. memory: bytes that a program may use. bandwidth: bytes/s of main memory.
    link: bytes/s in one direction of one link to a neighbour. dims: of the torus that links make; 0: all devices of a
    host see each other, at `link`, and every device has `beyond` bytes/s to other hosts. clock: Hz, of the compiler's
    cycles; 0: there are none. price: US dollars for an hour, None: not known here. kinds: how JAX names it.
    source: of the numbers. cores: programs that share its work.
    """

    peak: float
    memory: int
    bandwidth: float
    link: float
    dims: int
    beyond: float
    host: int
    clock: float
    price: float | None
    cores: int
    source: str


GIB = 2**30
TPU = 'Google Cloud, TPU system architecture'
PRICES = "Google Cloud's list price on demand, United States, per chip, as of 2025-01"

# ICI: the documented bandwidth of a chip in both directions (v4 600, v5e 400, v5p 1200, v6e 800 GB/s), over its ports
# (2 for each dim of the torus) and the two directions. Clocks are those at which the documented peak is that of all of
# the chip's MXUs (v4, v5e, v5p: 128 x 128; v6e: as many multipliers as four of 256 x 256).
CHIPS: Mapping[str, Chip] = {
    'v4': Chip(275e12, 32 * GIB, 1.228e12, 50e9, 3, 0.0, 4, 1.05e9, 3.22, 2, TPU),
    'v5e': Chip(197e12, 16 * GIB, 0.819e12, 50e9, 2, 0.0, 4, 1.5e9, 1.20, 1, TPU),
    'v5p': Chip(459e12, 95 * GIB, 2.765e12, 100e9, 3, 0.0, 4, 1.75e9, 4.20, 2, TPU),
    'v6e': Chip(918e12, 32 * GIB, 1.640e12, 100e9, 2, 0.0, 4, 1.75e9, 2.70, 1, TPU),
    'a100': Chip(312e12, 80 * 10**9, 2.039e12, 300e9, 0, 25e9, 8, 0.0, None, 1, 'NVIDIA, A100 80GB data sheet'),
    'h100': Chip(989e12, 80 * 10**9, 3.350e12, 450e9, 0, 50e9, 8, 0.0, None, 1, 'NVIDIA, H100 SXM data sheet'),
    'h200': Chip(989e12, 141 * 10**9, 4.800e12, 450e9, 0, 50e9, 8, 0.0, None, 1, 'NVIDIA, H200 SXM data sheet'),
}
