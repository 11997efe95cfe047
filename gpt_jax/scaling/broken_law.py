"""Smoothly broken power law over one variable, and its fit (Caballero et al. 2023, one break).

    L(x) = E + A x^-c0 (1 + (x / d)^(1/f))^(-c1 f)

x is the variable that was scaled (parameters, tokens or FLOPs). The exponent is c0 for small x and
c0 + c1 for large x; the break is at d, and the smaller f, the sharper it is.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from scipy import optimize, special

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.law_terms import Bounds, LawForm, LogData
from gpt_jax.scaling.power_law import check_points
from gpt_jax.scaling.robust_fit import HUBER_DELTA, FittedLaw, SearchSettings, search, search_all

SETTINGS = SearchSettings(search, same_optimum=1e-4, same_optimum_absolute=1e-12)
CONTINUATIONS = 10  # of the best search
MIN_SIZES = 7  # one more than the constants
SLOPES = ((0.0, 0.3), (0.15, -0.1), (0.5, -0.4), (0.1, 0.9))  # c0, c1
BREAKS, SHARPNESS = (0.25, 0.5, 0.75), (0.4, 1.0)  # of the range of log x; f
MIN_LOG_IRREDUCIBLE = -12.0  # relative to the lowest loss; there E is practically zero


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokenLaw(FittedLaw):
    """A fitted broken power law.

    Attributes:
      constants: E in loss units, A in loss units times x's unit to the power c0, c0, c1, d in x's
        unit, f.
    """

    constants: dict[str, float]


def predict_broken(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    """Return the log loss and its gradient; theta is (log A, c0, c1, log d, log f, log E)."""
    a, c0, c1, log_d, log_f, e = theta
    z, f = data.n, np.exp(log_f)
    distance = (z - log_d) / f
    bend, side = np.logaddexp(0.0, distance), special.expit(distance)
    reducible = a - c0 * z - c1 * f * bend
    loss = np.logaddexp(reducible, e)
    share = np.exp(reducible - loss)
    by_f = -c1 * f * (bend - side * distance)
    rows = [np.ones_like(z), -z, -f * bend, c1 * side, by_f]
    return loss, np.stack([*(share * row for row in rows), 1 - share])


def make_broken_form(log_loss: np.ndarray, z: np.ndarray) -> LawForm:
    """Make the form whose bounds and starts suit log x in `z`, [runs], minus its mean."""
    low, high, span = float(log_loss.min()), float(log_loss.max()), float(np.ptp(z))
    breaks = (float(z.min()) - span, float(z.max()) + span)
    exponents: Bounds = ((0.0, 6.0), (-6.0, 6.0))
    floor = (low + MIN_LOG_IRREDUCIBLE, high)
    sharpness = (float(np.log(0.02)), float(np.log(max(span, 0.1))))
    bounds: Bounds = ((None, None), *exponents, breaks, sharpness, floor)
    names = ('A', 'c0', 'c1', 'd', 'f', 'E')

    def unpack(theta: np.ndarray) -> dict[str, float]:
        values = np.where(np.isin(names, ('c0', 'c1')), theta, np.exp(theta))
        return dict(zip(names, values.tolist(), strict=True))

    def pack(constants: dict[str, float]) -> np.ndarray:
        values = np.array([constants[name] for name in names])
        logs = np.log(np.where(np.isin(names, ('c0', 'c1')), 1.0, values))
        return np.where(np.isin(names, ('c0', 'c1')), values, logs)

    return LawForm(predict_broken, _start_broken, bounds, (), pack, unpack)


def _start_broken(data: LogData) -> list[np.ndarray]:
    """Make a start per shape, with A and E by non-negative least squares on relative errors."""
    starts, weight, z = [], np.exp(-data.log_loss), data.n
    for (c0, c1), place, f in itertools.product(SLOPES, BREAKS, SHARPNESS):
        log_d, log_f = z.min() + place * np.ptp(z), np.log(f)
        shape, _ = predict_broken(np.array([0.0, c0, c1, log_d, log_f, -np.inf]), data)
        design = np.stack([np.exp(shape), np.ones_like(z)], axis=1) * weight[:, None]
        linear, _ = optimize.nnls(design, np.ones_like(z))
        a, e = np.log(np.maximum(linear, np.exp(data.log_loss.min() - 4)))
        starts.append(np.array([a, c0, c1, log_d, log_f, e]))
    return starts


def predict_loss(law: BrokenLaw, x: Any) -> Any:
    """Return the law's loss at `x` (a number or an array, in the unit of the fit)."""
    c, x = law.constants, np.asarray(x, float)
    bend = np.exp(-c['c1'] * c['f'] * np.logaddexp(0.0, np.log(x / c['d']) / c['f']))
    return c['E'] + c['A'] * x ** -c['c0'] * bend


def fit_broken_law(
    x: Any, loss: Any, *, delta: float = HUBER_DELTA, tries: int | None = None
) -> BrokenLaw:
    """Fit the law to measured losses.

    Args:
      x: the scaled variable, [runs], above zero, in any unit.
      loss: the loss reached, [runs], above zero.
      delta: log residual at which the Huber loss turns from quadratic to linear.
      tries: search only from this many of the most promising starts; None: from all.

    Raises:
      UserError: there are too few sizes, or as in `power_law.check_points`.
    """
    x, loss = check_points(x, loss)
    if np.unique(x).size < MIN_SIZES:
        raise UserError(
            f'broken: {np.unique(x).size} sizes cannot determine 6 constants; give {MIN_SIZES} or '
            'more, or use --law=power'
        )
    centre = np.log(x).mean()
    z = np.log(x) - centre
    data = LogData(z, z, z, np.log(loss))
    form = make_broken_form(data.log_loss, z)
    solution = search_all(form, data, delta, SETTINGS, tries=tries)
    # Along E, c1 and f the objective is a long valley, in which a search may run out of steps.
    theta, objective = solution.theta, solution.objective
    for _ in range(CONTINUATIONS):
        last, (theta, objective) = objective, search(theta, form, data, delta)
        if objective >= last * (1 - 1e-6):
            break
    constants = form.unpack(theta)
    constants['A'] *= float(np.exp(constants['c0'] * centre))
    constants['d'] *= float(np.exp(centre))
    return BrokenLaw(
        constants=constants,
        objective=objective,
        starts=solution.starts,
        starts_reached=len(solution.reached),
        points=x.size,
    )


def format_law(law: BrokenLaw, variable: str) -> str:
    """Write the law as a formula."""
    c = law.constants
    return (
        f'{c["E"]:#.3g} + {c["A"]:#.3g} {variable}^-{c["c0"]:.3f} '
        f'(1 + ({variable} / {c["d"]:.3g})^{1 / c["f"]:.2f})^{-c["c1"] * c["f"]:.3f}'
    )
