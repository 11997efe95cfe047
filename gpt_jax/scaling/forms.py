"""Which forms can a law over parameters N and tokens D have? Predictions, gradients, and where to search from.

    chinchilla  L = E + A / N^alpha + B / D^beta                           Hoffmann et al. 2022, equation 2
    tied        the same with alpha = beta                                 Gadre et al. 2024: alpha = beta = 2 eta
    kaplan      L = [(Nc / N)^(alphaN / alphaD) + Dc / D]^alphaD           Kaplan et al. 2020, equation 1.5
    repeated    chinchilla over effective N' and D'                        Muennighoff et al. 2023, equations 5 to 7
                D' = U + U R* (1 - e^(-R / R*)), U unique tokens, R repeats beyond the first epoch; the same for N

Everything is in logarithms: of N, D and the loss, and of A, B and E among the parameters theta that are fitted.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

LOWEST = -30.0  # a logarithm of E, A, B below this is as good as a term that is not there


class Data(NamedTuple):
    """What the laws read, each [runs]: natural logarithms of N, D and the unique tokens, and of the loss."""

    n: np.ndarray
    d: np.ndarray
    u: np.ndarray
    log_loss: np.ndarray


class Law(NamedTuple):
    """A law as the fit sees it.

    predict: (theta, data) -> (log loss [runs], its gradient [len(theta), runs]).
    starts: data -> thetas to search from.
    bounds: of theta.
    shear: (i, j, letter): theta[i] is the level of a term at N = D = 1, theta[j] its exponent over `letter`. The search
      moves the level at the runs' mean instead, which does not depend on the exponent.
    pack: constants by name -> theta; unpack: the inverse.
    """

    predict: Callable[[np.ndarray, Data], tuple[np.ndarray, np.ndarray]]
    starts: Callable[[Data], list[np.ndarray]]
    bounds: tuple[tuple[float | None, float | None], ...]
    shear: tuple[tuple[int, int, str], ...]
    pack: Callable[[dict[str, float]], np.ndarray]
    unpack: Callable[[np.ndarray], dict[str, float]]


def _softmax(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log sum exp over the first dim, and each term's share of the sum."""
    top = functools.reduce(np.maximum, terms)  # row by row: reductions over a short first dim are slow
    shares = np.exp(terms - top)
    total = functools.reduce(np.add, shares)
    shares /= total
    return top + np.log(total), shares


def _chinchilla(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
    e, a, b, alpha, beta = theta
    terms = np.empty((3, given.n.size))
    terms[0], terms[1], terms[2] = e, a - alpha * given.n, b - beta * given.d
    gradient = np.empty((5, given.n.size))
    loss, gradient[:3] = _softmax(terms)
    np.multiply(given.n, -gradient[1], out=gradient[3])
    np.multiply(given.d, -gradient[2], out=gradient[4])
    return loss, gradient


def _tied(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
    loss, gradient = _chinchilla(np.append(theta, theta[3]), given)
    return loss, np.concatenate([gradient[:3], gradient[3:4] + gradient[4:5]])


def _kaplan(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
    p, q, r, alpha_d = theta  # r = alphaN / alphaD, p = r log Nc, q = log Dc
    total, share = _softmax(np.stack([p - r * given.n, q - given.d]))
    return alpha_d * total, np.stack([alpha_d * share[0], alpha_d * share[1], -alpha_d * given.n * share[0], total])


def effective(used: np.ndarray, unique: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    """(log effective amount, its gradient by log R*): Muennighoff et al. 2023, equation 5; logs in, logs out."""
    repeats = np.expm1(np.clip(used - unique, 0.0, 30.0))
    worth = np.exp(half)
    fade = np.exp(-repeats / worth)
    value = 1 + worth * (1 - fade)
    return unique + np.log(value), (worth * (1 - fade) - repeats * fade) / value


def _repeated(theta: np.ndarray, given: Data) -> tuple[np.ndarray, np.ndarray]:
    e, a, b, alpha, beta, half_d, half_n = theta
    base = {'E': np.exp(e), 'A': np.exp(a), 'B': np.exp(b), 'alpha': alpha, 'beta': beta}
    d, d_slope = effective(given.d, given.u, half_d)
    n, n_slope = effective(given.n, np.minimum(given.n, _optimal_params(base, given.u)), half_n)
    loss, by_base = _chinchilla(theta[:5], Data(n, d, given.u, given.log_loss))
    return loss, np.stack([-beta * by_base[2] * d_slope, -alpha * by_base[1] * n_slope])


def _optimal_params(base: dict[str, float], log_tokens: np.ndarray) -> np.ndarray:
    """log of the size for which these tokens are compute-optimal (C = 6 N D)."""
    ratio = np.log(base['alpha'] * base['A'] / (base['beta'] * base['B']))
    return (ratio + base['beta'] * log_tokens) / base['alpha']


def _grid(given: Data, pairs: Any) -> list[np.ndarray]:
    """One start per pair of exponents: with these held, E, A and B are linear (variable projection), and above zero."""
    weight = np.exp(-given.log_loss)  # relative errors
    centre_n, centre_d = given.n.mean(), given.d.mean()
    starts = []
    for alpha, beta in pairs:
        powers = [np.ones_like(given.n), np.exp(-alpha * (given.n - centre_n)), np.exp(-beta * (given.d - centre_d))]
        linear, _ = optimize.nnls(np.stack(powers, axis=1) * weight[:, None], np.ones_like(given.n))
        floor = 1e-3 * np.exp(given.log_loss.min())  # a term that came out as 0 gets another chance
        e, a, b = np.log(np.maximum(linear, floor))
        starts.append(np.array([e, a + alpha * centre_n, b + beta * centre_d, alpha, beta]))
    return starts


EXPONENTS = np.geomspace(0.06, 1.5, 16)


def _chinchilla_starts(given: Data) -> list[np.ndarray]:
    return _grid(given, itertools.product(EXPONENTS, EXPONENTS))


def _tied_starts(given: Data) -> list[np.ndarray]:
    return [start[:4] for start in _grid(given, ((x, x) for x in np.geomspace(0.04, 1.6, 32)))]


def _kaplan_starts(given: Data) -> list[np.ndarray]:
    starts = []
    for alpha_d, ratio in itertools.product(np.geomspace(0.03, 0.8, 8), np.geomspace(0.3, 3.0, 8)):
        target = np.exp((given.log_loss - given.log_loss.mean()) / alpha_d)  # the sum of the two terms, scaled
        powers = np.stack([np.exp(-ratio * (given.n - given.n.mean())), np.exp(-(given.d - given.d.mean()))], axis=1)
        linear, _ = optimize.nnls(powers / target[:, None], np.ones_like(given.n))
        p, q = np.log(np.maximum(linear, 1e-4)) + given.log_loss.mean() / alpha_d
        starts.append(np.array([p + ratio * given.n.mean(), q + given.d.mean(), ratio, alpha_d]))
    return starts


def _repeated_starts(given: Data) -> list[np.ndarray]:
    del given
    return [np.log(pair) for pair in itertools.product((0.5, 2.0, 6.0, 20.0, 80.0), repeat=2)]


_LOGS: tuple[tuple[float | None, float | None], ...] = ((LOWEST, 10.0), (LOWEST, None), (LOWEST, None))
_POWERS: tuple[tuple[float | None, float | None], ...] = ((1e-3, 4.0), (1e-3, 4.0))
_HALVES: tuple[tuple[float | None, float | None], ...] = ((-5.0, 12.0), (-5.0, 12.0))
_BASE = ('E', 'A', 'B', 'alpha', 'beta')

LAWS = {
    'chinchilla': Law(
        _chinchilla, _chinchilla_starts, (*_LOGS, *_POWERS), ((1, 3, 'n'), (2, 4, 'd')),
        pack=lambda c: np.array([*np.log([c['E'], c['A'], c['B']]), c['alpha'], c['beta']]),
        unpack=lambda t: dict(zip(_BASE, [*np.exp(t[:3]).tolist(), *map(float, t[3:])], strict=True)),
    ),
    'tied': Law(
        _tied, _tied_starts, (*_LOGS, _POWERS[0]), ((1, 3, 'n'), (2, 3, 'd')),
        pack=lambda c: np.array([*np.log([c['E'], c['A'], c['B']]), c['alpha']]),
        unpack=lambda t: dict(zip(_BASE, [*np.exp(t[:3]).tolist(), float(t[3]), float(t[3])], strict=True)),
    ),
    'kaplan': Law(
        _kaplan, _kaplan_starts, ((None, None), (None, None), (1e-2, 10.0), (1e-3, 4.0)), ((0, 2, 'n'),),
        pack=lambda c: np.array([
            c['alphaN'] / c['alphaD'] * np.log(c['Nc']), np.log(c['Dc']), c['alphaN'] / c['alphaD'], c['alphaD'],
        ]),
        unpack=lambda t: {
            'Nc': float(np.exp(t[0] / t[2])), 'Dc': float(np.exp(t[1])), 'alphaN': float(t[2] * t[3]),
            'alphaD': float(t[3]),
        },
    ),
    'repeated': Law(
        _repeated, _repeated_starts, (*_LOGS, *_POWERS, *_HALVES), (),
        pack=lambda c: np.array([
            *np.log([c['E'], c['A'], c['B']]), c['alpha'], c['beta'], *np.log([c['R_D'], c['R_N']]),
        ]),
        unpack=lambda t: dict(zip(
            (*_BASE, 'R_D', 'R_N'), [*np.exp(t[:3]).tolist(), float(t[3]), float(t[4]), *np.exp(t[5:]).tolist()],
            strict=True,
        )),
    ),
}  # fmt: skip
