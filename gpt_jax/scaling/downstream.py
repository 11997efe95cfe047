"""How does a downstream error follow from the loss? error = eps - k exp(-gamma loss), Gadre et al. 2024, equation 5."""

import math
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.errors import UserError
from gpt_jax.scaling import intervals
from gpt_jax.scaling.runs import Runs

FEWEST = 4  # losses
DRAWS = 200


def fit(runs: Runs, *, draws: int, seed: int) -> dict[str, Any]:
    """By least squares through the runs that have an error.

    Returns:
      eps, k, gamma, rms_error, runs; and intervals of the three, as intervals.interval makes them ({} without draws).

    Raises:
      UserError: fewer than FEWEST runs have an error.
    """
    known = np.isfinite(runs.more['error'])
    loss, error = runs.loss[known], runs.more['error'][known]
    names = ('eps', 'k', 'gamma')
    found = constants(loss, error)
    rms = float(np.sqrt(np.mean((found[0] - found[1] * np.exp(-found[2] * loss) - error) ** 2)))
    made: dict[str, Any] = dict(zip(names, found.tolist(), strict=True))
    made |= {'rms_error': rms, 'runs': len(loss), 'intervals': {}}
    if draws:
        about = {'seed': seed, 'sizes': FEWEST}
        # The bootstrap draws pairs: a run's error goes with its loss.
        drawn = intervals.bootstrap(loss, error, _constants, draws=draws, **about)
        made['intervals'] = {
            name: intervals.interval(values, runs=len(loss), **about)
            for name, values in zip(names, drawn.T, strict=True)
        }
    return made


def constants(loss: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(eps, k, gamma), by least squares.

    Raises:
      UserError: fewer than FEWEST losses.
    """
    if np.unique(loss).size < FEWEST:
        raise UserError(f'downstream law: {len(loss)} runs have an error; it takes at least {FEWEST}')
    return _constants(loss, error)


def _constants(loss: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(eps, k, gamma)."""
    centre = loss.mean()

    def residual(theta: np.ndarray) -> np.ndarray:
        return theta[0] - np.exp(theta[1] - theta[2] * (loss - centre)) - error

    tries = [
        optimize.least_squares(residual, [error.max() + 0.02, math.log(max(1e-3, np.ptp(error))), gamma])
        for gamma in (0.3, 1.0, 3.0)
    ]
    eps, level, gamma = min(tries, key=lambda one: one.cost).x
    return np.array([eps, math.exp(level + gamma * centre), gamma])
