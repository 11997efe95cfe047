"""Downstream error over loss, eps - k exp(-gamma loss): Gadre et al. 2024, equation 5."""

import math
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap
from gpt_jax.scaling.runs import Runs

MIN_LOSSES = 4
DRAWS = 200
GAMMAS = (0.3, 1.0, 3.0)  # starts of the fit


def fit_downstream(runs: Runs, *, draws: int, seed: int) -> dict[str, Any]:
    """Fit the law by least squares to the runs that have an error.

    Args:
      runs: the runs, with a column 'error'.
      draws: number of bootstrap resamples; 0: none.
      seed: seed of the random numbers.

    Returns:
      eps, k, gamma, rms_error, runs; and the intervals of the three constants, as
      `bootstrap.summarize_draws` returns them (empty without draws).

    Raises:
      UserError: fewer than MIN_LOSSES runs have an error.
    """
    known = np.isfinite(runs.extra['error'])
    loss, error = runs.loss[known], runs.extra['error'][known]
    names = ('eps', 'k', 'gamma')
    eps, k, gamma = constants = fit_constants(loss, error)
    rms = float(np.sqrt(np.mean((eps - k * np.exp(-gamma * loss) - error) ** 2)))
    result: dict[str, Any] = dict(zip(names, constants.tolist(), strict=True))
    result |= {'rms_error': rms, 'runs': len(loss), 'intervals': {}}
    if draws:
        # The bootstrap draws pairs: a run's error stays with its loss.
        values = bootstrap.bootstrap_statistic(
            loss, error, _minimize_squares, draws=draws, seed=seed, sizes=MIN_LOSSES
        )
        result['intervals'] = {
            name: bootstrap.summarize_draws(column, runs=len(loss), seed=seed, sizes=MIN_LOSSES)
            for name, column in zip(names, values.T, strict=True)
        }
    return result


def fit_constants(loss: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return (eps, k, gamma) by least squares.

    Raises:
      UserError: fewer than MIN_LOSSES losses.
    """
    losses = np.unique(loss).size
    if losses < MIN_LOSSES:
        raise UserError(
            f'downstream law: needs runs with an error at {MIN_LOSSES} different losses or more, '
            f'got {losses}'
        )
    return _minimize_squares(loss, error)


def _minimize_squares(loss: np.ndarray, error: np.ndarray) -> np.ndarray:
    centre = loss.mean()

    def residual(theta: np.ndarray) -> np.ndarray:
        return theta[0] - np.exp(theta[1] - theta[2] * (loss - centre)) - error

    eps, level = error.max() + 0.02, math.log(max(1e-3, np.ptp(error)))
    results = [optimize.least_squares(residual, [eps, level, gamma]) for gamma in GAMMAS]
    eps, level, gamma = min(results, key=lambda result: result.cost).x
    return np.array([eps, math.exp(level + gamma * centre), gamma])
