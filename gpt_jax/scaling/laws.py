"""Which power law do these runs follow? The law in one variable, with and without an irreducible term, and its fit.

    L(x) = E + A x^-alpha        (Hoffmann et al. 2022, equation 2, one variable at a time)
    L(x) = A x^-alpha            (Kaplan et al. 2020, section 1.2)

x is whatever was scaled (parameters, tokens, FLOPs); the caller knows under which convention it was counted. The fit
minimizes the sum over runs of Huber_delta(log L_predicted - log L_measured), as in Hoffmann et al. 2022, appendix D.2,
but summed and scaled: the mean of these tiny terms stops the optimizer at once (Besiroglu et al. 2024).
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize

from gpt_jax.errors import UserError

HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, appendix D.2
SCALE = 1e4  # brings the objective of a good fit near 1, where the optimizer's tolerances mean something
EXPONENTS = np.geomspace(0.02, 2.0, 16)  # where the searches start; scaling exponents of language models lie inside
EXPONENT_MAX = 6.0
FLOOR_LOG_RANGE = 12.0  # E is searched down to e^-12 of the lowest loss; there it is as good as zero
SAME_OPTIMUM = 1e-6  # relative: two searches with objectives closer than this did equally well
SAME_EXPONENT = 0.02  # relative: equally good exponents further apart than this are not one answer


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """One fitted law.

    Attributes:
      amplitude: A, in loss units times x's unit to the power alpha.
      exponent: alpha.
      irreducible: E in loss units, 0.0 for the law without it.
      with_irreducible: which of the two laws was fitted.
      objective: the sum of Huber terms at the optimum, unscaled; what two fits of the same runs are compared by.
      starts, starts_reached: how many searches were begun, and how many ended at this objective.
      points: the number of runs fitted.
      note: what a reader of the numbers must know; empty when there is nothing.
    """

    amplitude: float
    exponent: float
    irreducible: float
    with_irreducible: bool
    objective: float
    starts: int
    starts_reached: int
    points: int
    note: str


def predict(law: PowerLaw, x: Any) -> Any:
    """The law's loss at `x` (a number or an array, in the unit the law was fitted in)."""
    return law.irreducible + law.amplitude * np.asarray(x, float) ** -law.exponent


def from_dict(values: dict[str, Any]) -> PowerLaw:
    """The law that `dataclasses.asdict` made `values` of, as read back from fit.json; other keys are passed over."""
    return PowerLaw(**{field.name: values[field.name] for field in dataclasses.fields(PowerLaw)})


def formula(law: PowerLaw, variable: str = 'N') -> str:
    """The law in words: '1.05 + 30.1 N^-0.402'."""
    floor = f'{law.irreducible:#.3g} + ' if law.irreducible else ''
    return f'{floor}{law.amplitude:#.3g} {variable}^-{law.exponent:.3f}'


def checked(x: Any, loss: Any) -> tuple[np.ndarray, np.ndarray]:
    """`x` and `loss` as float arrays, or a UserError that says which row cannot be fitted."""
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    if x.ndim != 1 or x.shape != loss.shape:
        raise UserError(f'fit: x and loss must be two lists of one length, got shapes {x.shape} and {loss.shape}')
    for name, values in (('x', x), ('loss', loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            raise UserError(f'fit: {name}[{bad[0]}] = {values[bad[0]]}; a power law needs finite values above zero')
    if np.unique(x).size < 2:
        raise UserError(f'fit: {np.unique(x).size} distinct x; a power law needs at least 2 sizes')
    return x, loss


def objective(theta: np.ndarray, z: np.ndarray, log_loss: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    """The scaled sum of Huber terms and its gradient.

    Args:
      theta: (log A, alpha), or (log A, alpha, log E); A belongs to the centred variable.
      z: log x less its mean, [runs]. Centring makes the fit the same in every unit of x and the two terms independent.
      log_loss: [runs].
    """
    reducible = theta[0] - theta[1] * z
    if len(theta) == 3:
        prediction = np.logaddexp(reducible, theta[2])
        share = np.exp(reducible - prediction)
        jacobian = np.stack([share, -share * z, 1 - share])
    else:
        prediction, jacobian = reducible, np.stack([np.ones_like(z), -z])
    residual = prediction - log_loss
    size = np.abs(residual)
    terms = np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))
    return SCALE * float(terms.sum()), SCALE * (jacobian @ np.clip(residual, -delta, delta))


def seeds(z: np.ndarray, log_loss: np.ndarray, with_irreducible: bool) -> list[np.ndarray]:
    """One start per exponent: with alpha held, A and E are linear (variable projection); by relative errors."""
    if not with_irreducible:
        return [np.array([log_loss.mean(), alpha]) for alpha in EXPONENTS]
    starts, weight, low = [], np.exp(-log_loss), float(log_loss.min())
    for alpha in EXPONENTS:
        power = np.exp(-alpha * z)
        design = np.stack([power, np.ones_like(z)], axis=1) * weight[:, None]
        (amplitude, floor), _ = optimize.nnls(design, np.ones_like(z))
        log_floor = np.log(floor) if floor > 0 else -np.inf
        log_amplitude = np.log(amplitude) if amplitude > 0 else low - FLOOR_LOG_RANGE
        starts.append(np.array([log_amplitude, alpha, max(log_floor, low - FLOOR_LOG_RANGE / 2)]))
    return starts


def search(start: np.ndarray, z: np.ndarray, log_loss: np.ndarray, delta: float) -> Any:
    """One L-BFGS-B run from `start`; scipy's result, with the scaled objective in `fun`."""
    low = float(log_loss.min())
    bounds = [(None, None), (0.0, EXPONENT_MAX), (low - FLOOR_LOG_RANGE, float(log_loss.max()))][: len(start)]
    options = {'maxiter': 500, 'ftol': 1e-14, 'gtol': 1e-9}
    return optimize.minimize(
        objective, start, (z, log_loss, delta), jac=True, method='L-BFGS-B', bounds=bounds, options=options
    )


def fit(x: Any, loss: Any, *, with_irreducible: bool, delta: float = HUBER_DELTA, tries: int | None = None) -> PowerLaw:
    """Fits one law to measured losses.

    With too few points for the irreducible term (as many parameters as points), and where the term is driven to zero,
    the law without it is returned and `note` says so.

    Args:
      x: what was scaled, [runs], above zero, in any unit.
      loss: the loss reached, [runs], above zero; nats per token by convention.
      delta: where the Huber loss on the log residual turns from squared to linear.
      tries: search only from so many of the most promising starts (a bootstrap needs no more); None searches from all.

    Raises:
      UserError: a value that no power law can have, or fewer than two sizes.
    """
    x, loss = checked(x, loss)
    if with_irreducible and np.unique(x).size <= 3:
        plain = fit(x, loss, with_irreducible=False, delta=delta, tries=tries)
        note = f'{np.unique(x).size} sizes cannot carry the 3 parameters with E: fitted without E'
        return dataclasses.replace(plain, note='; '.join(filter(None, [note, plain.note])))
    centre = np.log(x).mean()
    z, log_loss = np.log(x) - centre, np.log(loss)
    starts = seeds(z, log_loss, with_irreducible)
    if tries is not None:
        starts = sorted(starts, key=lambda start: objective(start, z, log_loss, delta)[0])[:tries]
    found = [search(start, z, log_loss, delta) for start in starts]
    best = min(found, key=lambda result: result.fun)
    reached = [result for result in found if result.fun <= best.fun * (1 + SAME_OPTIMUM) + SAME_OPTIMUM**2]
    if with_irreducible and best.x[2] < log_loss.min() - FLOOR_LOG_RANGE + 2:
        plain = fit(x, loss, with_irreducible=False, delta=delta, tries=tries)
        return dataclasses.replace(plain, note='E went to zero: the runs show no irreducible term')
    return PowerLaw(
        amplitude=float(np.exp(best.x[0] + best.x[1] * centre)),
        exponent=float(best.x[1]),
        irreducible=float(np.exp(best.x[2])) if with_irreducible else 0.0,
        with_irreducible=with_irreducible,
        objective=best.fun / SCALE,
        starts=len(starts),
        starts_reached=len(reached),
        points=x.size,
        note=_caution(best.x[1], [result.x[1] for result in reached]),
    )


def _caution(exponent: float, equals: list[float]) -> str:
    if not 0 < exponent < EXPONENT_MAX:
        return f'not identified: the exponent went to the end of its range, {exponent:g}'
    # A sum of absolute residuals over evenly spaced sizes can be flat at its minimum; so can a floor no run comes near.
    if max(equals) - min(equals) > SAME_EXPONENT * exponent:
        return f'not identified: exponents from {min(equals):.3f} to {max(equals):.3f} fit equally well'
    return ''
