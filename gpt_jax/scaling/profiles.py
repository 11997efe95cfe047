"""Profile likelihoods: whether the runs identify a constant of a law, and its 95% range.

The constant is fixed at values further and further from the optimum, and the others are refitted,
until the fit is significantly worse. The measure is the robust likelihood ratio of a sum of Huber
terms (Ronchetti 1982; Hampel et al. 1986, chapter 7): at the true value, 2 (objective - minimum
objective) E[psi'] / E[psi^2] is chi-square with one degree of freedom, where psi is the derivative
of a term. Both expectations are taken over normal residuals with the robust standard deviation of
the fit. Delta is at least 1.345 times that deviation: far below it, the sum is one of absolute
residuals, which has a kink at each run, and a local minimum wherever as many runs as there are
constants are met exactly.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.scaling import parametric_fit, robust_fit
from gpt_jax.scaling.law_forms import LawForm, LogData
from gpt_jax.scaling.parametric_fit import ParametricLaw

CHI_SQUARE_LIMIT = 3.841  # the 95% quantile of chi-square with one degree of freedom
# An identified constant stays within this factor; for A, B, Nc and Dc, their logarithm does.
WIDE = 2.0
STEPS = 8  # values on each side up to WIDE; beyond it, doublings
DOUBLINGS = 6
GRID_STARTS = 12  # of the law's starts, for the searches at the optimum, at WIDE and beyond
MAX_ITERATIONS = 60  # of a search
MAX_RUNS = 2000  # more take long, and identify a constant no less
# Huber's delta, relative to normal noise, at which 5% of the efficiency is lost (Huber 1981).
EFFICIENT_DELTA = 1.345
MIN_NOISE = 1e-6  # of log loss: losses are not recorded more precisely
# Levels of the loss at one parameter or one token, of which only the logarithm is meaningful.
LEVELS = ('A', 'B', 'Nc', 'Dc')
PROFILED_CONSTANTS = {
    'chinchilla': ('E', 'A', 'B', 'alpha', 'beta'),
    'tied': ('E', 'A', 'B', 'alpha'),
    'kaplan': ('Nc', 'Dc', 'alphaN', 'alphaD'),
    'repeated': ('R_D', 'R_N'),  # with its base law fixed
}


class _Coordinates(NamedTuple):
    """The law in coordinates that each are one constant or its logarithm.

    Attributes:
      form: the law.
      data: the runs, in logarithms.
      delta: residual at which the Huber loss turns from quadratic to linear.
      logs: which coordinates are logarithms, [coordinates].
      bounds: [coordinates, 2].
      to_theta: coordinates -> (theta, its Jacobian [theta, coordinates]).
    """

    form: LawForm
    data: LogData
    delta: float
    logs: np.ndarray
    bounds: np.ndarray
    to_theta: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def profile_constant(
    law: ParametricLaw, data: LogData, name: str, *, variance_factor: float = 1.0
) -> dict[str, Any]:
    """Compute the profile of one constant: the best fit at each of its values.

    Args:
      law: the law fitted to the runs.
      data: the runs, in logarithms; of more than MAX_RUNS, an even part is used, which makes the
        range wider.
      name: name of the constant, in PROFILED_CONSTANTS.
      variance_factor: by how much the variance of the constants is larger than for independent
        rows.

    Returns:
      values, objective (the unscaled sum of Huber terms), statistic (the likelihood ratio): lists
      of equal length, ascending by value.
      limit: the limit of the statistic.
      low, high: where the statistic crosses the limit; None if it does not up to the constant's
        bound or the last value tried.
      identified: whether it crosses on both sides within a factor of WIDE, and is below the limit
        in a single range.
      note: why the constant is not identified, or ''.
    """
    names = PROFILED_CONSTANTS[law.law]
    data = robust_fit.take_evenly(data, MAX_RUNS)
    sigma = _estimate_sigma(law, data, len(names))
    coordinates = _make_coordinates(law, data, max(law.delta, EFFICIENT_DELTA * sigma))
    per_unit = _statistic_per_unit(coordinates.delta, sigma) / variance_factor
    index = names.index(name)
    thetas, objectives = _walk(law, coordinates, name, index, per_unit)
    _walk_back(coordinates, index, thetas, objectives)
    steps = sorted(objectives)
    objective = np.array([objectives[step] for step in steps])
    places = np.array([thetas[step][index] for step in steps])
    is_log = coordinates.logs[index]
    values = np.exp(places) if is_log else places
    statistic = per_unit * (objective - objective.min())
    low, high = _find_crossings(places, statistic)
    if is_log:
        low, high = (None if end is None else math.exp(end) for end in (low, high))
    note = _describe_ambiguity(name, law.constants[name], statistic, low, high, places, steps)
    return {
        'values': values.tolist(),
        'objective': objective.tolist(),
        'statistic': statistic.tolist(),
        'limit': CHI_SQUARE_LIMIT,
        'low': low,
        'high': high,
        'identified': not note,
        'note': note,
    }


def _walk(
    law: ParametricLaw, coordinates: _Coordinates, name: str, index: int, per_unit: float
) -> tuple[dict[int, np.ndarray], dict[int, float]]:
    """Step from the optimum to both sides; return the coordinates and the objective by step.

    Each search begins at the result of the neighboring step; at the optimum and far out, also at
    GRID_STARTS of the law's starts, because a walk from the optimum stays in its own valley. With
    many runs, the best of these starts is found on a part of them.
    """
    best = _get_coordinates(law.constants, law.law, coordinates)
    part = coordinates._replace(
        data=robust_fit.take_evenly(coordinates.data, robust_fit.MAX_SCREENED_RUNS)
    )
    starts = _spread_starts(law, part)
    is_log = bool(coordinates.logs[index])
    thetas: dict[int, np.ndarray] = {}
    objectives: dict[int, float] = {}

    def evaluate(step: int, start: np.ndarray) -> None:
        fixed = start.copy()
        fixed[index] = (
            _place(best[index], is_log, name, step)
            if abs(step) <= STEPS
            else _place_beyond(coordinates, best[index], index, name, step)
        )
        results = [_minimize(coordinates, fixed, index)]
        if step == 0 or abs(step) >= STEPS:
            is_fixed = np.arange(len(fixed)) == index
            outer = [np.where(is_fixed, fixed, start) for start in starts]
            if len(part.data.n) < len(coordinates.data.n):
                found = [_minimize(part, start, index) for start in outer]
                outer = [min(found, key=lambda result: result[1])[0]]
            results += [_minimize(coordinates, start, index) for start in outer]
        thetas[step], objectives[step] = min(results, key=lambda result: result[1])

    def is_far(step: int) -> bool:
        return per_unit * (objectives[step] - min(objectives.values())) > CHI_SQUARE_LIMIT

    evaluate(0, best)
    for side in (1, -1):
        for step in range(1, STEPS + DOUBLINGS + 1):
            inner = side * (step - 1)
            at_bound = _is_at_bound(coordinates, thetas[inner][index], index, side)
            if step > STEPS and (is_far(inner) or at_bound):
                break
            evaluate(side * step, thetas[inner])
    return thetas, objectives


def _place(centre: float, is_log: bool, name: str, step: float) -> float:
    """Return the coordinate `step` steps from the centre; STEPS steps reach WIDE."""
    if name in LEVELS:
        # Factors of a logarithm near 0 mean nothing, so the reach is at least a factor of WIDE in
        # the level itself.
        reach = max(abs(centre), math.log(WIDE))
        if step > 0:
            return centre + reach * (WIDE - 1) * step / STEPS
        return centre + reach * (1 - 1 / WIDE) * step / STEPS
    log_factor = math.log(WIDE) * step / STEPS
    return centre + log_factor if is_log else centre * math.exp(log_factor)


def _place_beyond(
    coordinates: _Coordinates, centre: float, index: int, name: str, step: int
) -> float:
    """Return the coordinate beyond WIDE: each step multiplies by WIDE again, up to the bound."""
    side = 1 if step > 0 else -1
    outer_step = side * STEPS * (1 + abs(step) - STEPS)
    place = _place(centre, bool(coordinates.logs[index]), name, outer_step)
    return float(np.clip(place, *coordinates.bounds[index]))


def _is_at_bound(coordinates: _Coordinates, place: float, index: int, side: int) -> bool:
    low, high = coordinates.bounds[index]
    return bool(place >= high if side > 0 else place <= low)


def _walk_back(
    coordinates: _Coordinates,
    index: int,
    thetas: dict[int, np.ndarray],
    objectives: dict[int, float],
) -> None:
    """Search again from both ends inward: a result from far out may be better further in too."""
    for steps in (sorted(objectives), sorted(objectives, reverse=True)):
        for step, after in itertools.pairwise(steps):
            start = thetas[step].copy()
            start[index] = thetas[after][index]
            theta, objective = _minimize(coordinates, start, index)
            if objective < objectives[after]:
                thetas[after], objectives[after] = theta, objective


def _find_crossings(places: np.ndarray, statistic: np.ndarray) -> tuple[float | None, float | None]:
    """Find where the statistic crosses the limit, left and right of all values below it."""
    below = np.flatnonzero(statistic <= CHI_SQUARE_LIMIT)
    ends: list[float | None] = []
    for inner, outer in ((below[0], below[0] - 1), (below[-1], below[-1] + 1)):
        if not 0 <= outer < len(places):
            ends.append(None)
            continue
        # Linear in the square root, because a profile is a parabola near its minimum.
        near, far, limit = (
            math.sqrt(max(0.0, value))
            for value in (statistic[inner], statistic[outer], CHI_SQUARE_LIMIT)
        )
        share = (limit - near) / (far - near)
        ends.append(float(places[inner] + share * (places[outer] - places[inner])))
    return ends[0], ends[1]


def _describe_ambiguity(
    name: str,
    best: float,
    statistic: np.ndarray,
    low: float | None,
    high: float | None,
    places: np.ndarray,
    steps: list[int],
) -> str:
    """Return why the constant is not identified, or '' if it is."""
    below = statistic <= CHI_SQUARE_LIMIT
    pieces = int((below[1:] & ~below[:-1]).sum() + below[0])
    if pieces > 1:
        return (
            f'not identified: the profile of {name} has {pieces} minima that the runs cannot tell '
            'apart'
        )
    first, last = (below[steps.index(step)] for step in (-STEPS, STEPS))
    if not (first or last):
        return ''
    from_value = f'{"below " if low is None else ""}{low or _to_value(name, places[0]):.3g}'
    to_value = f'{"above " if high is None else ""}{high or _to_value(name, places[-1]):.3g}'
    return (
        f'not identified: {name} from {from_value} to {to_value} fits the runs as well as '
        f'{best:.3g} (95%)'
    )


def _to_value(name: str, place: float) -> float:
    return math.exp(place) if name in (*LEVELS, 'E', 'R_D', 'R_N') else float(place)


def _estimate_sigma(law: ParametricLaw, data: LogData, constants: int) -> float:
    """Return the standard deviation of the runs about the law; a robust one of a Huber fit."""
    form = parametric_fit.get_law_form(law.law, law.constants)
    form, data = parametric_fit.with_residual(form, data, law.residual)
    predicted, _ = form.predict(form.pack(law.constants), data)
    residual = np.sort(np.abs(predicted - data.log_loss))
    if math.isinf(law.delta):
        return max(MIN_NOISE, math.sqrt(float(residual @ residual) / (len(residual) - constants)))
    # As many residuals as there are constants are near zero because of the fit.
    return max(MIN_NOISE, 1.4826 * float(np.median(residual[constants:])))


def _statistic_per_unit(delta: float, sigma: float) -> float:
    """Return the likelihood ratio per unit of the sum of Huber terms: 2 E[psi'] / E[psi^2]."""
    if math.isinf(delta):
        return 2 / sigma**2
    z = delta / sigma
    inside = math.erf(z / math.sqrt(2))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    squared = sigma**2 * (inside - 2 * z * density) + delta**2 * math.erfc(z / math.sqrt(2))
    return 2 * inside / squared


def _make_coordinates(law: ParametricLaw, data: LogData, delta: float) -> _Coordinates:
    form = parametric_fit.get_law_form(law.law, law.constants)
    form, data = parametric_fit.with_residual(form, data, law.residual)
    if law.law == 'kaplan':
        logs, to_theta = np.array([True, True, False, False]), _kaplan_theta
        pairs: Any = ((-50.0, 200.0), (-50.0, 200.0), (1e-3, 4.0), (1e-3, 4.0))
    else:
        names = PROFILED_CONSTANTS[law.law]
        logs = np.array([name not in ('alpha', 'beta') for name in names])
        pairs, to_theta = form.bounds, lambda x: (x, np.eye(len(x)))
    bounds = [
        [-np.inf if low is None else low, np.inf if high is None else high] for low, high in pairs
    ]
    return _Coordinates(form, data, delta, logs, np.array(bounds), to_theta)


def _kaplan_theta(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map (log Nc, log Dc, alphaN, alphaD) to law_forms.py's (p, q, r, alphaD), with Jacobian."""
    n, d, alpha_n, alpha_d = x
    r = alpha_n / alpha_d
    jacobian = [
        [r, 0, n / alpha_d, -r * n / alpha_d],
        [0, 1, 0, 0],
        [0, 0, 1 / alpha_d, -r / alpha_d],
        [0, 0, 0, 1],
    ]
    return np.array([r * n, d, r, alpha_d]), np.array(jacobian)


def _get_coordinates(
    constants: dict[str, float], law: str, coordinates: _Coordinates
) -> np.ndarray:
    values = np.array([constants[name] for name in PROFILED_CONSTANTS[law]])
    logs = coordinates.logs
    return np.where(logs, np.log(np.where(logs, values, 1.0)), values)


def _spread_starts(law: ParametricLaw, coordinates: _Coordinates) -> list[np.ndarray]:
    """Pick GRID_STARTS of the law's starts, spread over its grid."""
    form = coordinates.form
    thetas = form.starts(coordinates.data)
    indices = np.unique(np.linspace(0, len(thetas) - 1, GRID_STARTS).astype(int))
    return [_get_coordinates(form.unpack(thetas[i]), law.law, coordinates) for i in indices]


def _minimize(coordinates: _Coordinates, start: np.ndarray, fixed: int) -> tuple[np.ndarray, float]:
    """Find the best fit near `start` with one coordinate fixed: (coordinates, unscaled objective).

    The method is Levenberg-Marquardt within the bounds.
    """
    free = [i for i in range(len(start)) if i != fixed]
    low, high = coordinates.bounds[free].T
    x, damping = start.copy(), 1e-6
    value, gradient, hessian = _differentiate(coordinates, x, free)
    for _ in range(MAX_ITERATIONS):
        stuck = ((x[free] <= low) & (gradient > 0)) | ((x[free] >= high) & (gradient < 0))
        hessian[stuck], hessian[:, stuck], gradient[stuck] = 0.0, 0.0, 0.0
        scale = np.diag(hessian) + 1e-12 * np.diag(hessian).max() + 1e-300
        step = np.linalg.solve(hessian + damping * np.diag(scale), -gradient)
        moved = x.copy()
        moved[free] = np.clip(x[free] + step, low, high)
        moved_value, *derivatives = _differentiate(coordinates, moved, free)
        if not moved_value < value:
            if damping > 1e6:
                break
            damping *= 10
            continue
        gain, x, damping = value - moved_value, moved, max(damping / 10, 1e-9)
        value, (gradient, hessian) = moved_value, derivatives
        if gain <= 1e-8 * value:
            break
    return x, value


def _differentiate(
    coordinates: _Coordinates, x: np.ndarray, free: list[int]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return (sum of Huber terms, gradient, Huber-weighted Gauss-Newton matrix) over `free`."""
    delta = coordinates.delta
    theta, theta_jacobian = coordinates.to_theta(x)
    predicted, by_theta = coordinates.form.predict(theta, coordinates.data)
    jacobian = (theta_jacobian.T @ by_theta)[free]
    residual = predicted - coordinates.data.log_loss
    clipped = np.clip(residual, -delta, delta)
    weights = np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
    return (
        float(clipped @ (residual - clipped / 2)),
        jacobian @ clipped,
        (jacobian * weights) @ jacobian.T,
    )
