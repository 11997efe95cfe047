"""Robust fit of a law from many starts: L-BFGS-B on the Huber loss of log residuals.

The fit minimizes the sum over runs of Huber_delta(log L_predicted - log L_measured), as in Hoffmann
et al. 2022, appendix D.2, with an analytic gradient. The terms are summed and scaled, because with
the mean of such tiny terms, the optimizer stops at once (Besiroglu et al. 2024).
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from gpt_jax.scaling.law_forms import LawForm, LogData

HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, appendix D.2
SCALE = 1e4  # brings the objective of a good fit near 1, for which the tolerances are meant


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """The fit statistics of a fitted law.

    Attributes:
      objective: the unscaled sum of Huber terms at the optimum, by which two fits of the same runs
        can be compared.
      starts: number of searches.
      starts_reached: number of searches that ended at this objective.
      points: number of fitted runs.
    """

    objective: float
    starts: int
    starts_reached: int
    points: int


class SearchSettings(NamedTuple):
    """Settings of the search for the constants of a law.

    Attributes:
      options: options of scipy's L-BFGS-B.
      polish_tolerance: `ftol` of the repeated search from the best result; None: no polishing.
      same_optimum: relative difference below which two objectives count as equal.
      same_optimum_absolute: absolute difference below which they count as equal.
    """

    options: dict[str, Any]
    polish_tolerance: float | None
    same_optimum: float
    same_optimum_absolute: float


class Solution(NamedTuple):
    """The best of several searches.

    Attributes:
      theta: the parameters.
      objective: the unscaled objective.
      starts: number of searches.
      reached: the parameters of all searches that did equally well.
    """

    theta: np.ndarray
    objective: float
    starts: int
    reached: list[np.ndarray]


def huber_objective(
    theta: np.ndarray, form: LawForm, data: LogData, delta: float, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Return the scaled, weighted sum of Huber terms and its gradient with respect to theta."""
    predicted, gradient = form.predict(theta, data)
    residual = predicted - data.log_loss
    clipped = np.clip(residual, -delta, delta)
    terms = clipped * (residual - clipped / 2)  # r^2 / 2 inside, delta (|r| - delta / 2) outside
    if weights is None:
        return SCALE * float(terms.sum()), SCALE * (gradient @ clipped)
    return SCALE * float(weights @ terms), SCALE * (gradient @ (weights * clipped))


def search(
    start: np.ndarray,
    form: LawForm,
    data: LogData,
    delta: float,
    options: dict[str, Any],
    weights: np.ndarray | None = None,
) -> Any:
    """Search from one start; return scipy's result: the scaled objective is `fun`, theta is `x`."""
    shear = np.eye(len(start))
    for level, exponent, letter in form.shear:
        shear[level, exponent] = getattr(data, letter).mean()

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = huber_objective(shear @ x, form, data, delta, weights)
        return value, shear.T @ gradient

    result = optimize.minimize(
        objective,
        np.linalg.solve(shear, start),
        jac=True,
        method='L-BFGS-B',
        bounds=form.bounds,
        options=options,
    )
    result.x = shear @ result.x
    return result


def search_all(
    form: LawForm,
    data: LogData,
    delta: float,
    settings: SearchSettings,
    *,
    tries: int | None = None,
    weights: np.ndarray | None = None,
) -> Solution:
    """Search from the form's starts and return the best result.

    Args:
      form: the law.
      data: the runs, in logarithms.
      delta: residual at which the Huber loss turns from quadratic to linear.
      settings: settings of the search.
      tries: search only from this many of the starts, the best ones; None: from all.
      weights: weights of the runs, [runs]; None: all 1.
    """

    def objective(start: np.ndarray) -> float:
        return huber_objective(start, form, data, delta, weights)[0]

    starts = form.starts(data)
    if tries is not None:
        starts = sorted(starts, key=objective)[:tries]
    results = [search(start, form, data, delta, settings.options, weights) for start in starts]
    best = min(results, key=lambda result: result.fun)
    if settings.polish_tolerance is not None:
        options = settings.options | {'ftol': settings.polish_tolerance}
        best = _polish(best, form, data, delta, options, weights)
    limit = best.fun * (1 + settings.same_optimum) + settings.same_optimum_absolute
    reached = [result.x for result in results if result.fun <= limit]
    return Solution(best.x, best.fun / SCALE, len(starts), reached)


def _polish(
    best: Any,
    form: LawForm,
    data: LogData,
    delta: float,
    options: dict[str, Any],
    weights: np.ndarray | None,
) -> Any:
    """Repeat the search from its own result as long as that helps.

    L-BFGS approximates the curvature from its path; a restart discards a misleading approximation.
    """
    for _ in range(20):
        again = search(best.x, form, data, delta, options, weights)
        gain, best = best.fun - again.fun, again if again.fun < best.fun else best
        if gain <= 1e-12 * abs(best.fun):
            break
    return best
