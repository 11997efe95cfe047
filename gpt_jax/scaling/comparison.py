"""Compute multiplier of two recipes: FLOPs that A needs for a loss over FLOPs that B needs.

For each recipe, L(C) = E + K C^-gamma is fitted to the runs that no cheaper run of it beats. For a
loss l, recipe A needs C_A(l) = (K / (l - E))^(1 / gamma), and the multiplier is C_A(l) / C_B(l).
"""

import math
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, outliers, power_law
from gpt_jax.scaling.runs import Runs

POINTS = 25  # of the loss grid
MIN_RUNS = 3  # on an envelope, and distinct runs in a resample of it
TRIES, BOOTSTRAP_TRIES = 4, 2  # starts of a fit


def find_pareto_frontier(runs: Runs) -> np.ndarray:
    """Return the indices of the runs on the Pareto frontier of loss and compute, by compute."""
    frontier: list[int] = []
    for index in np.lexsort((runs.loss, runs.flops)):
        if not frontier or runs.loss[index] < runs.loss[frontier[-1]]:
            frontier.append(int(index))
    return np.array(frontier, int)


def flops_for_loss(law: power_law.PowerLaw, loss: Any) -> np.ndarray:
    """Return the FLOPs that a law needs for a loss; infinite at or below its irreducible loss."""
    above = np.asarray(loss, float) - law.irreducible
    with np.errstate(divide='ignore', invalid='ignore'):
        flops = (law.amplitude / np.where(above > 0, above, 1)) ** (1 / law.exponent)
        return np.where(above > 0, flops, math.inf)


def compare_recipes(a: Runs, b: Runs, *, draws: int = 500, seed: int = 0) -> dict[str, Any]:
    """Compute the multiplier over the losses that both recipes reached, with its interval.

    Args:
      a: runs of recipe A.
      b: runs of recipe B.
      draws: number of bootstrap resamples.
      seed: seed of the random numbers.

    Returns:
      loss: a grid; multiplier, low, high: on that grid, with level and resampled (in words); laws:
      E, K and gamma of each recipe's envelope; envelopes: flops and loss of each; warning: why this
      extrapolates, or ''; left_out: the rows of each recipe that were not used.

    Raises:
      UserError: a recipe has too few runs on its envelope.
    """
    clean = {'A': _clean(a), 'B': _clean(b)}
    envelopes = {name: runs.take(find_pareto_frontier(runs)) for name, runs in clean.items()}
    for name, runs in envelopes.items():
        if len(runs) < MIN_RUNS:
            raise UserError(
                f'{name}: needs at least {MIN_RUNS} runs on the envelope of loss over compute, got '
                f'{len(runs)}'
            )
    laws = {name: _fit(runs.flops, runs.loss, TRIES) for name, runs in envelopes.items()}
    low = max(float(runs.loss.min()) for runs in envelopes.values())
    high = min(float(runs.loss.max()) for runs in envelopes.values())
    warning, grid = '', np.geomspace(low, high, POINTS)
    if not low < high:
        ends = f'A ends at {clean["A"].loss.min():.4g}, B at {clean["B"].loss.min():.4g}'
        warning = f'the losses of the recipes do not overlap ({ends}): this extrapolates'
        grid = np.array([min(low, high), max(low, high)])
    intervals = [
        bootstrap.compute_interval(column, 'the runs on each envelope, with replacement')
        for column in _draw_multipliers(envelopes, grid, draws, seed).T
    ]
    multiplier = flops_for_loss(laws['A'], grid) / flops_for_loss(laws['B'], grid)
    return {
        'loss': grid.tolist(),
        'multiplier': multiplier.tolist(),
        'low': [interval.low for interval in intervals],
        'high': [interval.high for interval in intervals],
        'level': bootstrap.CONFIDENCE_LEVEL,
        'resampled': intervals[0].resampled,
        'laws': {
            name: {'E': law.irreducible, 'K': law.amplitude, 'gamma': law.exponent}
            for name, law in laws.items()
        },
        'envelopes': {
            name: {'flops': runs.flops.tolist(), 'loss': runs.loss.tolist()}
            for name, runs in envelopes.items()
        },
        'warning': warning,
        'left_out': [runs.left_out for runs in clean.values()],
    }


def _draw_multipliers(
    envelopes: dict[str, Runs], grid: np.ndarray, draws: int, seed: int
) -> np.ndarray:
    """Return the multiplier on the grid for resampled envelopes, [draws, grid]."""
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        flops = {}
        for name, runs in envelopes.items():
            indices = bootstrap.draw_indices(random, np.arange(len(runs)), MIN_RUNS)
            law = _fit(runs.flops[indices], runs.loss[indices], BOOTSTRAP_TRIES)
            flops[name] = flops_for_loss(law, grid)
        drawn.append(flops['A'] / flops['B'])
    return np.array(drawn)


def _clean(runs: Runs) -> Runs:
    """Return the runs without outliers from a law over N and D; all runs if it cannot be fitted."""
    try:
        return outliers.clean_runs('chinchilla', runs)[0]
    except UserError:
        return runs


def _fit(flops: np.ndarray, loss: np.ndarray, tries: int) -> power_law.PowerLaw:
    with_irreducible = np.unique(flops).size > 3
    return power_law.fit_power_law(flops, loss, with_irreducible=with_irreducible, tries=tries)
