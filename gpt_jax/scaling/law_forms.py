"""Functional forms of scaling laws: predictions, gradients and starting points of a fit.

    chinchilla  L = E + A / N^alpha + B / D^beta                     Hoffmann et al. 2022, eq. 2
    tied        the same with alpha = beta                           Gadre et al. 2024 (2 eta)
    kaplan      L = [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD     Kaplan et al. 2020, eq. 1.5
    repeated    chinchilla over effective N' and D'                  Muennighoff et al. 2023, 5-7
                D' = U + U R* (1 - e^(-R / R*)), U unique tokens, R repeats beyond the first epoch;
                N' likewise
    power       L = E + A x^-alpha, or L = A x^-alpha                one variable: N, D or C

The others are in coupled_forms.py.
Everything is in logarithms: N, D, the loss, and A, B and E among the fitted parameters theta.
"""

import itertools
from collections.abc import Mapping

import numpy as np
from scipy import optimize

from gpt_jax.core.errors import UserError
from gpt_jax.core.registry import resolve
from gpt_jax.scaling.coupled_forms import COUPLED_FORMS
from gpt_jax.scaling.law_terms import (
    EXPONENT_BOUNDS,
    LOG_BOUNDS,
    Bounds,
    LawForm,
    LogData,
    log_sum_exp,
    start_from_exponents,
)

EXPONENTS = np.geomspace(0.06, 1.5, 16)
TIED_EXPONENTS = np.geomspace(0.04, 1.6, 32)
KAPLAN_EXPONENTS, KAPLAN_RATIOS = np.geomspace(0.03, 0.8, 8), np.geomspace(0.3, 3.0, 8)
HALF_LIVES = (0.5, 2.0, 6.0, 20.0, 80.0)
POWER_EXPONENTS = np.geomspace(0.02, 2.0, 16)  # contains the exponents of language models
MAX_POWER_EXPONENT = 6.0
# E is searched down to e^-12 times the lowest loss, where it is practically zero.
IRREDUCIBLE_LOG_RANGE = 12.0


def _predict_chinchilla(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    e, a, b, alpha, beta = theta
    terms = np.empty((3, data.n.size))
    terms[0], terms[1], terms[2] = e, a - alpha * data.n, b - beta * data.d
    gradient = np.empty((5, data.n.size))
    loss, gradient[:3] = log_sum_exp(terms)
    np.multiply(data.n, -gradient[1], out=gradient[3])
    np.multiply(data.d, -gradient[2], out=gradient[4])
    return loss, gradient


def _predict_tied(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    loss, gradient = _predict_chinchilla(np.append(theta, theta[3]), data)
    return loss, np.concatenate([gradient[:3], gradient[3:4] + gradient[4:5]])


def _predict_kaplan(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    p, q, r, alpha_d = theta  # r = alphaN / alphaD, p = r log Nc, q = log Dc
    total, share = log_sum_exp(np.stack([p - r * data.n, q - data.d]))
    return alpha_d * total, np.stack(
        [alpha_d * share[0], alpha_d * share[1], -alpha_d * data.n * share[0], total]
    )


def effective_amount(
    used: np.ndarray, unique: np.ndarray, half_life: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the effective amount and its derivative by log R*.

    Muennighoff et al. 2023, equation 5.

    Args:
      used: log of the tokens trained on, or of the parameters.
      unique: log of the unique tokens, or of the parameters that are optimal for them.
      half_life: log R*.
    """
    repeats = np.expm1(np.clip(used - unique, 0.0, 30.0))
    worth = np.exp(half_life)
    fade = np.exp(-repeats / worth)
    value = 1 + worth * (1 - fade)
    return unique + np.log(value), (worth * (1 - fade) - repeats * fade) / value


def _predict_repeated(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    """Return the log loss, and its gradient with respect to the two half-lives alone."""
    e, a, b, alpha, beta, half_life_d, half_life_n = theta
    base = {'E': np.exp(e), 'A': np.exp(a), 'B': np.exp(b), 'alpha': alpha, 'beta': beta}
    d, d_gradient = effective_amount(data.d, data.u, half_life_d)
    unique_n = np.minimum(data.n, _log_optimal_params(base, data.u))
    n, n_gradient = effective_amount(data.n, unique_n, half_life_n)
    loss, by_base = _predict_chinchilla(theta[:5], LogData(n, d, data.u, data.log_loss))
    return loss, np.stack([-beta * by_base[2] * d_gradient, -alpha * by_base[1] * n_gradient])


def _log_optimal_params(base: dict[str, float], log_tokens: np.ndarray) -> np.ndarray:
    """Return the log of the size for which these tokens are compute-optimal (C = 6 N D)."""
    ratio = np.log(base['alpha'] * base['A'] / (base['beta'] * base['B']))
    return (ratio + base['beta'] * log_tokens) / base['alpha']


def _start_chinchilla(data: LogData) -> list[np.ndarray]:
    return start_from_exponents(data, itertools.product(EXPONENTS, EXPONENTS))


def _start_tied(data: LogData) -> list[np.ndarray]:
    return [start[:4] for start in start_from_exponents(data, ((x, x) for x in TIED_EXPONENTS))]


def _start_kaplan(data: LogData) -> list[np.ndarray]:
    starts = []
    centre_n, centre_d = data.n.mean(), data.d.mean()
    for alpha_d, ratio in itertools.product(KAPLAN_EXPONENTS, KAPLAN_RATIOS):
        # The sum of the two terms, scaled; it is linear in their levels.
        target = np.exp((data.log_loss - data.log_loss.mean()) / alpha_d)
        powers = np.stack(
            [np.exp(-ratio * (data.n - centre_n)), np.exp(-(data.d - centre_d))], axis=1
        )
        linear, _ = optimize.nnls(powers / target[:, None], np.ones_like(data.n))
        p, q = np.log(np.maximum(linear, 1e-4)) + data.log_loss.mean() / alpha_d
        starts.append(np.array([p + ratio * centre_n, q + centre_d, ratio, alpha_d]))
    return starts


def _start_repeated(data: LogData) -> list[np.ndarray]:
    del data
    return [np.log(pair) for pair in itertools.product(HALF_LIVES, repeat=2)]


def make_power_form(log_loss: np.ndarray, centre: float, *, with_irreducible: bool) -> LawForm:
    """Make the law over one variable; theta is (log A, alpha) or (log A, alpha, log E).

    Args:
      log_loss: log loss of the runs, which bounds E.
      centre: the mean of log x, which is subtracted from the data; theta has log A at that mean.
      with_irreducible: whether the law has the term E.
    """
    low, high = float(log_loss.min()), float(log_loss.max())
    bounds: Bounds = ((None, None), (0.0, MAX_POWER_EXPONENT))
    if with_irreducible:
        bounds = (*bounds, (low - IRREDUCIBLE_LOG_RANGE, high))

    def pack(constants: dict[str, float]) -> np.ndarray:
        log_amplitude = np.log(constants['amplitude']) - constants['exponent'] * centre
        level = [np.log(constants['irreducible'])] if with_irreducible else []
        return np.array([log_amplitude, constants['exponent'], *level])

    def unpack(theta: np.ndarray) -> dict[str, float]:
        return {
            'amplitude': float(np.exp(theta[0] + theta[1] * centre)),
            'exponent': float(theta[1]),
            'irreducible': float(np.exp(theta[2])) if with_irreducible else 0.0,
        }

    start = _start_power if with_irreducible else _start_reducible
    return LawForm(_predict_power, start, bounds, (), pack, unpack)


def _predict_power(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
    z = data.n
    reducible = theta[0] - theta[1] * z
    if len(theta) == 2:
        return reducible, np.stack([np.ones_like(z), -z])
    prediction = np.logaddexp(reducible, theta[2])
    share = np.exp(reducible - prediction)
    return prediction, np.stack([share, -share * z, 1 - share])


def _start_reducible(data: LogData) -> list[np.ndarray]:
    return [np.array([data.log_loss.mean(), alpha]) for alpha in POWER_EXPONENTS]


def _start_power(data: LogData) -> list[np.ndarray]:
    """Make a start per exponent, with A and E by non-negative least squares on relative errors."""
    starts, weight, low = [], np.exp(-data.log_loss), float(data.log_loss.min())
    for alpha in POWER_EXPONENTS:
        power = np.exp(-alpha * data.n)
        design = np.stack([power, np.ones_like(data.n)], axis=1) * weight[:, None]
        (amplitude, floor), _ = optimize.nnls(design, np.ones_like(data.n))
        log_floor = np.log(floor) if floor > 0 else -np.inf
        log_amplitude = np.log(amplitude) if amplitude > 0 else low - IRREDUCIBLE_LOG_RANGE
        least = low - IRREDUCIBLE_LOG_RANGE / 2
        starts.append(np.array([log_amplitude, alpha, max(log_floor, least)]))
    return starts


_HALF_LIFE_BOUNDS: Bounds = ((-5.0, 12.0), (-5.0, 12.0))
_BASE = ('E', 'A', 'B', 'alpha', 'beta')


def _pack_levels(c: dict[str, float]) -> np.ndarray:
    return np.log([c['E'], c['A'], c['B']])


def _pack_kaplan(c: dict[str, float]) -> np.ndarray:
    ratio = c['alphaN'] / c['alphaD']
    return np.array([ratio * np.log(c['Nc']), np.log(c['Dc']), ratio, c['alphaD']])


def _unpack_base(theta: np.ndarray, alpha: float, beta: float) -> dict[str, float]:
    values = [*np.exp(theta[:3]).tolist(), float(alpha), float(beta)]
    return dict(zip(_BASE, values, strict=True))


LAW_FORMS: dict[str, LawForm] = {
    'chinchilla': LawForm(
        _predict_chinchilla,
        _start_chinchilla,
        (*LOG_BOUNDS, *EXPONENT_BOUNDS),
        ((1, 3, 'n'), (2, 4, 'd')),
        pack=lambda c: np.array([*_pack_levels(c), c['alpha'], c['beta']]),
        unpack=lambda theta: _unpack_base(theta, theta[3], theta[4]),
    ),
    'tied': LawForm(
        _predict_tied,
        _start_tied,
        (*LOG_BOUNDS, EXPONENT_BOUNDS[0]),
        ((1, 3, 'n'), (2, 3, 'd')),
        pack=lambda c: np.array([*_pack_levels(c), c['alpha']]),
        unpack=lambda theta: _unpack_base(theta, theta[3], theta[3]),
    ),
    'kaplan': LawForm(
        _predict_kaplan,
        _start_kaplan,
        ((None, None), (None, None), (1e-2, 10.0), (1e-3, 4.0)),
        ((0, 2, 'n'),),
        pack=_pack_kaplan,
        unpack=lambda theta: {
            'Nc': float(np.exp(theta[0] / theta[2])),
            'Dc': float(np.exp(theta[1])),
            'alphaN': float(theta[2] * theta[3]),
            'alphaD': float(theta[3]),
        },
    ),
    'repeated': LawForm(
        _predict_repeated,
        _start_repeated,
        (*LOG_BOUNDS, *EXPONENT_BOUNDS, *_HALF_LIFE_BOUNDS),
        (),
        pack=lambda c: np.array(
            [*_pack_levels(c), c['alpha'], c['beta'], *np.log([c['R_D'], c['R_N']])]
        ),
        unpack=lambda theta: (
            _unpack_base(theta, theta[3], theta[4])
            | dict(zip(('R_D', 'R_N'), np.exp(theta[5:]).tolist(), strict=True))
        ),
    ),
    **COUPLED_FORMS,
}


def find_law_form(law: str) -> LawForm:
    """Return the form that --law names.

    Args:
      law: a key of LAW_FORMS, or a dotted path to a LawForm, 'my_lab.laws:POWER_PRODUCT'.

    Raises:
      UserError: the law is unknown, cannot be imported or is not a LawForm.
    """
    form = resolve(law, LAW_FORMS, '--law')
    if not isinstance(form, LawForm):
        raise UserError(f'--law: {law!r} must be a LawForm, got {type(form).__name__}')
    return form


def has_optimal_split(constants: Mapping[str, float]) -> bool:
    """Return whether a law with these constants gives the compute-optimal N* and D*.

    It does if it is E + A / N^alpha + B / D^beta for data without repetition.
    """
    names = set(constants)
    return {'A', 'B', 'alpha', 'beta'} <= names and not names & {'G', 'gamma'}
