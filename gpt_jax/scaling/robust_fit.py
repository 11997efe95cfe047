"""Robust fit of a law from many starts: damped Newton steps on the Huber loss of residuals.

The fit minimizes the sum over runs of Huber_delta(log L_predicted - log L_measured), as in Hoffmann
et al. 2022, appendix D.2, with analytic derivatives. The sum of squares is the same with an
infinite delta.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpt_jax.scaling.law_forms import LawForm, LogData

HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, appendix D.2
TOLERANCE = 1e-12  # relative gain of a step; two below it end a search
MAX_STEPS = 200
MAX_STEP = 1.0  # of a level or an exponent
MAX_DAMPING = 1e4
FLOOR = 1e-3  # of a coordinate's curvature, relative to that of the steepest
MAX_SCREENED_RUNS = 400  # runs of the first search from each start


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """The fit statistics of a fitted law.

    Attributes:
      objective: the sum of Huber terms at the optimum, by which two fits of the same runs can be
        compared.
      starts: number of searches.
      starts_reached: number of searches that ended at this objective.
      points: number of fitted runs.
    """

    objective: float
    starts: int
    starts_reached: int
    points: int


class SearchSettings(NamedTuple):
    """How to search, and when two searches ended at the same optimum.

    Attributes:
      search: (start, form, data, delta) -> (theta, sum of Huber terms).
      same_optimum: relative difference below which two objectives count as equal.
      same_optimum_absolute: absolute difference below which they count as equal.
    """

    search: Callable[[np.ndarray, LawForm, LogData, float], tuple[np.ndarray, float]]
    same_optimum: float
    same_optimum_absolute: float


class Solution(NamedTuple):
    """The best of several searches.

    Attributes:
      theta: the parameters.
      objective: the sum of Huber terms.
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
    """Return the weighted sum of Huber terms and its gradient with respect to theta."""
    predicted, gradient = form.predict(theta, data)
    clipped, terms = _huber_terms(predicted - data.log_loss, delta)
    if weights is None:
        return float(terms.sum()), gradient @ clipped
    return float(weights @ terms), gradient @ (weights * clipped)


def _huber_terms(residual: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each Huber term's derivative, and its value."""
    clipped = np.clip(residual, -delta, delta)
    # r^2 / 2 inside, delta (|r| - delta / 2) outside
    return clipped, clipped * (residual - clipped / 2)


def search(
    start: np.ndarray, form: LawForm, data: LogData, delta: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Search from one start for the least sum of Huber terms.

    A step solves (newton + damping majorant) step = -gradient. `newton` is the curvature of the
    terms inside delta, whose steps are fast near the optimum; `majorant` that of reweighted least
    squares, whose steps are safe and slow.

    Args:
      start: theta to search from.
      form: the law.
      data: the runs, in logarithms.
      delta: residual at which the Huber loss turns from quadratic to linear; inf: squares.
      weights: weights of the runs, [runs]; None: all 1.

    Returns:
      theta, and the sum of Huber terms there.
    """
    shear = np.eye(len(start))
    for level, exponent, letter in form.shear:
        shear[level, exponent] = getattr(data, letter).mean()
    low = np.array([-np.inf if pair[0] is None else pair[0] for pair in form.bounds])
    high = np.array([np.inf if pair[1] is None else pair[1] for pair in form.bounds])
    theta, damping, small_gains = np.clip(start, low, high), 1.0, 0
    value, gradient, newton, majorant = _differentiate(theta, form, data, delta, weights, shear)
    for _ in range(MAX_STEPS):
        stuck = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
        step = _solve(newton + damping * majorant, gradient, stuck)
        step /= max(1.0, np.abs(step).max() / MAX_STEP)
        moved = np.clip(theta + shear @ step, low, high)
        moved_value, *derivatives = _differentiate(moved, form, data, delta, weights, shear)
        if not moved_value < value:
            if damping > MAX_DAMPING:
                break
            damping = max(5 * damping, 1e-2)
            continue
        small_gains = small_gains + 1 if value - moved_value <= TOLERANCE * value else 0
        theta, value, (gradient, newton, majorant) = moved, moved_value, derivatives
        damping /= 5 if damping > 0.1 else 20
        if small_gains == 2:
            break
    return theta, value


def _solve(matrix: np.ndarray, gradient: np.ndarray, stuck: np.ndarray) -> np.ndarray:
    """Return the step to the minimum, without the coordinates that are stuck at a bound."""
    matrix[stuck], matrix[:, stuck] = 0.0, 0.0
    diagonal = matrix.ravel()[:: len(matrix) + 1]
    diagonal += np.where(stuck, 1.0, 1e-12 * diagonal + 1e-300)
    return np.linalg.solve(matrix, np.where(stuck, 0.0, -gradient))


def _differentiate(
    theta: np.ndarray,
    form: LawForm,
    data: LogData,
    delta: float,
    weights: np.ndarray | None,
    shear: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum of Huber terms, its gradient, and the two curvatures of `search`."""
    predicted, by_theta = form.predict(theta, data)
    residual, jacobian = predicted - data.log_loss, shear.T @ by_theta
    clipped, terms = _huber_terms(residual, delta)
    inside = clipped == residual
    curvature = np.where(inside, 1.0, clipped / np.where(inside, 1.0, residual))
    if weights is not None:
        terms, clipped, curvature = weights * terms, weights * clipped, weights * curvature
    majorant = (jacobian * curvature) @ jacobian.T
    near = jacobian[:, inside]
    newton = (near * curvature[inside]) @ near.T
    # A coordinate that hardly changes the losses, such as the log of a small E, takes no wild step.
    diagonal = majorant.ravel()[:: len(majorant) + 1]
    diagonal += FLOOR * diagonal.max()
    return float(terms.sum()), jacobian @ clipped, newton, majorant


def search_all(
    form: LawForm,
    data: LogData,
    delta: float,
    settings: SearchSettings,
    *,
    tries: int | None = None,
) -> Solution:
    """Search from the form's starts and return the best result.

    With more than MAX_SCREENED_RUNS runs, each start is first searched on a part of them, and the
    searches that end apart are continued on all.

    Args:
      form: the law.
      data: the runs, in logarithms.
      delta: residual at which the Huber loss turns from quadratic to linear.
      settings: how to search.
      tries: search only from this many of the starts, the best ones; None: from all.
    """
    part = take_evenly(data, MAX_SCREENED_RUNS)
    starts = form.starts(part)
    if tries is not None:
        starts = sorted(starts, key=lambda start: huber_objective(start, form, part, delta)[0])
        starts = starts[:tries]
    found = [settings.search(start, form, part, delta) for start in starts]
    if len(part.n) < len(data.n):
        found = _continue_all(found, form, data, delta, settings)
    theta, least = min(found, key=lambda result: result[1])
    limit = least * (1 + settings.same_optimum) + settings.same_optimum_absolute
    reached = [theta for theta, value in found if value <= limit]
    return Solution(theta, least, len(starts), reached)


def take_evenly(data: LogData, most: int) -> LogData:
    """Return at most this many of the runs, evenly spread over sizes and token counts."""
    if len(data.n) <= most:
        return data
    order = np.lexsort([data.d, data.n])
    chosen = order[np.linspace(0, len(order) - 1, most).astype(int)]
    return data.take(chosen)


def _continue_all(
    found: list[tuple[np.ndarray, float]],
    form: LawForm,
    data: LogData,
    delta: float,
    settings: SearchSettings,
) -> list[tuple[np.ndarray, float]]:
    """Continue searches on all runs; those that ended at one objective are continued as one."""
    found = sorted(found, key=lambda result: result[1])
    continued: list[tuple[np.ndarray, float]] = []
    before = -np.inf
    for theta, value in found:
        limit = before * (1 + settings.same_optimum) + settings.same_optimum_absolute
        if value > limit:
            before, last = value, settings.search(theta, form, data, delta)
        continued.append(last)
    return continued
