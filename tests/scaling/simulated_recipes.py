"""Simulated recipes of which the second needs a known share of the first one's compute."""

import math

import numpy as np

from gpt_jax.scaling import comparison
from tests.scaling import synthetic

MULTIPLIER = 1.5


def chinchilla(n, d):
    """Besiroglu et al. 2024."""
    return 1.8172 + 482.01 / n**0.3478 + 2085.43 / d**0.3658


def skaling(n, d):
    """The form of arXiv 2608.07222, E + A (N^-a + R D^-b)^k."""
    return 1.7 + 240 * (n**-0.45 + 3 * d**-0.5) ** 0.65


def isoflop(budgets, sizes):
    """Sizes from a quarter to four times about 20 tokens per parameter, 1e18 to 1e20 FLOPs."""
    flops = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    n = 0.09 * np.sqrt(flops) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
    return n, flops / (6 * n)


def ladder(sizes):
    n = np.geomspace(5e7, 1.6e9, sizes)
    return n, 20 * n


def recipe(design, law, saves, random, *, noise=0.0, seeds=1, **more):
    """Runs of a recipe that reaches with C what `law` reaches with `saves` times C."""
    n, d = (np.repeat(values, seeds) for values in design)
    loss = law(n * math.sqrt(saves), d * math.sqrt(saves))
    return synthetic.runs(n, d, loss * np.exp(noise * random.standard_normal(n.size)), **more)


def measure_coverage(design, law, *, noise, seeds, replicates, draws, common=0.0):
    """Compare pairs whose multiplier is MULTIPLIER.

    Args:
      common: share of the noise variance that is common to both recipes.

    Returns:
      Coverage and mean width over 3.92 standard deviations of the point estimates, of log
      multipliers: at the highest loss, in the middle, at the lowest, and of the mean.
    """
    points, widths, inside = [], [], []
    truth = math.log(MULTIPLIER)
    for replicate in range(replicates):
        random = np.random.default_rng(1000 + replicate)
        pair = [
            recipe(design, law, saves, random, noise=noise * math.sqrt(1 - common), seeds=seeds)
            for saves in (1.0, MULTIPLIER)
        ]
        both = np.exp(noise * math.sqrt(common) * random.standard_normal(len(pair[0])))
        for runs in pair:
            runs.loss[:] *= both
        made = comparison.compare_recipes(pair, draws=draws, seed=replicate)['recipes'][1]
        chosen = [
            np.log([*np.array(made['along'][name])[[-1, 12, 0]], made['overall'][name]])
            for name in ('multiplier', 'low', 'high')
        ]
        points.append(chosen[0])
        widths.append(chosen[2] - chosen[1])
        inside.append((chosen[1] <= truth) & (truth <= chosen[2]))
    return np.mean(inside, axis=0), np.mean(widths, axis=0) / (3.92 * np.std(points, axis=0))
