"""Power laws over one variable, with and without an irreducible loss, and their fit.

    L(x) = E + A x^-alpha        (Hoffmann et al. 2022, equation 2, one variable at a time)
    L(x) = A x^-alpha            (Kaplan et al. 2020, section 1.2)

x is the variable that was scaled (parameters, tokens or FLOPs), counted by any convention. The
search is that of the laws over N and D (robust_fit.py); only the evaluation differs: it is in units
of x instead of logarithms, which also works if A or E is 0.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.law_forms import (
    IRREDUCIBLE_LOG_RANGE,
    MAX_POWER_EXPONENT,
    LawForm,
    LogData,
    make_power_form,
)
from gpt_jax.scaling.robust_fit import (
    HUBER_DELTA,
    FittedLaw,
    SearchSettings,
    huber_objective,
    search_all,
)

SCALE = 1e4  # brings the objective of a good fit near 1, for which L-BFGS-B's tolerances are meant
SAME_EXPONENT = 0.02  # relative: equally good exponents that differ by more are ambiguous


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw(FittedLaw):
    """A fitted law over one variable.

    Attributes:
      amplitude: A, in loss units times x's unit to the power alpha.
      exponent: alpha.
      irreducible: E in loss units; 0.0 for the law without it.
      with_irreducible: which of the two laws was fitted.
      note: a caveat on the numbers, or ''.
    """

    amplitude: float
    exponent: float
    irreducible: float
    with_irreducible: bool
    note: str


def _search(
    start: np.ndarray, form: LawForm, data: LogData, delta: float
) -> tuple[np.ndarray, float]:
    """Search by L-BFGS-B, which follows E to zero along a valley in which the fit hardly changes.

    The terms are summed and scaled, because with the mean of such tiny terms, the optimizer stops
    at once (Besiroglu et al. 2024).
    """

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = huber_objective(theta, form, data, delta)
        return SCALE * value, SCALE * gradient

    options = {'maxiter': 500, 'ftol': 1e-14, 'gtol': 1e-9}
    result = optimize.minimize(
        objective, start, jac=True, method='L-BFGS-B', bounds=form.bounds, options=options
    )
    return result.x, result.fun / SCALE


SETTINGS = SearchSettings(_search, same_optimum=1e-6, same_optimum_absolute=1e-16)


def predict_loss(law: PowerLaw, x: Any) -> Any:
    """Return the law's loss at `x` (a number or an array, in the unit of the fit)."""
    return law.irreducible + law.amplitude * np.asarray(x, float) ** -law.exponent


def law_from_dict(values: dict[str, Any]) -> PowerLaw:
    """Return the law from its `dataclasses.asdict`, as in fit.json; other keys are ignored."""
    return PowerLaw(**{field.name: values[field.name] for field in dataclasses.fields(PowerLaw)})


def format_law(law: PowerLaw, variable: str = 'N') -> str:
    """Write the law as a formula: '1.05 + 30.1 N^-0.402'."""
    floor = f'{law.irreducible:#.3g} + ' if law.irreducible else ''
    return f'{floor}{law.amplitude:#.3g} {variable}^-{law.exponent:.3f}'


def check_points(x: Any, loss: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` and `loss` as float arrays, [runs].

    Raises:
      UserError: they differ in length, a value cannot be fitted, or there are fewer than two sizes.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    if x.ndim != 1 or x.shape != loss.shape:
        raise UserError(
            f'fit: x and loss must be lists of the same length, got shapes {x.shape} and '
            f'{loss.shape}'
        )
    for name, values in (('x', x), ('loss', loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            raise UserError(
                f'fit: {name}[{bad[0]}] must be finite and above zero for a power law, got '
                f'{values[bad[0]]}'
            )
    if np.unique(x).size < 2:
        raise UserError(f'fit: a power law needs at least 2 distinct x, got {np.unique(x).size}')
    return x, loss


def fit_power_law(
    x: Any,
    loss: Any,
    *,
    with_irreducible: bool,
    delta: float = HUBER_DELTA,
    tries: int | None = None,
) -> PowerLaw:
    """Fit a power law to measured losses.

    With too few sizes for the irreducible term (no more sizes than parameters), or if the term goes
    to zero, the law without it is returned, and `note` says so.

    Args:
      x: the scaled variable, [runs], above zero, in any unit.
      loss: the loss reached, [runs], above zero; nats per token by convention.
      with_irreducible: whether the law has the term E.
      delta: log residual at which the Huber loss turns from quadratic to linear.
      tries: search only from this many of the most promising starts (a bootstrap needs no more);
        None: from all.

    Raises:
      UserError: as in `check_points`.
    """
    x, loss = check_points(x, loss)
    if with_irreducible and np.unique(x).size <= 3:
        reducible = fit_power_law(x, loss, with_irreducible=False, delta=delta, tries=tries)
        note = f'{np.unique(x).size} sizes cannot determine 3 parameters: fitted without E'
        return dataclasses.replace(reducible, note='; '.join(filter(None, [note, reducible.note])))
    # Centring makes the fit the same in every unit of x, and the two terms independent.
    centre = np.log(x).mean()
    z, log_loss = np.log(x) - centre, np.log(loss)
    form = make_power_form(log_loss, centre, with_irreducible=with_irreducible)
    data = LogData(z, z, z, log_loss)
    solution = search_all(form, data, delta, SETTINGS, tries=tries)
    theta = solution.theta
    if with_irreducible and theta[2] < log_loss.min() - IRREDUCIBLE_LOG_RANGE + 2:
        reducible = fit_power_law(x, loss, with_irreducible=False, delta=delta, tries=tries)
        note = 'E went to zero: the runs show no irreducible term'
        return dataclasses.replace(reducible, note=note)
    return PowerLaw(
        **form.unpack(theta),
        with_irreducible=with_irreducible,
        objective=solution.objective,
        starts=solution.starts,
        starts_reached=len(solution.reached),
        points=x.size,
        note=_describe_ambiguity(theta[1], [reached[1] for reached in solution.reached]),
    )


def _describe_ambiguity(exponent: float, equally_good: list[float]) -> str:
    if not 0 < exponent < MAX_POWER_EXPONENT:
        return f'not identified: the exponent went to the end of its range, {exponent:g}'
    # The objective can be flat at its minimum: with a sum of absolute residuals over evenly spaced
    # sizes, or with an irreducible loss that no run comes near.
    low, high = min(equally_good), max(equally_good)
    if high - low > SAME_EXPONENT * exponent:
        return f'not identified: exponents from {low:.3f} to {high:.3f} fit equally well'
    return ''
