"""Laws in which parameters and tokens act on each other, or experts act on both.

skaling        L = E + A (N^-alpha + R D^-beta)^k                     arXiv 2608.07222
kaplan_offset  L = E + [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD   Kaplan et al. 2020, eq.
               1.5, with an irreducible loss
interaction    L = E + A / N^alpha + B / D^beta + G (A / N^alpha) (B / D^beta)   Hoffmann et
               al. 2022, with the product of Zhang et al. 2024 (arXiv 2402.17193) as a further
               term; G may be negative
farseer        L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)
               Li et al. 2025 (arXiv 2506.10972)
experts        L = E + A S^delta / N^(alpha + gamma log S) + B S^omega / D^(beta + zeta log S)
               Ludziejewski et al. 2025 (arXiv 2502.05172). N is the active parameters; S is
               the expansion by experts, which saturates (Clark et al. 2022, section 3):
               1/S = 1 / (T/N - 1 + 1 / (1 - 1/M)) + 1/M, T all parameters, M the largest S.
"""

import itertools

import numpy as np
from scipy import optimize

from gpt_jax.scaling.law_terms import (
    EXPONENT_BOUNDS,
    LOG_BOUNDS,
    LawForm,
    LogData,
    log_sum_exp,
    start_from_exponents,
)

# Few starts: with the levels by least squares, most searches end at the optimum.
EXPONENTS = (0.15, 0.35, 0.8)
COUPLINGS = (1.0, 0.4)  # k of skaling
KAPLAN_EXPONENTS, KAPLAN_RATIOS = (0.1, 0.25, 0.6), (0.6, 1.0, 1.6)
FLOORS = (0.4, 0.8)  # E over the lowest loss
LEAST_PRODUCT = -0.99  # the product of interaction over the sum of the others; keeps L above 0
MEAN_LOG_PARAMS = 20.0  # where farseer's three curves over log N are centred
MAX_EXPANSIONS = (30.0, 300.0)
Prediction = tuple[np.ndarray, np.ndarray]


def predict_skaling(theta: np.ndarray, data: LogData) -> Prediction:
    """Theta is (log E, log A, log A + k log R, k alpha, k beta, log k).

    The products with k are what the loss depends on far from the corner of the law.
    """
    e, a, b, alpha, beta, log_k = theta
    k = np.exp(log_k)
    terms = np.stack([a - alpha * data.n, b - beta * data.d]) / k
    total, share = log_sum_exp(terms)
    loss = np.logaddexp(e, k * total)
    reducible = np.exp(k * total - loss)
    by_n, by_d = reducible * share
    by_log_k = k * reducible * (total - (share * terms).sum(axis=0))
    return loss, np.stack([1 - reducible, by_n, by_d, -by_n * data.n, -by_d * data.d, by_log_k])


def _start_skaling(data: LogData) -> list[np.ndarray]:
    base = start_from_exponents(data, itertools.product(EXPONENTS, EXPONENTS))
    return [np.append(start, np.log(k)) for start in base for k in COUPLINGS]


def _pack_skaling(c: dict[str, float]) -> np.ndarray:
    log_a, k = np.log(c['A']), c['k']
    b = log_a + k * np.log(c['R'])
    return np.array([np.log(c['E']), log_a, b, k * c['alpha'], k * c['beta'], np.log(k)])


def _unpack_skaling(theta: np.ndarray) -> dict[str, float]:
    e, a, b, alpha, beta, log_k = theta
    k = np.exp(log_k)
    values = [np.exp(e), np.exp(a), np.exp((b - a) / k), alpha / k, beta / k, k]
    return dict(zip(('E', 'A', 'R', 'alpha', 'beta', 'k'), map(float, values), strict=True))


def _predict_interaction(theta: np.ndarray, data: LogData) -> Prediction:
    e, a, b, alpha, beta, g = theta
    terms = np.stack([np.full_like(data.n, e), a - alpha * data.n, b - beta * data.d])
    total, share = log_sum_exp(terms)
    both = np.exp(terms[1] + terms[2] - total)
    product = np.maximum(g * both, LEAST_PRODUCT)
    by_n, by_d = (share[1] + product) / (1 + product), (share[2] + product) / (1 + product)
    rows = [share[0] / (1 + product), by_n, by_d, -by_n * data.n, -by_d * data.d]
    return total + np.log1p(product), np.stack([*rows, both / (1 + product)])


def _start_interaction(data: LogData) -> list[np.ndarray]:
    base = start_from_exponents(data, itertools.product(EXPONENTS, EXPONENTS))
    return [np.append(start, 0.0) for start in base]


def _predict_kaplan_offset(theta: np.ndarray, data: LogData) -> Prediction:
    e, p, q, r, alpha_d = theta  # as kaplan in law_forms.py
    total, share = log_sum_exp(np.stack([p - r * data.n, q - data.d]))
    loss = np.logaddexp(e, alpha_d * total)
    reducible = np.exp(alpha_d * total - loss)
    by_n, by_d = alpha_d * reducible * share
    return loss, np.stack([1 - reducible, by_n, by_d, -by_n * data.n, reducible * total])


def _start_kaplan_offset(data: LogData) -> list[np.ndarray]:
    starts = []
    centre_n, centre_d = data.n.mean(), data.d.mean()
    low = data.log_loss.min()
    for alpha_d, ratio, floor in itertools.product(KAPLAN_EXPONENTS, KAPLAN_RATIOS, FLOORS):
        e = low + np.log(floor)
        reducible = data.log_loss + np.log1p(-np.exp(e - data.log_loss))
        # The sum of the two terms, scaled; it is linear in their levels.
        target = np.exp((reducible - reducible.mean()) / alpha_d)
        powers = np.stack(
            [np.exp(-ratio * (data.n - centre_n)), np.exp(-(data.d - centre_d))], axis=1
        )
        linear, _ = optimize.nnls(powers / target[:, None], np.ones_like(data.n))
        p, q = np.log(np.maximum(linear, 1e-4)) + reducible.mean() / alpha_d
        starts.append(np.array([e, p + ratio * centre_n, q + centre_d, ratio, alpha_d]))
    return starts


def _bend(n: np.ndarray, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N^exponent - 1) / exponent, N in units of its usual mean; and its derivative."""
    x = n - MEAN_LOG_PARAMS
    if abs(exponent) < 1e-4:
        return x + exponent * x**2 / 2, x**2 / 2 + exponent * x**3 / 3
    power = np.exp(exponent * x)
    return (power - 1) / exponent, (x * power - (power - 1) / exponent) / exponent


def _predict_farseer(theta: np.ndarray, data: LogData) -> Prediction:
    """Theta has the value at MEAN_LOG_PARAMS, the slope and the exponent of each curve over log N.

    The curves are log E(N), log B(N) and the exponent of D. At exponent 0 they are lines.
    """
    (e, by_e, gamma), (b, by_b, beta), (power, by_a, alpha) = theta.reshape(3, 3)
    (floor, d_gamma), (level, d_beta), (bent, d_alpha) = (
        _bend(data.n, exponent) for exponent in (gamma, beta, alpha)
    )
    exponent = power * np.exp(by_a * bent)
    terms = np.stack([e + by_e * floor, b + by_b * level - exponent * data.d])
    loss, (s, t) = log_sum_exp(terms)
    w = -t * data.d * exponent
    ones = np.ones_like(data.n)
    rows = [
        *(s * row for row in (ones, floor, by_e * d_gamma)),
        *(t * row for row in (ones, level, by_b * d_beta)),
        *(w * row for row in (ones / power, bent, by_a * d_alpha)),
    ]
    return loss, np.stack(rows)


def _start_farseer(data: LogData) -> list[np.ndarray]:
    """Make starts from those of chinchilla: E + A / N^alpha as a line in logarithms."""
    starts = []
    design = np.stack([np.ones_like(data.n), data.n - MEAN_LOG_PARAMS], axis=1)
    for start in start_from_exponents(data, itertools.product(EXPONENTS, EXPONENTS)):
        e, a, b, alpha, beta = start
        line, *_ = np.linalg.lstsq(design, np.logaddexp(e, a - alpha * data.n), rcond=None)
        for exponent in (-0.1, 0.1):
            floor, level, power = [*line, exponent], [b, -0.01, exponent], [beta, 0.02, exponent]
            starts.append(np.array([*floor, *level, *power]))
    return starts


def _pack_farseer(c: dict[str, float]) -> np.ndarray:
    theta = []
    for a, exponent, b in (('a3', 'gamma', 'b3'), ('a2', 'beta', 'b2'), ('a1', 'alpha', 'b1')):
        level = c[a] * np.exp(c[exponent] * MEAN_LOG_PARAMS)
        value = level + c[b]
        theta += [np.exp(value) if b == 'b1' else value, level * c[exponent], c[exponent]]
    return np.array(theta)


def _unpack_farseer(theta: np.ndarray) -> dict[str, float]:
    constants: dict[str, float] = {}
    curves = zip('321', ('gamma', 'beta', 'alpha'), theta.reshape(3, 3), strict=True)
    for digit, name, (value, slope, exponent) in curves:
        level = slope / exponent
        constants |= {
            f'a{digit}': float(level * np.exp(-exponent * MEAN_LOG_PARAMS)),
            f'b{digit}': float((np.log(value) if digit == '1' else value) - level),
            name: float(exponent),
        }
    return constants


def expand_by_experts(data: LogData, log_most: float) -> Prediction:
    """Return log S of `experts`, and its derivative by log M."""
    if data.total is None:
        return np.zeros_like(data.n), np.zeros_like(data.n)
    most = np.exp(log_most)
    grown = np.expm1(np.maximum(data.total - data.n, 0.0)) + most / (most - 1)
    inverse = 1 / grown + 1 / most
    return -np.log(inverse), (1 / most - (most / (most - 1) ** 2) / grown**2) / inverse


def _predict_experts(theta: np.ndarray, data: LogData) -> Prediction:
    e, a, b, alpha, beta, delta, gamma, omega, zeta, log_most = theta
    s, by_most = expand_by_experts(data, log_most)
    n, d = data.n, data.d
    by_n, by_d = alpha + gamma * s, beta + zeta * s
    floor = np.full_like(n, e)
    terms = np.stack([floor, a + delta * s - by_n * n, b + omega * s - by_d * d])
    loss, share = log_sum_exp(terms)
    one, two = share[1], share[2]
    by_s = one * (delta - gamma * n) + two * (omega - zeta * d)
    rows = [-one * n, -two * d, one * s, -one * s * n, two * s, -two * s * d, by_s * by_most]
    return loss, np.concatenate([share, rows])


def _start_experts(data: LogData) -> list[np.ndarray]:
    base = start_from_exponents(data, itertools.product(EXPONENTS, EXPONENTS))
    slopes = [(-0.1, 0.0), (-0.5, -0.02)]
    return [
        np.array([*start, *slope, 0.0, 0.0, np.log(most)])
        for start in base
        for slope in slopes
        for most in MAX_EXPANSIONS
    ]


_SLOPE = (-2.0, 2.0)
_LEVELS = ('E', 'A', 'B')
_EXPERT_EXPONENTS = ('alpha', 'beta', 'delta', 'gamma', 'omega', 'zeta')

COUPLED_FORMS: dict[str, LawForm] = {
    'skaling': LawForm(
        predict_skaling,
        _start_skaling,
        (*LOG_BOUNDS, *EXPONENT_BOUNDS, (-3.0, 1.5)),
        ((1, 3, 'n'), (2, 4, 'd')),
        _pack_skaling,
        _unpack_skaling,
    ),
    'kaplan_offset': LawForm(
        _predict_kaplan_offset,
        _start_kaplan_offset,
        (LOG_BOUNDS[0], (None, None), (None, None), (1e-2, 10.0), (1e-3, 4.0)),
        ((1, 3, 'n'),),
        pack=lambda c: np.array(
            [
                np.log(c['E']),
                c['alphaN'] / c['alphaD'] * np.log(c['Nc']),
                np.log(c['Dc']),
                c['alphaN'] / c['alphaD'],
                c['alphaD'],
            ]
        ),
        unpack=lambda theta: {
            'E': float(np.exp(theta[0])),
            'Nc': float(np.exp(theta[1] / theta[3])),
            'Dc': float(np.exp(theta[2])),
            'alphaN': float(theta[3] * theta[4]),
            'alphaD': float(theta[4]),
        },
    ),
    'interaction': LawForm(
        _predict_interaction,
        _start_interaction,
        (*LOG_BOUNDS, *EXPONENT_BOUNDS, (-20.0, 100.0)),
        ((1, 3, 'n'), (2, 4, 'd')),
        pack=lambda c: np.array([*np.log([c['E'], c['A'], c['B']]), c['alpha'], c['beta'], c['G']]),
        unpack=lambda theta: dict(
            zip(
                (*_LEVELS, 'alpha', 'beta', 'G'),
                [*np.exp(theta[:3]).tolist(), *theta[3:].tolist()],
                strict=True,
            )
        ),
    ),
    'farseer': LawForm(
        _predict_farseer,
        _start_farseer,
        ((None, None), _SLOPE, _SLOPE) * 2 + ((1e-3, 4.0), _SLOPE, _SLOPE),
        ((3, 6, 'd'),),
        _pack_farseer,
        _unpack_farseer,
    ),
    'experts': LawForm(
        _predict_experts,
        _start_experts,
        (*LOG_BOUNDS, *EXPONENT_BOUNDS, *[_SLOPE] * 4, (1.0, 10.0)),
        ((1, 3, 'n'), (2, 4, 'd'), (5, 6, 'n'), (7, 8, 'd')),
        pack=lambda c: np.array(
            [
                *np.log([c[name] for name in _LEVELS]),
                *(c[name] for name in _EXPERT_EXPONENTS),
                np.log(c['M']),
            ]
        ),
        unpack=lambda theta: (
            dict(zip(_LEVELS, np.exp(theta[:3]).tolist(), strict=True))
            | dict(zip(_EXPERT_EXPONENTS, theta[3:9].tolist(), strict=True))
            | {'M': float(np.exp(theta[9]))}
        ),
    ),
}
