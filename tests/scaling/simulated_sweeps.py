"""Noisy isoFLOP sweeps of known laws, and how often intervals of the split contain the truth."""

import functools
from collections.abc import Callable

import numpy as np

from gpt_jax.scaling.compute_optimal import ComputeSplit
from gpt_jax.scaling.runs import Runs
from tests.scaling import synthetic

REACH = 4.0  # sizes from 1/REACH to REACH times the guess at N*
MISS = 0.3  # of log N: the guess is off by up to this


def chinchilla(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28


def skaling(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """E + A (N^-alpha + R D^-beta)^k."""
    return 1.6 + 60.0 * (params**-0.5 + 3.0 * tokens**-0.45) ** 0.55


LAWS = {'chinchilla': chinchilla, 'skaling': skaling}


@functools.cache
def find_optimum(law: Callable[..., np.ndarray], flops: float) -> float:
    """Find log N* on a grid."""
    grid = np.linspace(np.log(1e6), np.log(1e13), 200_001)
    sizes = np.exp(grid)
    return float(grid[np.argmin(law(sizes, flops / (6 * sizes)))])


def make_sweep(
    law: Callable[..., np.ndarray],
    budgets: int,
    sizes: int,
    noise: float,
    random: np.random.Generator,
) -> Runs:
    """Make one run per budget and size, with normal noise on the log of its loss."""
    params, flops = [], []
    for budget in np.geomspace(1e18, 1e21, budgets):
        guess = find_optimum(law, budget) + random.uniform(-MISS, MISS)
        params += [np.exp(guess) * np.geomspace(1 / REACH, REACH, sizes)]
        flops += [np.full(sizes, budget)]
    n, c = np.concatenate(params), np.concatenate(flops)
    loss = law(n, c / (6 * n)) * np.exp(noise * random.standard_normal(n.size))
    return synthetic.runs(n, c / (6 * n), loss, budget=c)


def is_inside(
    law: Callable[..., np.ndarray], runs: Runs, drawn: list[ComputeSplit]
) -> tuple[bool, bool]:
    """Return whether the 95% intervals of a, and of N* at 10 times the compute, hold."""
    far = 10 * runs.flops.max()
    near, optimum = find_optimum(law, far / 1e3), find_optimum(law, far)
    truths = ((optimum - near) / np.log(1e3), optimum)
    drawn_values = ([split.a for split in drawn], [np.log(split.at(far)[0]) for split in drawn])
    ends = [np.quantile(values, [0.025, 0.975]) for values in drawn_values]
    a, n = (bool(low <= t <= high) for t, (low, high) in zip(truths, ends, strict=True))
    return a, n
