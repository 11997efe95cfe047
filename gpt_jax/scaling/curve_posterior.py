"""Posterior of a law over one variable and of the error of its form (`--law=auto --over=...`).

The counterpart of law_posterior.py for curves: the checkpoints of a run over tokens, or a ladder
over one variable x. The model of the loss:

    log L(x) = law(x) + g(x) + noise

The law is a power law with an irreducible loss or the smoothly broken one of broken_law.py, in
which only the exponent after the break may be larger: benchmarks stay near chance, then improve. g
is the error of the law's form, a Gaussian process over log x whose correlation falls exponentially
(Ornstein-Uhlenbeck), because the course of one run wanders instead of being smooth. It and the
noise may be larger or smaller where the loss is higher, by (loss / lowest loss)^growth.

Each combination of law, length scale, growth and ratio of the variances of noise and g is a member:
constants by Gauss-Newton steps with weak normal priors, their uncertainty by the curvature
(Laplace). The members are weighted by their evidence, and a prediction is the mixture of theirs.
`experiments/forecast_backtests/curves.py` measures it, and says which numbers were chosen there.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.broken_law import predict_broken
from gpt_jax.scaling.law_posterior import Prediction
from gpt_jax.scaling.law_terms import LogData
from gpt_jax.scaling.power_law import check_points

LAWS = ('power', 'broken')
LENGTH_SCALES = (0.5, 2.0)  # of g, in factors e of x
GROWTHS = (-1.0, 1.0)
NOISE_RATIOS = (0.05, 0.3, 2.0)  # variance of the noise over that of g
MIN_SIZES = 5  # distinct x
MAX_SIZES = 150  # of more, neighbors are averaged
ROUNDING = 1e-6  # of log x, within which points are one size

# Priors, mean and standard deviation. E and the level are relative to the lowest and highest loss,
# the break to the range of log x; exponents and the width of the break are logarithms.
LOG_IRREDUCIBLE = (-0.5, 0.6)
LEVEL_SD = 1.5
EXPONENT = (math.log(0.3), 0.7)
FIRST_EXPONENT = (math.log(0.05), 1.5)  # before the break
BREAK = (0.4, 0.4)
WIDTH = (math.log(0.7), 0.5)
FORM_SD, FORM_COUNT = 0.01, 2.0  # of g: its size, and the number of points that this is worth

TEMPERATURE = 3.0  # of the evidence: the model is not exact either
SD_FACTOR = 1.45
DRIFT_SD = 0.004  # per factor e of x beyond the data


class Fit(NamedTuple):
    """A law with its constants, given the covariance of a member.

    Attributes:
      theta: power: (log A, log alpha, log E); broken: (log A, log c0, log c1, log d, log f, log E).
      residual, gradient: multiplied by the inverse of the covariance's Cholesky factor.
      precision: inverse covariance of theta.
      variance: of g.
      log_evidence: up to a constant.
    """

    theta: np.ndarray
    residual: np.ndarray
    gradient: np.ndarray
    precision: np.ndarray
    variance: float
    log_evidence: float


class CurveMember(NamedTuple):
    """One combination of law, length scale, growth and noise ratio, fitted to the points.

    Attributes:
      length_scale, growth, noise_ratio: see above.
      factor: of each point, by which g and the noise are larger, [points].
      cholesky: of the correlation of g plus noise, lower, [points, points].
      fit: the law.
    """

    length_scale: float
    growth: float
    noise_ratio: float
    factor: np.ndarray
    cholesky: np.ndarray
    fit: Fit


class CurvePosterior(NamedTuple):
    """The posterior, given points (x, loss).

    Attributes:
      members: the fitted members.
      weights: their weights, [members].
      z: log x of the points minus `centre`, [points].
      centre: mean of log x.
      lowest: the lowest log loss.
    """

    members: list[CurveMember]
    weights: np.ndarray
    z: np.ndarray
    centre: float
    lowest: float

    def predict(self, x: float) -> Prediction:
        """Return the distribution of the loss of a new point at x, its noise included."""
        z = np.array([math.log(x) - self.centre])
        beyond = max(0.0, float(z[0] - self.z.max()))
        means, variances = zip(*(self._predict(m, z) for m in self.members), strict=True)
        sds = np.sqrt(SD_FACTOR**2 * np.array(variances) + (DRIFT_SD * beyond) ** 2)
        return Prediction(np.array(means), sds, self.weights)

    def _predict(self, member: CurveMember, z: np.ndarray) -> tuple[float, float]:
        fit = member.fit
        law, gradient = predict_curve(fit.theta, z)
        factor = math.exp(member.growth * max(float(law[0]) - self.lowest, 0.0))
        near = np.exp(-np.abs(self.z - z) / member.length_scale) * member.factor * factor
        known = solve_triangular(member.cholesky, near, lower=True)
        # The constants move the residuals of the near points too.
        slope = gradient[:, 0] - known @ fit.gradient
        form = factor**2 * (1 + member.noise_ratio) - known @ known
        variance = fit.variance * max(form, 1e-12) + slope @ np.linalg.solve(fit.precision, slope)
        return float(law[0] + known @ fit.residual), float(variance)


def predict_curve(theta: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log loss, [points], and its gradient by theta, [len(theta), points]."""
    data = LogData(z, z, z, z)
    if len(theta) == 3:
        a, log_alpha, e = theta
        alpha = math.exp(log_alpha)
        loss, gradient = predict_broken(np.array([a, alpha, 0.0, 0.0, 0.0, e]), data)
        return loss, gradient[[0, 1, 5]] * np.array([1.0, alpha, 1.0])[:, None]
    plain = theta.copy()
    plain[1:3] = np.exp(theta[1:3])
    loss, gradient = predict_broken(plain, data)
    gradient[1:3] *= plain[1:3, None]
    return loss, gradient


def fit_curve_posterior(x: np.ndarray, loss: np.ndarray) -> CurvePosterior:
    """Fit all members to points.

    Args:
      x: the scaled variable, [points], above zero, in any unit.
      loss: the loss reached, [points], above zero.

    Raises:
      UserError: there are too few distinct x, or as in `power_law.check_points`.
    """
    x, loss = check_points(x, loss)
    z, log_loss, counts = _average_points(np.log(x), np.log(loss))
    if len(z) < MIN_SIZES:
        raise UserError(
            f'--law=auto: needs at least {MIN_SIZES} distinct x on a curve, got {len(z)}'
        )
    centre, lowest = float(z.mean()), float(log_loss.min())
    z = z - centre
    distance, members = np.abs(z[:, None] - z), []
    for law in LAWS:
        prior = _make_prior(law, z, log_loss)
        start = _find_start(law, z, log_loss, prior)
        for length_scale, growth in itertools.product(LENGTH_SCALES, GROWTHS):
            factor = np.exp(growth * (log_loss - lowest))
            form = np.outer(factor, factor) * np.exp(-distance / length_scale)
            theta = start
            for noise_ratio in NOISE_RATIOS:
                covariance = form + np.diag(noise_ratio * factor**2 / counts)
                cholesky = np.linalg.cholesky(covariance)
                fit = _fit_law(theta, z, log_loss, cholesky, prior)
                theta = fit.theta
                members.append(
                    CurveMember(length_scale, growth, noise_ratio, factor, cholesky, fit)
                )
    evidence = np.array([member.fit.log_evidence for member in members])
    weights = np.exp((evidence - evidence.max()) / TEMPERATURE)
    return CurvePosterior(members, weights / weights.sum(), z, centre, lowest)


def _average_points(
    z: np.ndarray, log_loss: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the points of one x, or of neighboring x if there are many: (z, log loss, counts)."""
    size = ROUNDING
    while True:
        _, cell = np.unique(np.round(z / size), return_inverse=True)
        counts = np.bincount(cell).astype(float)
        if len(counts) <= MAX_SIZES:
            return np.bincount(cell, z) / counts, np.bincount(cell, log_loss) / counts, counts
        size = max(1.5 * size, np.ptp(z) / (4 * MAX_SIZES))


def _make_prior(law: str, z: np.ndarray, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations of theta."""
    floor = (log_loss.min() + LOG_IRREDUCIBLE[0], LOG_IRREDUCIBLE[1])
    if law == 'power':
        pairs = [(log_loss.mean() - 0.5, LEVEL_SD), EXPONENT, floor]
    else:
        span = np.ptp(z)
        place = (z.min() + BREAK[0] * span, BREAK[1] * span)
        level = (log_loss.max(), LEVEL_SD)
        pairs = [level, FIRST_EXPONENT, EXPONENT, place, WIDTH, floor]
    mean, sd = np.array(pairs).T
    return mean, sd


def _find_start(
    law: str, z: np.ndarray, log_loss: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Fit the law with independent errors, from three values of what is least linear in it."""
    fits = []
    for share in (0.0, 0.5, 1.0):
        theta = prior[0].copy()
        if law == 'power':
            theta[1] = math.log(0.1) + share * math.log(16)
        else:
            theta[3] = z.min() + 0.1 + 0.6 * share * np.ptp(z)
        fits.append(_fit_law(theta, z, log_loss, np.eye(len(z)), prior))
    return max(fits, key=lambda fit: fit.log_evidence).theta


def _fit_law(
    theta: np.ndarray,
    z: np.ndarray,
    log_loss: np.ndarray,
    cholesky: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray],
) -> Fit:
    """Find the most probable constants by damped Gauss-Newton steps; the variance is integrated."""
    mean, sd = prior
    freedom = FORM_COUNT + len(z) / 2
    prior_precision = np.diag(sd**-2.0)

    def evaluate(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        law, gradient = predict_curve(theta, z)
        stacked = np.concatenate([gradient, (log_loss - law)[None]]).T
        white = solve_triangular(cholesky, stacked, lower=True)
        residual = white[:, -1]
        variance = (FORM_COUNT * FORM_SD**2 + residual @ residual / 2) / freedom
        log_prior = -0.5 * float((((theta - mean) / sd) ** 2).sum())
        return white[:, :-1], residual, variance, log_prior - freedom * math.log(variance)

    gradient, residual, variance, best = evaluate(theta)
    damping = 1e-3
    for _ in range(60):
        precision = gradient.T @ gradient / variance + prior_precision
        slope = gradient.T @ residual / variance - (theta - mean) / sd**2
        step = np.linalg.solve(precision + damping * np.diag(np.diag(precision)), slope)
        candidate = theta + np.clip(step, -2, 2)
        *values, candidate_variance, score = evaluate(candidate)
        if score >= best - 1e-9:
            has_converged = score - best < 1e-6
            theta, (gradient, residual), best = candidate, values, score
            variance = candidate_variance
            damping = max(damping / 5, 1e-9)
            if has_converged:
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    precision = gradient.T @ gradient / variance + prior_precision
    log_determinants = 2 * np.log(np.diag(cholesky)).sum() + np.linalg.slogdet(precision)[1]
    evidence = best - 0.5 * float(log_determinants) - float(np.log(sd).sum())
    return Fit(theta, residual, gradient, precision, float(variance), evidence)
