"""Posterior of a scaling law and of the error of its form, and the predictions that follow.

The model of the loss of a run with N parameters and D tokens:

    log L = log(E + [(A / N^alpha)^(1/kappa) + (B / D^beta)^(1/kappa)]^kappa) + g(N, D) + noise

The first term is the law. With kappa = 1 it is Chinchilla's (Hoffmann et al. 2022, eq. 2);
otherwise it is that of arXiv 2608.07222, E + A (N^-a + R D^-b)^k, with alpha = a k and beta = b k.
For kappa near 0, the larger of the two terms decides, as if N or D alone were the bottleneck.

g is the error of the law's form: a Gaussian process over (log N, log D). Near the runs, their
residuals determine it, so that a prediction continues what the nearest runs show; far from them it
is uncertain. It and the noise may be larger where the loss is higher, by the factor
(loss / lowest loss)^growth: laws describe runs that are far from the best ones less well.

Where tokens are repeated, D in the law is the effective D of Muennighoff et al. 2023 (equation 5),
with R_D among the constants, and g depends on the number of epochs too.

For each combination of a length scale, a growth and a ratio of the variances of noise and g (the
members), the constants are found by Gauss-Newton steps, with weak normal priors; the overall
variance is integrated out, and the curvature gives the joint uncertainty of the constants
(Laplace). The members are weighted by their evidence, and a prediction is the mixture of theirs.

Three numbers come from real runs instead of theory (`experiments/forecast_backtests`): the members'
standard deviations are multiplied by SD_FACTOR; a term that grows with the logarithm of the
extrapolation is added (DRIFT_SD per factor e of compute); and the mean falls by DRIFT per factor e,
since laws fitted to a part of a set of runs predict too high a loss for the rest.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special
from scipy.linalg import solve_triangular
from scipy.optimize import least_squares

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.law_forms import LogData, effective_amount

CONSTANTS = ('E', 'A', 'B', 'alpha', 'beta', 'kappa', 'R_D')
MIN_RUNS, MIN_SIZES = 4, 3
MAX_POINTS = 400  # more runs are averaged over cells of (log N, log D)

# The members: length scale of g in factors e of N and D, growth, variance of noise over that of g.
LENGTH_SCALES = (1.0, 2.0, 4.0, 8.0)
GROWTHS = (0.0, 1.0, 2.0, 4.0)
NOISE_RATIOS = (0.02, 0.1, 0.5, 2.0, 8.0)

# Priors: mean and standard deviation. That of log E is relative to the lowest log loss; A and B are
# those at the runs' mean, in units of exp(mean log loss).
LOG_IRREDUCIBLE = (-0.5, 0.6)
LOG_LEVEL = (-1.0, 3.0)
EXPONENT = (0.3, 0.07)
LOG_KAPPA = (-1.0, 0.7)
LOG_HALF_LIFE = (math.log(15.0), 1.0)  # R_D is 15.39 in Muennighoff et al. 2023
FORM_SD, FORM_COUNT = 0.004, 1.0  # of g: its size, and the number of runs that this is worth
EPOCH_GROWTH = 0.25  # of g: the law describes a run less well the more often it repeats its tokens
EXPONENT_RANGE, LOG_KAPPA_RANGE = (0.02, 2.0), (-3.0, 1.5)
LOG_HALF_LIFE_RANGE = (-2.0, 8.0)

RUN_SHARE = 0.8  # of the noise of a checkpoint: its run's, which its other checkpoints share

TEMPERATURE = 3.0  # of the evidence: the model is not exact either
SD_FACTOR = 1.25
DRIFT_SD, DRIFT = 0.004, 0.002  # per factor e of compute

OUTLIER_SDS, OUTLIER_SHARE = 10.0, 0.1

GRID, REACH = 4001, 20.0  # points, and scales about the members, to evaluate a prediction at
LOWEST_SHARE = 0.02  # this quantile of the losses counts as the lowest


class Member(NamedTuple):
    """One combination of a length scale, a growth and a noise ratio, fitted to the runs.

    Attributes:
      length_scale, growth, noise_ratio: see above.
      factor: the runs' factors by which g and the noise are larger, [runs].
      cholesky: of the correlation of g plus noise, lower, [runs, runs].
      theta: (log E, log A, log B, alpha, beta, log kappa) at the centre of the runs; with
        repetition, log R_D too.
      residual, gradient: of the runs, multiplied by the inverse of `cholesky`: [runs],
        [runs, theta].
      precision: inverse covariance of theta, [theta, theta].
      variance: of g.
      log_evidence: up to a constant.
    """

    length_scale: float
    growth: float
    noise_ratio: float
    factor: np.ndarray
    cholesky: np.ndarray
    theta: np.ndarray
    residual: np.ndarray
    gradient: np.ndarray
    precision: np.ndarray
    variance: float
    log_evidence: float


class Prediction(NamedTuple):
    """Distribution of the log loss of a run: a mixture of Student's t distributions.

    Attributes:
      means, sds: locations and scales, [members].
      weights: [members].
      freedom: degrees of freedom; inf: normal distributions.
    """

    means: np.ndarray
    sds: np.ndarray
    weights: np.ndarray
    freedom: float = math.inf

    def compute_quantiles(self, *shares: float) -> list[float]:
        """Return quantiles of the loss."""
        reach = REACH * self.sds
        low, high = (self.means - reach).min(), (self.means + reach).max()
        grid = np.linspace(low, high, GRID)
        below = special.stdtr(self.freedom, (grid[:, None] - self.means) / self.sds) @ self.weights
        return np.exp(np.interp(shares, below, grid)).tolist()

    def widen(self, factor: float) -> 'Prediction':
        """Multiply the standard deviation about the mean of the mixture by `factor`."""
        centre = float(self.weights @ self.means)
        return self._replace(means=centre + factor * (self.means - centre), sds=factor * self.sds)


class LawPosterior(NamedTuple):
    """The posterior, given runs.

    Attributes:
      members: the fitted members.
      weights: their weights, [members].
      points: (log N, log D) of the runs minus `centre`, [runs, 2]; with repetition, (log N, log D,
        log U), U unique tokens, [runs, 3].
      centre: [2] or [3].
      lowest: the lowest log loss.
      log_compute: the largest log(N D) of the runs.
      freedom: degrees of freedom of the variance.
    """

    members: list[Member]
    weights: np.ndarray
    points: np.ndarray
    centre: np.ndarray
    lowest: float
    log_compute: float
    freedom: float

    def predict(self, params: float, tokens: float, unique_tokens: float = math.nan) -> Prediction:
        """Return the distribution of the loss that one run would reach, its noise included.

        Args:
          params, tokens: of the run.
          unique_tokens: of distinct text, if less than tokens; used if the fitted runs repeat some.
        """
        unique = min(tokens, unique_tokens) if unique_tokens > 0 else tokens
        point = np.log([params, tokens, unique])[: len(self.centre)] - self.centre
        beyond = max(0.0, math.log(params * tokens) - self.log_compute)
        means, variances = zip(*(self._predict(m, point) for m in self.members), strict=True)
        return Prediction(
            np.array(means) - DRIFT * beyond,
            np.sqrt(SD_FACTOR**2 * np.array(variances) + (DRIFT_SD * beyond) ** 2),
            self.weights,
            self.freedom,
        )

    def _predict(self, member: Member, point: np.ndarray) -> tuple[float, float]:
        """Return mean and variance of a run's log loss by one member, its noise included."""
        means, covariance = self._predict_jointly(member, point[None])
        law, _ = predict_law(member.theta, point[None])
        growth = (_grow(member.growth, law, self.lowest) * _grow_with_epochs(point[None]))[0]
        noise = member.variance * member.noise_ratio * growth**2
        return means[0], max(covariance[0, 0], 1e-12 * member.variance) + noise

    def draw_losses(self, params: Any, tokens: Any, draws: int, seed: int) -> np.ndarray:
        """Draw log losses of several runs together, without their noise, [draws, runs].

        A draw is one possible surface of the loss over N and D. DRIFT and DRIFT_SD are left out:
        they are of the level, and the runs that are compared have the same compute.
        """
        columns = [params, tokens, tokens][: len(self.centre)]  # no token is repeated
        points = np.log(np.stack(columns, axis=1)) - self.centre
        random = np.random.default_rng(seed)
        drawn = []
        counts = random.multinomial(draws, self.weights / self.weights.sum())
        for member, count in zip(self.members, counts, strict=True):
            if count:
                mean, covariance = self._predict_jointly(member, points)
                values, vectors = np.linalg.eigh(covariance)
                scales = SD_FACTOR * np.sqrt(np.maximum(values, 0))
                scales = scales * np.sqrt(self.freedom / random.chisquare(self.freedom, (count, 1)))
                drawn.append(
                    mean + (random.standard_normal((count, len(values))) * scales) @ vectors.T
                )
        return np.concatenate(drawn)

    def _predict_jointly(self, member: Member, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of the log losses of several runs, without their noise."""
        law, gradient = predict_law(member.theta, points)
        factor = _grow(member.growth, law, self.lowest) * _grow_with_epochs(points)
        near = _correlate(self.points, points, member.length_scale)
        scaled = near * member.factor[:, None] * factor
        known = solve_triangular(member.cholesky, scaled, lower=True)
        # The constants move the residuals of the near runs too.
        gradient = gradient - known.T @ member.gradient
        form = np.outer(factor, factor) * _correlate(points, points, member.length_scale)
        constants = gradient @ np.linalg.solve(member.precision, gradient.T)
        return law + known.T @ member.residual, member.variance * (
            form - known.T @ known
        ) + constants

    def describe_constants(self) -> dict[str, float]:
        """Return the law's constants by the member with the most weight."""
        theta = self.members[int(np.argmax(self.weights))].theta
        e, a, b, alpha, beta, *logs = theta
        n, d = self.centre[:2]
        values = [*np.exp([e, a + alpha * n, b + beta * d]), alpha, beta, *map(math.exp, logs)]
        return dict(zip(CONSTANTS, map(float, values), strict=False))


def predict_law(theta: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log loss of the law, [runs], and its gradient by theta, [runs, theta].

    Args:
      theta: as in `Member`.
      points: as in `LawPosterior`.
    """
    e, a, b, alpha, beta, log_kappa = theta[:6]
    n, d = points.T[:2]
    if len(theta) > 6:
        d, by_half_life = effective_amount(d, points[:, 2], theta[6])
    kappa = math.exp(log_kappa)
    terms = np.stack([(a - alpha * n) / kappa, (b - beta * d) / kappa])
    total = np.logaddexp(*terms)
    by_n, by_d = np.exp(terms - total)
    entropy = total - by_n * terms[0] - by_d * terms[1]
    loss = np.logaddexp(kappa * total, e)
    share = np.exp(kappa * total - loss)  # of the reducible loss
    columns = [1 - share, share * by_n, share * by_d, -share * by_n * n, -share * by_d * d]
    columns.append(share * kappa * entropy)
    if len(theta) > 6:
        columns.append(-beta * columns[2] * by_half_life)
    return loss, np.stack(columns, axis=1)


def fit_posterior(data: LogData, clusters: np.ndarray | None = None) -> LawPosterior:
    """Fit all members to runs.

    Args:
      data: the runs, in logarithms.
      clusters: labels of the runs that rows are checkpoints of, [rows]; None: every row is a run.

    Raises:
      UserError: there are too few runs to say anything.
    """
    points, log_loss = _stack_points(data), data.log_loss
    if clusters is None:
        points, log_loss, counts = _average_cells(points, log_loss)
        noise = np.diag(1 / counts)
    else:
        rows = np.unique(np.linspace(0, len(log_loss) - 1, MAX_POINTS).round().astype(int))
        points, log_loss, labels = points[rows], log_loss[rows], clusters[rows]
        noise = np.eye(len(rows)) + RUN_SHARE * ((labels[:, None] == labels) - np.eye(len(rows)))
    if len(log_loss) < MIN_RUNS or np.unique(points, axis=0).shape[0] < MIN_SIZES:
        raise UserError(
            f'needs at least {MIN_RUNS} runs of {MIN_SIZES} sizes or lengths, got {len(log_loss)}'
        )
    centre = _find_centre(points)
    points = points - centre
    lowest = float(np.quantile(log_loss, LOWEST_SHARE, method='lower'))
    prior = _make_prior(log_loss, lowest, is_repeated=points.shape[1] > 2)
    start = _find_start(points, log_loss, prior)
    members = []
    for length_scale, growth in itertools.product(LENGTH_SCALES, GROWTHS):
        factor = _grow(growth, log_loss, lowest) * _grow_with_epochs(points)
        form = np.outer(factor, factor) * _correlate(points, points, length_scale)
        theta = start
        for noise_ratio in NOISE_RATIOS:
            covariance = form + noise_ratio * np.outer(factor, factor) * noise
            fitted = _fit_member(theta, points, log_loss, covariance, prior)
            theta = fitted[1]
            members.append(Member(length_scale, growth, noise_ratio, factor, *fitted))
    evidence = np.array([member.log_evidence for member in members])
    weights = np.exp((evidence - evidence.max()) / TEMPERATURE)
    log_compute = float((data.n + data.d).max())
    freedom = 2 * FORM_COUNT + len(log_loss)
    weights = weights / weights.sum()
    return LawPosterior(members, weights, points, centre, lowest, log_compute, freedom)


def find_outliers(data: LogData) -> dict[int, str]:
    """Return the runs that something went wrong with, as indices, each with the reason.

    Their loss differs from the law through all runs by more than OUTLIER_SDS robust standard
    deviations (those of a normal distribution with the same median deviation), and by more than
    OUTLIER_SHARE. Fewer than MIN_RUNS runs have none.
    """
    if len(data.log_loss) < MIN_RUNS:
        return {}
    points = _stack_points(data)
    points = points - _find_centre(points)
    lowest = float(np.quantile(data.log_loss, LOWEST_SHARE, method='lower'))
    theta = _find_start(
        points, data.log_loss, _make_prior(data.log_loss, lowest, is_repeated=points.shape[1] > 2)
    )
    residual = data.log_loss - predict_law(theta, points)[0]
    limit = max(1.4826 * OUTLIER_SDS * float(np.median(np.abs(residual))), OUTLIER_SHARE)
    return {
        int(i): f'its loss differs by {100 * math.expm1(residual[i]):+.3g}% from the law through '
        'all runs'
        for i in np.flatnonzero(np.abs(residual) > limit)
    }


def _stack_points(data: LogData) -> np.ndarray:
    """Return (log N, log D), [runs, 2]; with log U where tokens are repeated, [runs, 3]."""
    is_repeated = (data.d - data.u > 1e-6).any()
    return np.stack([data.n, data.d, *([data.u] if is_repeated else [])], axis=1)


def _find_centre(points: np.ndarray) -> np.ndarray:
    """Return the mean of the points; that of log D counts for log U, so that D / U is kept."""
    centre = points.mean(axis=0)
    centre[2:] = centre[1]
    return centre


def _average_cells(
    points: np.ndarray, log_loss: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the runs over cells, as small as MAX_POINTS allows: (points, log loss, counts)."""
    values, counts = np.column_stack([points, log_loss]), np.ones(len(log_loss))
    size = 0.02
    while len(values) > MAX_POINTS:
        cells = np.round(values[:, :-1] / size)
        _, cell = np.unique(cells, axis=0, return_inverse=True)
        cell, weighted = cell.reshape(-1), values * counts[:, None]
        counts = np.bincount(cell, counts).astype(float)
        sums = [np.bincount(cell, column) for column in weighted.T]
        values = np.stack(sums, axis=1) / counts[:, None]
        size *= 1.5
    return values[:, :-1], values[:, -1], counts


def _make_prior(
    log_loss: np.ndarray, lowest: float, *, is_repeated: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations of theta."""
    level = log_loss.mean() + LOG_LEVEL[0]
    means = [lowest + LOG_IRREDUCIBLE[0], level, level, EXPONENT[0], EXPONENT[0], LOG_KAPPA[0]]
    sds = [LOG_IRREDUCIBLE[1], LOG_LEVEL[1], LOG_LEVEL[1], EXPONENT[1], EXPONENT[1], LOG_KAPPA[1]]
    if is_repeated:
        means.append(LOG_HALF_LIFE[0])
        sds.append(LOG_HALF_LIFE[1])
    return np.array(means), np.array(sds)


def _find_start(
    points: np.ndarray, log_loss: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Fit the law alone, from three exponents, with residuals beyond 2% counted linearly."""
    mean, sd = prior
    low = [-np.inf, -np.inf, -np.inf, EXPONENT_RANGE[0], EXPONENT_RANGE[0], LOG_KAPPA_RANGE[0]]
    high = [np.inf, np.inf, np.inf, EXPONENT_RANGE[1], EXPONENT_RANGE[1], LOG_KAPPA_RANGE[1]]
    if len(mean) > len(low):
        low.append(LOG_HALF_LIFE_RANGE[0])
        high.append(LOG_HALF_LIFE_RANGE[1])

    def compute_residuals(theta: np.ndarray) -> np.ndarray:
        fit = (predict_law(theta, points)[0] - log_loss) / 0.02
        return np.concatenate([fit, (theta - mean) / sd])

    solutions = []
    for exponent in (0.2, 0.33, 0.5):
        theta = mean.copy()
        theta[3:5] = exponent
        solutions.append(
            least_squares(
                compute_residuals, theta, loss='soft_l1', max_nfev=200, bounds=(low, high)
            )
        )
    return min(solutions, key=lambda solution: solution.cost).x


def _fit_member(
    theta: np.ndarray,
    points: np.ndarray,
    log_loss: np.ndarray,
    covariance: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Return the fields of a Member after `factor`: cholesky, theta, ..., log_evidence."""
    mean, sd = prior
    cholesky = np.linalg.cholesky(covariance)
    freedom = FORM_COUNT + len(log_loss) / 2
    prior_precision = np.diag(sd**-2.0)

    def evaluate(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        law, gradient = predict_law(theta, points)
        residual = solve_triangular(cholesky, log_loss - law, lower=True)
        squares = FORM_COUNT * FORM_SD**2 + residual @ residual / 2
        log_prior = -0.5 * float((((theta - mean) / sd) ** 2).sum())
        return gradient, residual, log_prior - freedom * math.log(squares)

    gradient, residual, best = evaluate(theta)
    damping = 1e-3
    for _ in range(40):
        variance = (FORM_COUNT * FORM_SD**2 + residual @ residual / 2) / freedom
        whitened = solve_triangular(cholesky, gradient, lower=True)
        precision = whitened.T @ whitened / variance + prior_precision
        slope = whitened.T @ residual / variance - (theta - mean) / sd**2
        step = np.linalg.solve(precision + damping * np.diag(np.diag(precision)), slope)
        candidate = theta + step
        candidate[3:5] = np.clip(candidate[3:5], *EXPONENT_RANGE)
        candidate[5] = np.clip(candidate[5], *LOG_KAPPA_RANGE)
        candidate[6:] = np.clip(candidate[6:], *LOG_HALF_LIFE_RANGE)
        *values, score = evaluate(candidate)
        if score >= best - 1e-9:
            has_converged = score - best < 1e-6
            theta, (gradient, residual), best = candidate, values, score
            damping = max(damping / 5, 1e-9)
            if has_converged:
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    variance = (FORM_COUNT * FORM_SD**2 + residual @ residual / 2) / freedom
    whitened = solve_triangular(cholesky, gradient, lower=True)
    precision = whitened.T @ whitened / variance + prior_precision
    log_determinants = 2 * np.log(np.diag(cholesky)).sum() + np.linalg.slogdet(precision)[1]
    evidence = best - 0.5 * float(log_determinants)
    return cholesky, theta, residual, whitened, precision, float(variance), evidence


def _grow(growth: float, log_loss: np.ndarray, lowest: float) -> np.ndarray:
    return np.exp(growth * np.maximum(log_loss - lowest, 0))


def _grow_with_epochs(points: np.ndarray) -> np.ndarray:
    """Return the factor of g and the noise of runs with repetition; ones without."""
    return np.exp(EPOCH_GROWTH * (points[:, 1:2] - points[:, 2:]).sum(axis=1))


def _correlate(first: np.ndarray, second: np.ndarray, length_scale: float) -> np.ndarray:
    """Return the Matern correlation of smoothness 5/2 between points, [first, second].

    Of (log N, log D, log U), the third input is log(D / U), the number of epochs.
    """
    if first.shape[1] > 2:
        first, second = (
            np.column_stack([points[:, :2], points[:, 1] - points[:, 2]])
            for points in (first, second)
        )
    square = (((first[:, None] - second[None]) / length_scale) ** 2).sum(axis=-1)
    distance = np.sqrt(5 * square)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)
