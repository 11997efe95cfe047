"""The least loss that a recipe reaches with a given cost: its law, fitted to all of its runs.

With sizes and lengths that vary freely, the law is that of `law_posterior.py`, written in terms of
its frontier. In the coordinates cost C and size N, it is

    L = E + K C^-gamma [a e^(-alpha x / kappa) + (1 - a) e^(beta x / kappa)]^kappa
    x = log N - log N*(C),   N*(C) = G C^a,   alpha = gamma / a,   beta = gamma / (1 - a)

so that E + K C^-gamma is the loss of the best size. kappa = 1 is Chinchilla's law (Hoffmann et al.
2022, eq. 2), other kappa that of arXiv 2608.07222. The cost is FLOPs or seconds. If it grows as
N^p D^q instead of N D, then a in the weights and 1 - a become p a and 1 - p a, and beta is
p gamma / (1 - p a).

Runs that vary along one line, such as 20 tokens per parameter, identify only E + K C^-gamma.

All logarithms of losses have the same normal noise. The priors are weak: at usual noise they matter
only for what the runs hardly determine, such as E from few sizes.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import special

CONSTANTS = ('E', 'K', 'gamma', 'G', 'a', 'kappa')
LINE_CONSTANTS = 3  # of a law along one line: the first three
SHARED_CONSTANTS = (2, 4, 5)  # gamma, a and kappa, which are all functions of the exponents
MIN_SPREAD = 0.2  # of log N given the cost, below which sizes vary along one line
# Priors: mean and standard deviation of log E (relative to the lowest loss), log K (relative to the
# mean loss, at the mean cost), log gamma, log G (relative to the mean size at the mean cost), the
# logit of p a, and log kappa.
PRIOR_MEAN = np.array([-0.5, -1.0, math.log(0.15), 0.0, 0.0, -0.5])
PRIOR_SD = np.array([0.6, 3.0, 0.5, 3.0, 0.6, 0.8])
RANGE = 15.0  # of all constants about their prior means, beyond which numbers would overflow
MIN_NOISE = 1e-7  # relative; below it, rounding decides
STARTS = tuple(itertools.product((-0.25, -1.0), (0.08, 0.15, 0.3), (-0.4, 0.4), (-1.2, 0.0)))
MAX_STEPS, TOLERANCE = 200, 1e-7


class Points(NamedTuple):
    """The configurations of one recipe, in logarithms, each [runs].

    Attributes:
      cost: FLOPs or seconds, minus `centre`.
      size: parameters, minus their mean.
      log_loss: mean over the seeds.
      weights: number of runs that were averaged.
      centre: mean log cost of all recipes.
      size_centre: mean log size.
      size_power: p, see above.
      is_line: whether the sizes vary along one line.
    """

    cost: np.ndarray
    size: np.ndarray
    log_loss: np.ndarray
    weights: np.ndarray
    centre: float
    size_centre: float
    size_power: float
    is_line: bool

    def count_constants(self) -> int:
        return LINE_CONSTANTS if self.is_line else len(CONSTANTS)

    def make_prior(self) -> np.ndarray:
        """Return the prior means of theta."""
        mean = PRIOR_MEAN.copy()
        mean[0] += self.log_loss.min()
        mean[1] += self.log_loss.mean() + math.exp(mean[2]) * self.cost.mean()
        mean[3] -= 0.5 / self.size_power * self.cost.mean()
        return mean[: self.count_constants()]


def make_points(
    log_params: np.ndarray,
    log_tokens: np.ndarray,
    log_cost: np.ndarray,
    log_loss: np.ndarray,
    weights: np.ndarray,
    centre: float,
) -> Points:
    """Make the points of a recipe from arrays, [runs]; `centre` is the mean log cost of all."""
    cost, size_centre = log_cost - centre, float(log_params.mean())
    line = np.stack([np.ones_like(cost), cost], axis=1)
    along, *_ = np.linalg.lstsq(line, log_params, rcond=None)
    freedom = max(len(cost) - 2, 1)
    spread = math.sqrt(float(((log_params - line @ along) ** 2).sum()) / freedom)
    is_line = spread < MIN_SPREAD or len(cost) <= LINE_CONSTANTS + 1
    power = 1.0
    if not is_line:
        shape = np.stack([np.ones_like(cost), log_params, log_tokens], axis=1)
        (_, power, _), *_ = np.linalg.lstsq(shape, log_cost, rcond=None)
        power = float(np.clip(power, 0.5, 1.5))
    size = log_params - size_centre
    return Points(cost, size, log_loss, weights, centre, size_centre, power, is_line)


def predict(theta: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Return the log loss of the law, [draws, runs], and its gradient, [draws, runs, constants].

    Args:
      theta: log E, log K, log gamma, and if sizes vary freely log G, the logit of p a and log
        kappa, for the centred points, [draws, constants].
      points: the runs.
    """
    e, k, log_gamma = theta.T[:3, :, None]
    gamma = np.exp(log_gamma)
    reducible = k - gamma * points.cost
    by_gamma = -gamma * points.cost
    gradient = np.empty((*reducible.shape, theta.shape[1]))
    if not points.is_line:
        g, logit, log_kappa = theta.T[3:, :, None]
        kappa, p = np.exp(log_kappa), points.size_power
        share = special.expit(logit)  # p a
        a = share / p
        x = points.size - g - a * points.cost
        alpha, beta = gamma / a, p * gamma / (1 - share)
        left, right = np.log(share) - alpha * x / kappa, np.log(1 - share) + beta * x / kappa
        total = np.logaddexp(left, right)
        small = np.exp(left - total)  # the share of the term that is larger for small models
        large = 1 - small
        slope = large * beta - small * alpha
        reducible = reducible + kappa * total
        by_gamma = by_gamma + slope * x
        gradient[..., 3] = -slope
        gradient[..., 4] = (
            -slope * points.cost
            + small * (kappa + alpha * x) / a
            + large * (beta * x - kappa) * p / (1 - share)
        ) * (a * (1 - share))
        gradient[..., 5] = kappa * total - slope * x
    loss = np.logaddexp(reducible, e)
    share = np.exp(reducible - loss)
    gradient[..., 1], gradient[..., 2] = 1.0, by_gamma
    gradient[..., 1:] *= share[..., None]
    gradient[..., 0] = 1 - share
    return loss, gradient


class Problem(NamedTuple):
    """Recipes that are fitted together.

    Attributes:
      recipes: their points.
      positions: of each recipe's constants in the joint theta.
      mean, sd: the prior of the joint theta.
    """

    recipes: list[Points]
    positions: list[np.ndarray]
    mean: np.ndarray
    sd: np.ndarray


def make_problem(recipes: list[Points], *, shared_exponents: bool = False) -> Problem:
    """Make the fit of several recipes, each with its own exponents or all with the same."""
    positions: list[np.ndarray] = []
    first: dict[int, int] = {}  # position of each constant in the first recipe that has it
    count = 0
    for points in recipes:
        own = []
        for constant in range(points.count_constants()):
            if shared_exponents and constant in SHARED_CONSTANTS and constant in first:
                own.append(first[constant])
                continue
            first.setdefault(constant, count)
            own.append(count)
            count += 1
        positions.append(np.array(own))
    mean, sd = np.zeros(count), np.zeros(count)
    for points, chosen in zip(recipes, positions, strict=True):
        mean[chosen], sd[chosen] = points.make_prior(), PRIOR_SD[: len(chosen)]
    return Problem(recipes, positions, mean, sd)


def _evaluate(
    problem: Problem,
    theta: np.ndarray,
    log_loss: list[np.ndarray],
    noise: list[np.ndarray],
    mean: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return objective [draws], its negative half gradient and Gauss-Newton matrix."""
    slope = (mean - theta) / problem.sd**2
    value = ((mean - theta) * slope).sum(axis=1)
    matrix = np.tile(np.diag(problem.sd**-2.0), (len(theta), 1, 1))
    for points, index, measured, sd in zip(
        problem.recipes, problem.positions, log_loss, noise, strict=True
    ):
        predicted, gradient = predict(theta[:, index], points)
        scale = np.sqrt(points.weights) / sd[:, None]
        residual = (measured - predicted) * scale
        gradient *= scale[..., None]
        value += (residual**2).sum(axis=1)
        transposed = gradient.swapaxes(1, 2)
        slope[:, index] += (transposed @ residual[..., None])[..., 0]
        matrix[:, index[:, None], index] += transposed @ gradient
    return value, slope, matrix


def minimize(
    problem: Problem,
    theta: np.ndarray,
    log_loss: list[np.ndarray],
    noise: list[np.ndarray],
    mean: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit many draws at once by damped Gauss-Newton steps.

    Args:
      problem: the recipes.
      theta: starts, [draws, constants].
      log_loss: for each recipe, [draws, runs].
      noise: for each recipe, the standard deviation of a run's log loss, [draws].
      mean: prior means, [draws, constants].

    Returns:
      theta, the objective [draws], and whether each search converged, [draws].
    """
    theta = theta.copy()
    value, slope, matrix = _evaluate(problem, theta, log_loss, noise, mean)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    diagonal = np.arange(theta.shape[1])
    for _ in range(MAX_STEPS):
        damped = matrix[active]
        damped[:, diagonal, diagonal] *= 1 + damping[active, None]
        step = np.linalg.solve(damped, slope[active][..., None])[..., 0]
        candidate = np.clip(theta[active] + step, problem.mean - RANGE, problem.mean + RANGE)
        values = _evaluate(
            problem,
            candidate,
            [measured[active] for measured in log_loss],
            [sd[active] for sd in noise],
            mean[active],
        )
        gain = value[active] - values[0]
        is_better = gain >= 0
        better, worse = active[is_better], active[~is_better]
        theta[better] = candidate[is_better]
        value[better], slope[better], matrix[better] = (one[is_better] for one in values)
        damping[better] = np.maximum(damping[better] / 10, 1e-9)
        damping[worse] *= 10
        is_done = (np.abs(gain) <= TOLERANCE * (1 + value[active])) | (damping[active] > 1e12)
        active = active[~is_done]
        if not active.size:
            break
    converged = np.ones(len(theta), bool)
    converged[active] = False
    return theta, value, converged
