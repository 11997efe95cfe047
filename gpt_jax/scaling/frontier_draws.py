"""The frontiers of several recipes with their joint uncertainty: refits to data with new noise.

Each draw adds noise to the measured losses and to the prior means, and fits the same law again. The
size of the noise is that of the residuals about the laws; it is drawn too, with the degrees of
freedom that the runs leave, so that few runs give the wider intervals of Student's t. The residuals
of recipes at the same size and length may be correlated (the same order of data, the same error of
the law): their correlation is drawn from its posterior, and what is common cancels in a ratio.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from gpt_jax.scaling import frontier_fit
from gpt_jax.scaling.frontier_fit import Points, Problem

START_NOISE, MAX_UPDATES, SAME_NOISE = 0.01, 40, 1e-3
REJECTED = 0.01  # p-value of an F test, below which the noise of seeds rejects the law
DIFFERENT_NOISE = 0.01  # p-value of an F test, below which recipes have noise levels of their own
UNCORRELATED = 0.9  # prior weight of no correlation
CORRELATIONS = np.concatenate([[0.0], np.linspace(0.02, 0.9, 45), 1 - np.geomspace(0.09, 1e-9, 90)])


class Frontiers(NamedTuple):
    """Fitted laws of several recipes, and draws of them.

    Attributes:
      theta: constants of each recipe, as in frontier_fit.predict: [constants] each.
      drawn: the same for each draw, [draws, constants] each; None without degrees of freedom.
      noise: standard deviation of a run's log loss, of each recipe.
      freedom: degrees of freedom of the noise.
      correlation: mean over the draws, between recipes at the same configuration; NaN if their
        noise levels differ: then it is taken as independent.
      shared: number of configurations that all recipes have.
      failed: number of draws whose search did not converge; their constants are NaN.
      lack_of_fit: chi-square per degree of freedom of the configurations, by the noise of seeds;
        NaN without seeds.
      is_rejected: whether the noise of seeds rejects the law.
    """

    theta: list[np.ndarray]
    drawn: list[np.ndarray] | None
    noise: list[float]
    freedom: float
    correlation: float
    shared: int
    failed: int
    lack_of_fit: float
    is_rejected: bool


class _Fit(NamedTuple):
    """A fit.

    Attributes:
      theta: constants of each recipe.
      residuals: of each recipe's configurations, scaled to the noise of one run.
      squares, freedom: sum of squares of each recipe, seeds included, and its degrees of freedom.
      between: the degrees of freedom between seeds, of each recipe.
      is_determined: whether there are more runs than constants.
    """

    theta: list[np.ndarray]
    residuals: list[np.ndarray]
    squares: np.ndarray
    freedom: np.ndarray
    between: np.ndarray
    is_determined: bool


def fit_frontiers(
    recipes: list[Points],
    within: list[tuple[float, int]],
    shared_runs: list[np.ndarray],
    *,
    shared_exponents: bool,
    draws: int,
    seed: int,
) -> Frontiers:
    """Fit the laws of several recipes and draw from their joint uncertainty.

    Args:
      recipes: their points.
      within: for each recipe, the sum of squares between seeds and its degrees of freedom.
      shared_runs: for each recipe, the indices of the configurations that all have, in one order.
      shared_exponents: whether all recipes have the same exponents.
      draws: number of refits.
      seed: seed of the random numbers.
    """
    problem = frontier_fit.make_problem(recipes, shared_exponents=shared_exponents)
    start = _search(problem, np.full(len(recipes), START_NOISE))
    start, fit, noise, has_own_noise = _fit_with_noise(problem, start, within)
    lack_of_fit, chance = _measure_lack_of_fit(fit, within)
    if chance < REJECTED:
        # The seeds say little: each configuration is off the law by more than they differ.
        recipes = [points._replace(weights=np.ones_like(points.weights)) for points in recipes]
        within, problem = [(0.0, 0)] * len(recipes), problem._replace(recipes=recipes)
        start, fit, noise, has_own_noise = _fit_with_noise(problem, start, within)
    made = Frontiers(
        theta=fit.theta,
        drawn=None,
        noise=noise.tolist(),
        freedom=max(0.0, float(fit.freedom.sum())),
        correlation=math.nan,
        shared=len(shared_runs[0]),
        failed=0,
        lack_of_fit=lack_of_fit,
        is_rejected=chance < REJECTED,
    )
    if not draws or not fit.is_determined:
        return made
    random = np.random.default_rng(seed)
    scale, correlation = _draw_noise_levels(
        random, fit, noise, shared_runs, draws, has_own_noise=has_own_noise
    )
    drawn, failed = _refit(random, problem, start, scale, correlation, shared_runs)
    return made._replace(drawn=drawn, failed=failed, correlation=float(correlation.mean()))


def _fit_with_noise(
    problem: Problem, start: np.ndarray, within: list[tuple[float, int]]
) -> tuple[np.ndarray, _Fit, np.ndarray, bool]:
    """Fit with the noise that the residuals show.

    Returns:
      The joint constants, the fit, the noise of each recipe, and whether the recipes differ in it.
    """
    noise, has_own_noise = np.full(len(problem.recipes), START_NOISE), False
    start, fit = _fit(problem, start, within, noise)
    for _ in range(MAX_UPDATES if fit.is_determined else 0):
        updated, has_own_noise = _estimate_noise(fit)
        change = np.abs(np.log(updated / noise)).max()
        noise = updated
        start, fit = _fit(problem, start, within, noise)
        if change < SAME_NOISE:
            break
    return start, fit, noise, has_own_noise


def _measure_lack_of_fit(fit: _Fit, within: list[tuple[float, int]]) -> tuple[float, float]:
    """Return chi-square per degree of freedom by the noise of seeds, and its chance; NaN and 1."""
    seeds, between = sum(squares for squares, _ in within), float(fit.between.sum())
    left = float(fit.freedom.sum()) - between
    if not between or left < 1:
        return math.nan, 1.0
    ratio = (float(fit.squares.sum()) - seeds) / left / max(seeds / between, 1e-30)
    return ratio, float(stats.f.sf(ratio, left, between))


def _search(problem: Problem, noise: np.ndarray) -> np.ndarray:
    """Return the best constants over many starts, [constants]."""
    starts = []
    for floor, gamma, logit, log_kappa in frontier_fit.STARTS:
        start = problem.mean.copy()
        for points, index in zip(problem.recipes, problem.positions, strict=True):
            e = points.log_loss.min() + floor
            above = np.log(np.exp(points.log_loss) - math.exp(e))
            k = float((above + gamma * points.cost).mean())
            a = special.expit(logit) / points.size_power
            own = [e, k, math.log(gamma), -a * points.cost.mean(), logit, log_kappa]
            start[index] = own[: len(index)]
        starts.append(start)
    count = len(starts)
    theta, value, _ = frontier_fit.minimize(
        problem,
        np.array(starts),
        [np.tile(points.log_loss, (count, 1)) for points in problem.recipes],
        [np.full(count, level) for level in noise],
        np.tile(problem.mean, (count, 1)),
    )
    return theta[np.argmin(value)]


def _fit(
    problem: Problem, start: np.ndarray, within: list[tuple[float, int]], noise: np.ndarray
) -> tuple[np.ndarray, _Fit]:
    """Fit with known noise from `start`; return the joint constants and the fit."""
    recipes = problem.recipes
    best, *_ = frontier_fit.minimize(
        problem,
        start[None],
        [points.log_loss[None] for points in recipes],
        [np.array([level]) for level in noise],
        problem.mean[None],
    )
    parts, theta = [], [best[0, index] for index in problem.positions]
    for points, index, own, level in zip(recipes, problem.positions, theta, noise, strict=True):
        _, gradient = frontier_fit.predict(own[None], points)
        scaled = gradient[0] * (np.sqrt(points.weights) / level)[:, None]
        part = np.zeros((len(problem.mean),) * 2)
        part[np.ix_(index, index)] = scaled.T @ scaled
        parts.append(part)
    covariance = np.linalg.inv(np.diag(problem.sd**-2.0) + sum(parts))
    effective = [float(np.trace(covariance @ part)) for part in parts]
    residuals = [
        (points.log_loss - frontier_fit.predict(own[None], points)[0][0]) * np.sqrt(points.weights)
        for points, own in zip(recipes, theta, strict=True)
    ]
    squares = [float(one @ one) + seeds for one, (seeds, _) in zip(residuals, within, strict=True)]
    between = np.array([extra for _, extra in within])
    rows = np.array([len(one) for one in residuals]) + between
    fit = _Fit(
        theta,
        residuals,
        np.array(squares),
        rows - np.array(effective),
        between,
        bool(rows.sum() > len(problem.mean)),
    )
    return best[0], fit


def _estimate_noise(fit: _Fit) -> tuple[np.ndarray, bool]:
    """Return the noise of each recipe, pooled unless the residuals differ too much."""
    pooled = fit.squares.sum() / fit.freedom.sum()
    levels, has_own = np.full(len(fit.squares), pooled), False
    if (fit.freedom >= 1).all():
        own = fit.squares / fit.freedom
        highest, lowest = int(np.argmax(own)), int(np.argmin(own))
        ratio = own[highest] / max(own[lowest], frontier_fit.MIN_NOISE**2)
        pairs = len(own) * (len(own) - 1)
        if pairs * stats.f.sf(ratio, fit.freedom[highest], fit.freedom[lowest]) < DIFFERENT_NOISE:
            levels, has_own = own, True
    return np.maximum(np.sqrt(levels), frontier_fit.MIN_NOISE), has_own


def _draw_noise_levels(
    random: np.random.Generator,
    fit: _Fit,
    noise: np.ndarray,
    shared_runs: list[np.ndarray],
    draws: int,
    *,
    has_own_noise: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the noise of each recipe, [recipes, draws], and the correlation, [draws]."""
    recipes, freedom = len(noise), float(fit.freedom.sum())
    if has_own_noise:
        chances = [random.chisquare(own, draws) / own for own in fit.freedom]
        return noise[:, None] / np.sqrt(chances), np.full(draws, np.nan)
    squares, weights = np.full(1, fit.squares.sum()), np.ones(1)
    if len(shared_runs[0]):
        counts = np.array([len(one) for one in fit.residuals])
        left = float(np.mean((fit.freedom - fit.between) / counts)) * len(shared_runs[0])
        common = np.stack([one[runs] for one, runs in zip(fit.residuals, shared_runs, strict=True)])
        mean_squares = recipes * float((common.mean(axis=0) ** 2).sum())
        all_squares = float((common**2).sum())
        # The mean over recipes and the differences from it are independent.
        together, apart = 1 + (recipes - 1) * CORRELATIONS, 1 - CORRELATIONS
        squares = fit.squares.sum() - all_squares + mean_squares / together
        squares = squares + max(all_squares - mean_squares, 1e-14 * all_squares) / apart
        log_weights = -0.5 * (
            left * (np.log(together) + (recipes - 1) * np.log(apart)) + freedom * np.log(squares)
        )
        correlated = (1 - UNCORRELATED) * np.gradient(CORRELATIONS[1:])
        weights = np.append(UNCORRELATED, correlated) * np.exp(log_weights - log_weights.max())
    chosen = random.choice(len(weights), draws, p=weights / weights.sum())
    level = np.sqrt(squares[chosen] / random.chisquare(freedom, draws))
    level = np.maximum(level, frontier_fit.MIN_NOISE)
    return np.tile(level, (recipes, 1)), CORRELATIONS[chosen]


def _refit(
    random: np.random.Generator,
    problem: Problem,
    start: np.ndarray,
    scale: np.ndarray,
    correlation: np.ndarray,
    shared_runs: list[np.ndarray],
) -> tuple[list[np.ndarray], int]:
    """Refit to noisy data; NaN where a search did not converge, and the number of such draws."""
    draws, correlation = len(correlation), np.nan_to_num(correlation)
    common = random.standard_normal((draws, len(shared_runs[0])))
    noisy = []
    for points, runs, level in zip(problem.recipes, shared_runs, scale, strict=True):
        noise = random.standard_normal((draws, len(points.log_loss)))
        own = noise[:, runs] * np.sqrt(1 - correlation)[:, None]
        noise[:, runs] = own + common * np.sqrt(correlation)[:, None]
        noisy.append(points.log_loss + noise * level[:, None] / np.sqrt(points.weights))
    theta, _, converged = frontier_fit.minimize(
        problem,
        np.tile(start, (draws, 1)),
        noisy,
        list(scale),
        problem.mean + problem.sd * random.standard_normal((draws, len(problem.mean))),
    )
    theta[~converged] = np.nan
    return [theta[:, index] for index in problem.positions], int((~converged).sum())
