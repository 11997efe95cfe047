"""Power laws over one variable, with and without an irreducible loss, and their fit.

    L(x) = E + A x^-alpha        (Hoffmann et al. 2022, equation 2, one variable at a time)
    L(x) = A x^-alpha            (Kaplan et al. 2020, section 1.2)

x is the variable that was scaled (parameters, tokens or FLOPs); the caller knows under which
convention it was counted. The search is that of the laws over N and D (robust_fit.py). What differs
is the evaluation: in units of x instead of logarithms, which also works where A or E is 0.
"""

import dataclasses
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.law_forms import (
    IRREDUCIBLE_LOG_RANGE,
    MAX_POWER_EXPONENT,
    LogData,
    make_power_form,
)
from gpt_jax.scaling.robust_fit import HUBER_DELTA, FittedLaw, SearchSettings, search_all

SETTINGS = SearchSettings(
    options={'maxiter': 500, 'ftol': 1e-14, 'gtol': 1e-9},
    polish_tolerance=None,
    same_optimum=1e-6,
    same_optimum_absolute=1e-6**2,
)
SAME_EXPONENT = 0.02  # relative: equally good exponents further apart than this are not one answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw(FittedLaw):
    """A fitted law over one variable.

    Attributes:
      amplitude: A, in loss units times x's unit to the power alpha.
      exponent: alpha.
      irreducible: E in loss units, 0.0 for the law without it.
      with_irreducible: which of the two laws was fitted.
      note: what a reader of the numbers must know; empty when there is nothing.
    """

    amplitude: float
    exponent: float
    irreducible: float
    with_irreducible: bool
    note: str


def predict_loss(law: PowerLaw, x: Any) -> Any:
    """Returns the law's loss at `x` (a number or an array, in the unit the law was fitted in)."""
    return law.irreducible + law.amplitude * np.asarray(x, float) ** -law.exponent


def law_from_dict(values: dict[str, Any]) -> PowerLaw:
    """Returns the law that `dataclasses.asdict` wrote to fit.json; other keys are ignored."""
    return PowerLaw(**{field.name: values[field.name] for field in dataclasses.fields(PowerLaw)})


def format_law(law: PowerLaw, variable: str = 'N') -> str:
    """Writes the law as a formula: '1.05 + 30.1 N^-0.402'."""
    floor = f'{law.irreducible:#.3g} + ' if law.irreducible else ''
    return f'{floor}{law.amplitude:#.3g} {variable}^-{law.exponent:.3f}'


def check_points(x: Any, loss: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` and `loss` as float arrays, [runs].

    Raises:
      UserError: they differ in length, a value cannot be fitted, or there are fewer than two sizes.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    if x.ndim != 1 or x.shape != loss.shape:
        raise UserError(
            f'fit: x and loss must be two lists of one length, got shapes {x.shape} and '
            f'{loss.shape}'
        )
    for name, values in (('x', x), ('loss', loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            raise UserError(
                f'fit: {name}[{bad[0]}] = {values[bad[0]]}; a power law needs finite values above '
                'zero'
            )
    if np.unique(x).size < 2:
        raise UserError(f'fit: {np.unique(x).size} distinct x; a power law needs at least 2 sizes')
    return x, loss


def fit_power_law(
    x: Any,
    loss: Any,
    *,
    with_irreducible: bool,
    delta: float = HUBER_DELTA,
    tries: int | None = None,
) -> PowerLaw:
    """Fits one law to measured losses.

    With too few sizes for the irreducible term (as many parameters as sizes), and where the term
    goes to zero, the law without it is returned and `note` says so.

    Args:
      x: the scaled variable, [runs], above zero, in any unit.
      loss: the loss reached, [runs], above zero; nats per token by convention.
      with_irreducible: whether the law has the term E.
      delta: where the Huber loss on the log residual turns from squared to linear.
      tries: search only from this many of the most promising starts (a bootstrap needs no more);
        None: from all.

    Raises:
      UserError: as `check_points`.
    """
    x, loss = check_points(x, loss)
    if with_irreducible and np.unique(x).size <= 3:
        reducible = fit_power_law(x, loss, with_irreducible=False, delta=delta, tries=tries)
        note = f'{np.unique(x).size} sizes cannot carry the 3 parameters with E: fitted without E'
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
    # A sum of absolute residuals over evenly spaced sizes can be flat at its minimum, and so can
    # an irreducible loss that no run comes near.
    low, high = min(equally_good), max(equally_good)
    if high - low > SAME_EXPONENT * exponent:
        return f'not identified: exponents from {low:.3f} to {high:.3f} fit equally well'
    return ''
