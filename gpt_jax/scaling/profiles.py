"""Do the runs identify a constant? Held at a value and the others fitted: how far can it go before the fit is worse?

What counts as worse is the robust likelihood ratio of a sum of Huber terms (Ronchetti 1982; Hampel et al. 1986, chapter
7): 2 (objective - least objective) E[psi'] / E[psi^2] is chi-square with one degree of freedom where the value is the
true one, psi the derivative of a term. Both expectations are those of normal residuals of the robust standard deviation
about the fit. Delta is at least 1.345 times that: far below the noise the sum is one of absolute residuals, which has
a kink at each run and a minimum wherever as many runs as there are constants are met exactly.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.scaling import forms, surface

LIMIT = 3.841  # the 95% quantile of chi-square with one degree of freedom
WIDE = 2.0  # a factor that an identified constant cannot change by; of A, B, Nc and Dc: that their logarithm cannot
STEPS = 8  # values on each side up to WIDE; beyond it, doublings
DOUBLINGS = 6
BEGUN = 12  # searches in the middle, at WIDE and beyond, from the law's own starts
ROUNDS = 60  # of a search
EFFICIENT = 1.345  # of the noise: Huber's delta that loses 5% of the data where the noise is normal (Huber 1981)
LEAST_NOISE = 1e-6  # of log loss: losses are not written down more exactly
LEVELS = ('A', 'B', 'Nc', 'Dc')  # the loss's level at one parameter or one token: only its logarithm means something

NAMES = {
    'chinchilla': ('E', 'A', 'B', 'alpha', 'beta'),
    'tied': ('E', 'A', 'B', 'alpha'),
    'kaplan': ('Nc', 'Dc', 'alphaN', 'alphaD'),
    'repeated': ('R_D', 'R_N'),  # over its base law, held
}


class _Form(NamedTuple):
    """The law in coordinates of which each is one constant, or its logarithm where `logs` says so.

    theta: coordinates -> (theta, its Jacobian [theta, coordinates]).
    """

    law: forms.Law
    given: forms.Data
    delta: float
    logs: np.ndarray
    bounds: np.ndarray
    theta: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def profile(found: surface.Surface, given: forms.Data, name: str) -> dict[str, Any]:
    """The fit along one constant (of NAMES[found.law]), the others fitted.

    Returns:
      values, objective (the unscaled sum of Huber terms), statistic (the likelihood ratio): lists of one length,
      ascending in the value. low, high: where the statistic crosses `limit`; None where it does not before the
      constant's bound, or the last value tried. identified: it crosses on both sides within a factor of WIDE, and is
      below in one piece. note: why it is not, or ''.
    """
    sigma = _sigma(found, given, len(NAMES[found.law]))
    form = _form(found, given, max(found.delta, EFFICIENT * sigma))
    per_unit = _per_unit(form.delta, sigma)
    index = NAMES[found.law].index(name)
    best = _coordinates(found.constants, found.law, form)
    starts = _starts(found, form)
    thetas: dict[int, np.ndarray] = {}
    objectives: dict[int, float] = {}
    ends = [_place(best[index], form.logs[index], name, step) for step in range(-STEPS, STEPS + 1)]

    def at(step: int, start: np.ndarray) -> None:
        held = start.copy()
        held[index] = ends[step + STEPS] if abs(step) <= STEPS else _beyond(form, best[index], index, name, step)
        tried = [_least(form, held, index)]
        if step == 0 or abs(step) >= STEPS:
            tried += [_least(form, np.where(np.arange(len(held)) == index, held, begun), index) for begun in starts]
        thetas[step], objectives[step] = min(tried, key=lambda one: one[1])

    def far(step: int) -> bool:
        return per_unit * (objectives[step] - min(objectives.values())) > LIMIT

    at(0, best)
    for side in (1, -1):
        for step in range(1, STEPS + DOUBLINGS + 1):
            if step > STEPS and (far(side * (step - 1)) or _bound(form, thetas[side * (step - 1)][index], index, side)):
                break
            at(side * step, thetas[side * (step - 1)])
    _back(form, index, thetas, objectives)
    steps = sorted(objectives)
    objective = np.array([objectives[step] for step in steps])
    moved = np.array([thetas[step][index] for step in steps])
    values = np.exp(moved) if form.logs[index] else moved
    statistic = per_unit * (objective - objective.min())
    low, high = _ends(moved, statistic)
    if form.logs[index]:
        low, high = (None if end is None else math.exp(end) for end in (low, high))
    note = _note(name, found.constants[name], statistic, low, high, moved, steps)
    return {
        'values': values.tolist(),
        'objective': objective.tolist(),
        'statistic': statistic.tolist(),
        'limit': LIMIT,
        'low': low,
        'high': high,
        'identified': not note,
        'note': note,
    }


def _place(centre: float, log: bool, name: str, step: float) -> float:
    """The coordinate `step` of STEPS away: WIDE is reached at STEPS."""
    if name in LEVELS:  # a logarithm near 0 has no factor: a factor of WIDE in the level itself is the least reach
        reach = max(abs(centre), math.log(WIDE))
        return centre + (reach * (WIDE - 1) * step / STEPS if step > 0 else reach * (1 - 1 / WIDE) * step / STEPS)
    factor = math.log(WIDE) * step / STEPS
    return centre + factor if log else centre * math.exp(factor)


def _beyond(form: _Form, centre: float, index: int, name: str, step: int) -> float:
    """Past WIDE each step is WIDE again; never past the bound."""
    side = 1 if step > 0 else -1
    place = _place(centre, bool(form.logs[index]), name, side * STEPS * (1 + abs(step) - STEPS))
    return float(np.clip(place, *form.bounds[index]))


def _bound(form: _Form, at: float, index: int, side: int) -> bool:
    low, high = form.bounds[index]
    return bool(at >= high if side > 0 else at <= low)


def _back(form: _Form, index: int, thetas: dict[int, np.ndarray], objectives: dict[int, float]) -> None:
    """Towards the optimum again from both ends: what was found out there may be better farther in as well."""
    for steps in (sorted(objectives), sorted(objectives, reverse=True)):
        for step, after in itertools.pairwise(steps):
            start = thetas[step].copy()
            start[index] = thetas[after][index]
            theta, objective = _least(form, start, index)
            if objective < objectives[after]:
                thetas[after], objectives[after] = theta, objective


def _ends(places: np.ndarray, statistic: np.ndarray) -> tuple[float | None, float | None]:
    """Where the statistic crosses LIMIT, left of all that is below and right of it."""
    below = np.flatnonzero(statistic <= LIMIT)
    ends: list[float | None] = []
    for inner, outer in ((below[0], below[0] - 1), (below[-1], below[-1] + 1)):
        if not 0 <= outer < len(places):
            ends.append(None)
            continue
        near, far, limit = (math.sqrt(max(0.0, one)) for one in (statistic[inner], statistic[outer], LIMIT))
        share = (limit - near) / (far - near)  # near its minimum a profile is a parabola
        ends.append(float(places[inner] + share * (places[outer] - places[inner])))
    return ends[0], ends[1]


def _note(
    name: str, best: float, statistic: np.ndarray, low: float | None, high: float | None, places: np.ndarray,
    steps: list[int],
) -> str:  # fmt: skip
    below = statistic <= LIMIT
    pieces = int((below[1:] & ~below[:-1]).sum() + below[0])
    if pieces > 1:
        return f'not identified: the profile of {name} has {pieces} minima that the runs cannot tell apart'
    first, last = (below[steps.index(step)] for step in (-STEPS, STEPS))
    if not (first or last):
        return ''
    ends = [f'{"below " if low is None else ""}{low or _shown(name, places[0]):.3g}',
            f'{"above " if high is None else ""}{high or _shown(name, places[-1]):.3g}']  # fmt: skip
    return f'not identified: {name} from {ends[0]} to {ends[1]} fits the runs as well as {best:.3g} (95%)'


def _shown(name: str, place: float) -> float:
    return math.exp(place) if name in (*LEVELS, 'E', 'R_D', 'R_N') else float(place)


def _sigma(found: surface.Surface, given: forms.Data, constants: int) -> float:
    """The robust standard deviation of the runs' log losses about the law."""
    law = surface.rule_of(found.law, found.constants)
    residual = np.sort(np.abs(law.predict(law.pack(found.constants), given)[0] - given.log_loss))
    # As many residuals as there are constants are near zero because they were fitted.
    return max(LEAST_NOISE, 1.4826 * float(np.median(residual[constants:])))


def _per_unit(delta: float, sigma: float) -> float:
    """What one unit of the sum of Huber terms counts in the likelihood ratio: 2 E[psi'] / E[psi^2]."""
    z = delta / sigma
    inside = math.erf(z / math.sqrt(2))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    squared = sigma**2 * (inside - 2 * z * density) + delta**2 * math.erfc(z / math.sqrt(2))
    return 2 * inside / squared


def _form(found: surface.Surface, given: forms.Data, delta: float) -> _Form:
    law = surface.rule_of(found.law, found.constants)
    if found.law == 'kaplan':
        logs, theta = np.array([True, True, False, False]), _kaplan
        pairs: Any = ((-50.0, 200.0), (-50.0, 200.0), (1e-3, 4.0), (1e-3, 4.0))
    else:
        logs = np.array([name not in ('alpha', 'beta') for name in NAMES[found.law]])
        pairs, theta = law.bounds, lambda x: (x, np.eye(len(x)))
    bounds = np.array([[-np.inf if low is None else low, np.inf if high is None else high] for low, high in pairs])
    return _Form(law, given, delta, logs, bounds, theta)


def _kaplan(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """forms.py's (p, q, r, alphaD) of (log Nc, log Dc, alphaN, alphaD)."""
    n, d, alpha_n, alpha_d = x
    r = alpha_n / alpha_d
    slopes = [[r, 0, n / alpha_d, -r * n / alpha_d], [0, 1, 0, 0], [0, 0, 1 / alpha_d, -r / alpha_d], [0, 0, 0, 1]]
    return np.array([r * n, d, r, alpha_d]), np.array(slopes)


def _coordinates(constants: dict[str, float], law: str, form: _Form) -> np.ndarray:
    values = np.array([constants[name] for name in NAMES[law]])
    return np.where(form.logs, np.log(np.where(form.logs, values, 1.0)), values)


def _starts(found: surface.Surface, form: _Form) -> list[np.ndarray]:
    """BEGUN of the law's starts, from all over its grid: a walk from the optimum stays in the valley it is in."""
    thetas = form.law.starts(form.given)
    picked = np.unique(np.linspace(0, len(thetas) - 1, BEGUN).astype(int))
    return [_coordinates(form.law.unpack(thetas[i]), found.law, form) for i in picked]


def _least(form: _Form, start: np.ndarray, held: int) -> tuple[np.ndarray, float]:
    """(coordinates, unscaled objective) of the best fit near `start` with one coordinate held as it is there."""
    free = [i for i in range(len(start)) if i != held]
    low, high = form.bounds[free].T
    x, damping = start.copy(), 1e-6
    value, gradient, square = _slopes(form, x, free)
    for _ in range(ROUNDS):
        stuck = ((x[free] <= low) & (gradient > 0)) | ((x[free] >= high) & (gradient < 0))
        square[stuck], square[:, stuck], gradient[stuck] = 0.0, 0.0, 0.0
        scale = np.diag(square) + 1e-12 * np.diag(square).max() + 1e-300
        step = np.linalg.solve(square + damping * np.diag(scale), -gradient)
        there = x.copy()
        there[free] = np.clip(x[free] + step, low, high)
        after, *slopes = _slopes(form, there, free)
        if not after < value:
            if damping > 1e6:
                break
            damping *= 10
            continue
        gain, x, damping = value - after, there, max(damping / 10, 1e-9)
        value, (gradient, square) = after, slopes
        if gain <= 1e-8 * value:
            break
    return x, value


def _slopes(form: _Form, x: np.ndarray, free: list[int]) -> tuple[float, np.ndarray, np.ndarray]:
    """(sum of Huber terms, gradient, Gauss-Newton matrix, residuals weighed as their terms do), by `free`."""
    theta, slopes = form.theta(x)
    predicted, by_theta = form.law.predict(theta, form.given)
    jacobian = (slopes.T @ by_theta)[free]
    residual = predicted - form.given.log_loss
    clipped = np.clip(residual, -form.delta, form.delta)
    weights = form.delta / np.maximum(np.abs(residual), form.delta)
    return float(clipped @ (residual - clipped / 2)), jacobian @ clipped, (jacobian * weights) @ jacobian.T
