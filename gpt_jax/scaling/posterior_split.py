"""Compute-optimal size at a budget by the posterior of law_posterior.py.

Every draw of the posterior is a surface of the loss over N and D. Its lowest point among the runs
that cost C gives one draw of N*, so the interval of N* contains the error of the law's form too. N*
need not be a power of C; the exponent a is that between the largest run and `REACH` times its
compute.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.scaling.compute_optimal import ComputeCost
from gpt_jax.scaling.law_posterior import LawPosterior

DRAWS = 400
REACH = 10.0
BAND_POINTS = 10
SPAN, STEP = 5.0, 0.125  # in log N: the reach of the search to each side, and its grid
WIDE = 30.0  # ratio of the interval's ends beyond which N* counts as not identified


class OptimumDraws(NamedTuple):
    """Draws of the compute-optimal run of several budgets.

    Attributes:
      flops: the budgets, [budgets].
      params: drawn N*, [draws, budgets].
      cost: C as a function of N and D.
    """

    flops: np.ndarray
    params: np.ndarray
    cost: ComputeCost

    @property
    def median(self) -> np.ndarray:
        """The median N* of each budget, [budgets]."""
        return np.exp(np.median(np.log(self.params), axis=0))

    def tokens_for(self, params: Any) -> np.ndarray:
        """Return the tokens that each budget leaves for these parameters."""
        return self.flops / (self.cost.k * np.asarray(params) ** self.cost.p)


def draw_optima(
    posterior: LawPosterior, cost: ComputeCost, flops: Any, *, draws: int = DRAWS, seed: int = 0
) -> OptimumDraws:
    """Draw N* of each budget.

    Args:
      posterior: the posterior of the law.
      cost: C as a function of N and D.
      flops: the budgets, [budgets].
      draws: number of draws.
      seed: seed of the random numbers; the draws of different budgets share it.
    """
    budgets = np.atleast_1d(np.asarray(flops, float))
    drawn = [_draw_optimum(posterior, cost, float(budget), draws, seed) for budget in budgets]
    return OptimumDraws(budgets, np.exp(np.stack(drawn, axis=1)), cost)


def _draw_optimum(
    posterior: LawPosterior, cost: ComputeCost, budget: float, draws: int, seed: int
) -> np.ndarray:
    """Return draws of log N* of one budget."""
    # From the runs' centre along N ~ C^0.5, wherever the optimum may be.
    centre_n, centre_d = posterior.centre[:2]
    own = math.log(cost.k) + cost.p * centre_n + centre_d
    middle = centre_n + 0.5 * (math.log(budget) - own)
    grid = middle + np.arange(-SPAN, SPAN + STEP / 2, STEP)
    params = np.exp(grid)
    losses = posterior.draw_losses(params, budget / (cost.k * params**cost.p), draws, seed)
    lowest = losses.argmin(axis=1)
    inner = np.clip(lowest, 1, len(grid) - 2)
    left, middle_loss, right = (losses[np.arange(draws), inner + i] for i in (-1, 0, 1))
    bend = left - 2 * middle_loss + right
    shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0)
    return grid[lowest] + np.where(lowest == inner, STEP * np.clip(shift, -0.5, 0.5), 0)


def describe_split(
    posterior: LawPosterior,
    cost: ComputeCost,
    largest: float,
    budgets: tuple[float, ...],
    *,
    level: float,
    seed: int = 0,
    draws: int = DRAWS,
    band_points: int = BAND_POINTS,
) -> dict[str, Any]:
    """Return the split by the posterior, in the form of `approaches.compare_approaches`.

    Args:
      posterior: the posterior of the law.
      cost: C as a function of N and D.
      largest: FLOPs of the largest run.
      budgets: FLOP budgets to split.
      level: of the intervals.
      seed: seed of the random numbers.
      draws: number of draws.
      band_points: number of budgets of the band.
    """
    band_flops = np.geomspace(largest / REACH**2, largest * REACH, band_points)
    ends = draw_optima(posterior, cost, [largest, REACH * largest], draws=draws, seed=seed)
    exponents = np.diff(np.log(ends.params), axis=1)[:, 0] / math.log(REACH)
    a = float(np.diff(np.log(ends.median))[0] / math.log(REACH))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(exponents, tails)
    coefficient = float(ends.median[0] / largest**a)
    points = []
    for budget in budgets:
        drawn = draw_optima(posterior, cost, [budget], draws=draws, seed=seed)
        params = float(drawn.median[0])
        tokens = float(drawn.tokens_for(params)[0])
        ends_of_interval = np.quantile(drawn.params[:, 0], tails)
        points.append(
            {
                'flops': budget,
                'params': params,
                'tokens': tokens,
                'tokens_per_param': tokens / params,
                'loss': posterior.predict(params, tokens).compute_quantiles(0.5)[0],
                'params_low': float(ends_of_interval[0]),
                'params_high': float(ends_of_interval[1]),
                'identified': bool(ends_of_interval[1] < WIDE * ends_of_interval[0]),
            }
        )
    band = None
    if band_points:
        drawn = draw_optima(posterior, cost, band_flops, draws=draws, seed=seed)
        band_low, band_high = np.quantile(drawn.params, tails, axis=0)
        band = {
            'flops': band_flops.tolist(),
            'params_low': band_low.tolist(),
            'params_high': band_high.tolist(),
        }
    return {
        'a': a,
        'b': 1 - cost.p * a,
        'n_coefficient': coefficient,
        'd_coefficient': coefficient**-cost.p / cost.k,
        'cost': cost._asdict(),
        'a_interval': {
            'low': float(low),
            'high': float(high),
            'level': level,
            'resampled': 'draws of the posterior',
            'draws': draws,
        },
        'at': points,
        'band': band,
        'note': '',
    }
