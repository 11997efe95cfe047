"""Compute multipliers of recipes: the cost that the first needs over the cost that another needs.

For each recipe, a law is fitted to all of its runs (frontier_fit.py), the mean of a configuration's
seeds counting as their number. For a loss l, recipe r needs the cost C_r(l) = (K / (l - E))^(1 /
gamma), with the best size if sizes and lengths vary freely. The multiplier of r over the first
recipe, the base, is C_base(l) / C_r(l); at a budget C, it is C_base(l) / C for the loss l that r
reaches with C. An interval and the probability that a recipe is the best come from the same joint
draws (frontier_draws.py).
"""

import math
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import frontier_draws, frontier_fit, law_posterior
from gpt_jax.scaling.bootstrap import CONFIDENCE_LEVEL
from gpt_jax.scaling.law_forms import LogData
from gpt_jax.scaling.recipe_files import get_cost
from gpt_jax.scaling.runs import Runs

POINTS = 25  # of a grid of losses
MIN_COSTS = 3
MAX_CONFIGURATIONS = 400  # of a recipe; more are averaged over cells of log N, log D and log cost


class _Configurations(NamedTuple):
    """The means of runs of equal N, D and cost: logarithms of N, D, cost and loss, [runs, 4]."""

    logs: np.ndarray
    counts: np.ndarray
    squares: float
    seeds: int


class _Draws(NamedTuple):
    """Constants of every recipe for the point estimate (the first row) and the draws after it."""

    theta: list[np.ndarray]
    centre: float

    def cost_for_loss(self, recipe: int, loss: np.ndarray) -> np.ndarray:
        """Return the log cost, [1 + draws, losses]; infinite at or below E."""
        e, k, log_gamma = self.theta[recipe].T[:3, :, None]
        above = loss - np.exp(e)
        with np.errstate(divide='ignore', invalid='ignore'):
            cost = (k - np.log(np.where(above > 0, above, 1))) / np.exp(log_gamma) + self.centre
        return np.where(np.isnan(e), np.nan, np.where(above > 0, cost, np.inf))

    def loss_for_cost(self, recipe: int, log_cost: Any) -> np.ndarray:
        """Return the loss, [1 + draws, costs]."""
        e, k, log_gamma = self.theta[recipe].T[:3, :, None]
        with np.errstate(invalid='ignore'):
            return np.exp(np.logaddexp(k - np.exp(log_gamma) * (log_cost - self.centre), e))


def compare_recipes(
    recipes: Sequence[Runs],
    *,
    by: str = 'flops',
    at_loss: Sequence[float] = (),
    at_cost: Sequence[float] = (),
    shared_exponents: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute multipliers over the losses that two recipes reach, with intervals, and rank recipes.

    Args:
      recipes: the runs of each; the first is the base.
      by: the cost, 'flops' or 'seconds'.
      at_loss: losses to compare at (default: the lowest that all reach).
      at_cost: budgets to compare at (default: the largest that all have).
      shared_exponents: whether one set of exponents is fitted to all recipes.
      draws: number of refits.
      seed: seed of the random numbers.

    Returns:
      recipes: of each, `name`, `law` (E, K, gamma; G, a and kappa if its sizes vary freely),
      `cost_range`, `runs` (cost and loss of its configurations), `frontier` (cost, loss, low,
      high); and of each but the base, against it, `overall`, `along` (loss, multiplier, low, high)
      and `warning`. at_loss and at_cost: for each, the multiplier, its interval and p_best of every
      recipe. ranking: names, the best first. noise, freedom, correlation, lack_of_fit, failed,
      draws, no_interval (why there is none, or ''), level, left_out. loss, multiplier, low, high:
      `along` of the second recipe.

    Raises:
      UserError: a recipe has too few runs.
    """
    if len(recipes) > len(ascii_uppercase):
        raise UserError(f'at most {len(ascii_uppercase)} recipes can be compared')
    names = list(ascii_uppercase[: len(recipes)])
    clean = [_drop_outliers(_drop_checkpoints(runs)) for runs in recipes]
    means = [_average_seeds(runs, get_cost(runs, by)) for runs in clean]
    for name, one in zip(names, means, strict=True):
        costs = np.unique(one.logs[:, 2]).size
        if costs < MIN_COSTS:
            raise UserError(
                f'{name}: needs runs of at least {MIN_COSTS} different {by}, got {costs}'
            )
    centre = float(np.mean([one.logs[:, 2].mean() for one in means]))
    points = [_make_points(one, centre) for one in means]
    fitted = frontier_draws.fit_frontiers(
        points,
        [(one.squares, one.seeds) for one in means],
        _find_shared_runs(means),
        shared_exponents=shared_exponents,
        draws=draws,
        seed=seed,
    )
    drawn = fitted.drawn or [own[:0] for own in map(np.atleast_2d, fitted.theta)]
    made = _Draws(
        [np.vstack([own, more]) for own, more in zip(fitted.theta, drawn, strict=True)], centre
    )
    ranges = [(float(one.logs[:, 2].min()), float(one.logs[:, 2].max())) for one in means]
    described = [
        _describe_recipe(names, index, made, point, ranges) for index, point in enumerate(points)
    ]
    reached = [_find_losses(made, index, ends) for index, ends in enumerate(ranges)]
    losses = list(at_loss) or [max(low for low, _ in reached)]
    budgets = list(at_cost) or [math.exp(min(high for _, high in ranges))]
    result = {
        'recipes': described,
        'at_loss': [_compare_at_loss(names, made, loss, reached) for loss in losses],
        'at_cost': [_compare_at_cost(names, made, cost, ranges) for cost in budgets],
        'by': by,
        'level': CONFIDENCE_LEVEL,
        'shared_exponents': shared_exponents,
        'draws': len(drawn[0]),
        'no_interval': _explain_no_interval(points, means, fitted, draws),
        'left_out': [runs.left_out for runs in clean],
    }
    result |= {
        name: value for name, value in fitted._asdict().items() if name not in ('theta', 'drawn')
    }
    result['ranking'] = _rank(result)
    return result | described[1]['along'] | {'warning': described[1]['warning']}


def _drop_outliers(runs: Runs) -> Runs:
    logs = [np.log(values) for values in (runs.params, runs.tokens, runs.tokens, runs.loss)]
    return runs.exclude(law_posterior.find_outliers(LogData(*logs)))


def _drop_checkpoints(runs: Runs) -> Runs:
    """Leave out all checkpoints of a run but the last: their noise is not independent."""
    _, cluster = np.unique(runs.clusters, return_inverse=True)
    last = np.zeros(cluster.max(initial=0) + 1)
    np.maximum.at(last, cluster, runs.tokens)
    before = np.flatnonzero(runs.tokens < last[cluster])
    return runs.exclude({int(i): 'a checkpoint: the last of its run is used' for i in before})


def _average_seeds(runs: Runs, cost: np.ndarray) -> _Configurations:
    """Average the runs of each configuration."""
    logs = np.log(np.stack([runs.params, runs.tokens, cost, runs.loss], axis=1))
    means, counts, squares = _average_groups(runs.clusters[:, None], logs, np.ones(len(logs)))
    seeds, size = len(logs) - len(means), 0.02
    while len(means) > MAX_CONFIGURATIONS:
        means, counts, _ = _average_groups(np.round(means[:, :3] / size), means, counts)
        size *= 1.5
    return _Configurations(means, counts, squares, seeds)


def _average_groups(
    keys: np.ndarray, logs: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return means and counts of groups of equal keys, and the squares of log loss within them."""
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.reshape(-1)
    totals = np.bincount(group, counts)
    sums = [np.bincount(group, counts * column) for column in logs.T]
    means = np.stack(sums, axis=1) / totals[:, None]
    return means, totals, float(((logs[:, 3] - means[group, 3]) ** 2).sum())


def _make_points(one: _Configurations, centre: float) -> frontier_fit.Points:
    n, d, cost, log_loss = one.logs.T
    return frontier_fit.make_points(n, d, cost, log_loss, one.counts, centre)


def _find_shared_runs(means: list[_Configurations]) -> list[np.ndarray]:
    """Return the indices of the configurations that all recipes have, for each recipe."""
    positions = [
        {tuple(np.round(row[:2], 3)): index for index, row in enumerate(one.logs)} for one in means
    ]
    shared = [key for key in positions[0] if all(key in others for others in positions)]
    return [np.array([own[key] for key in shared], int) for own in positions]


def _find_losses(made: _Draws, recipe: int, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest loss of a recipe's frontier within its costs."""
    high, low = made.loss_for_cost(recipe, np.array(ends))[0]
    return float(low), float(high)


def _describe_recipe(
    names: list[str],
    index: int,
    made: _Draws,
    points: frontier_fit.Points,
    ranges: list[tuple[float, float]],
) -> dict[str, Any]:
    theta = made.theta[index][0]
    gamma = math.exp(theta[2])
    law = {'E': math.exp(theta[0]), 'K': math.exp(theta[1] + gamma * made.centre), 'gamma': gamma}
    if not points.is_line:
        a = 1 / (1 + math.exp(-theta[4])) / points.size_power
        level = math.exp(theta[3] + points.size_centre - a * made.centre)
        law |= {'G': level, 'a': a, 'kappa': math.exp(theta[5])}
    grid = np.linspace(*ranges[index], POINTS)
    loss = made.loss_for_cost(index, grid)
    low, high = _compute_interval(loss)
    described = {
        'name': names[index],
        'law': law,
        'cost_range': np.exp(ranges[index]).tolist(),
        'runs': {
            'cost': np.exp(points.cost + made.centre).tolist(),
            'loss': np.exp(points.log_loss).tolist(),
        },
        'frontier': {
            'cost': np.exp(grid).tolist(),
            'loss': loss[0].tolist(),
            'low': low.tolist(),
            'high': high.tolist(),
        },
    }
    return described | (_compare_pair(made, index, ranges) if index else {})


def _compare_pair(made: _Draws, index: int, ranges: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the multipliers of a recipe over the base, along the losses that both reach."""
    ends = [_find_losses(made, recipe, ranges[recipe]) for recipe in (0, index)]
    low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
    warning = ''
    if not low < high:
        warning = (
            f'the losses of the recipes do not overlap ({ends[0][1]:.4g} to {ends[0][0]:.4g} and '
            f'{ends[1][1]:.4g} to {ends[1][0]:.4g}): this extrapolates, and the interval holds '
            'only if the laws do'
        )
        low, high = high, low
    grid = np.geomspace(low, high, POINTS)
    with np.errstate(invalid='ignore'):
        ratio = made.cost_for_loss(0, grid) - made.cost_for_loss(index, grid)
        mean = ratio.mean(axis=1, keepdims=True)
    overall = {name: values[0] for name, values in _summarize(mean).items()}
    return {
        'overall': overall | {'lowest_loss': low, 'highest_loss': high},
        'along': {'loss': grid.tolist()} | _summarize(ratio),
        'warning': warning,
    }


def _summarize(log_ratio: np.ndarray) -> dict[str, list[float]]:
    """Return multiplier, low and high from log multipliers, [1 + draws, columns]."""
    low, high = _compute_interval(log_ratio)
    with np.errstate(over='ignore'):
        ends = {'multiplier': log_ratio[0], 'low': low, 'high': high}
        return {name: np.exp(values).tolist() for name, values in ends.items()}


def _compute_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the central interval of the draws, [1 + draws, columns], NaN without draws.

    A draw without a value, such as that of a failed search, may be anything: it counts as low and
    as high.
    """
    drawn = values[1:]
    if not len(drawn):
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    ends = (1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2
    is_unknown = np.isnan(drawn)
    low = np.quantile(np.where(is_unknown, -np.inf, drawn), ends[0], axis=0, method='lower')
    high = np.quantile(np.where(is_unknown, np.inf, drawn), ends[1], axis=0, method='higher')
    return low, high


def _find_best(values: np.ndarray) -> np.ndarray | None:
    """Return how often each recipe has the lowest value, [recipes]; values is [draws, recipes]."""
    if not len(values):
        return None
    lowest = values.min(axis=1, keepdims=True)  # NaN if one is, and then no recipe is known best
    is_best = (values <= lowest + 1e-12) & np.isfinite(lowest)
    shares = np.full(values.shape, 1 / values.shape[1])
    known = is_best.any(axis=1)
    shares[known] = is_best[known] / is_best[known].sum(axis=1, keepdims=True)
    return shares.mean(axis=0)


def _compare_at_loss(
    names: list[str], made: _Draws, loss: float, reached: list[tuple[float, float]]
) -> dict[str, Any]:
    cost = [made.cost_for_loss(index, np.array([loss])) for index in range(len(names))]
    with np.errstate(invalid='ignore'):
        ratios = [_summarize(cost[0] - one) for one in cost]
    rows = [
        {'name': name, 'cost': float(np.exp(one[0, 0]))} | {key: row[key][0] for key in row}
        for name, one, row in zip(names, cost, ratios, strict=True)
    ]
    _add_best(rows, np.concatenate(cost, axis=1)[1:])
    is_beyond = any(not low * 0.9999 <= loss <= high * 1.0001 for low, high in reached)
    return {'loss': float(loss), 'recipes': rows, 'is_beyond': is_beyond}


def _compare_at_cost(
    names: list[str], made: _Draws, cost: float, ranges: list[tuple[float, float]]
) -> dict[str, Any]:
    log_cost = math.log(cost)
    losses = [made.loss_for_cost(index, np.array([log_cost])) for index in range(len(names))]
    rows = []
    for name, loss in zip(names, losses, strict=True):
        # Each draw has its own loss, so that the base's cost is evaluated draw by draw.
        needed = np.diagonal(made.cost_for_loss(0, loss[:, 0]))[:, None]
        low, high = _compute_interval(loss)
        row = {'name': name, 'loss': float(loss[0, 0]), 'loss_low': low[0], 'loss_high': high[0]}
        rows.append(row | {key: one[0] for key, one in _summarize(needed - log_cost).items()})
    _add_best(rows, np.concatenate(losses, axis=1)[1:])
    is_beyond = any(not low - 1e-6 <= log_cost <= high + 1e-6 for low, high in ranges)
    return {'cost': float(cost), 'recipes': rows, 'is_beyond': is_beyond}


def _add_best(rows: list[dict[str, Any]], values: np.ndarray) -> None:
    shares = _find_best(values)
    for index, row in enumerate(rows):
        row['p_best'] = None if shares is None else float(shares[index])


def _rank(result: dict[str, Any]) -> list[str]:
    """Return the names by the loss at the last budget, the best first."""
    return [
        row['name'] for row in sorted(result['at_cost'][-1]['recipes'], key=lambda r: r['loss'])
    ]


def _explain_no_interval(
    points: list[frontier_fit.Points],
    means: list[_Configurations],
    fitted: frontier_draws.Frontiers,
    draws: int,
) -> str:
    if fitted.drawn is not None or not draws:
        return ''
    runs = sum(len(one.logs) + one.seeds for one in means)
    constants = sum(one.count_constants() for one in points)
    return (
        f'{runs} runs leave no degree of freedom beside the {constants} constants of the laws, so '
        'that nothing shows their noise; add seeds or sizes, or use --shared_exponents'
    )
