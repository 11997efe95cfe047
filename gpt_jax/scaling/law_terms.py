"""What the forms of laws share: the data they see, the class of a form, sums of terms, starts.

Everything is in logarithms: N, D, the loss, and A, B and E among the fitted parameters theta.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy import optimize

MIN_LOG = -30.0  # a term whose E, A or B has a logarithm below this is negligible
LOG_BOUNDS: 'Bounds' = ((MIN_LOG, 10.0), (MIN_LOG, None), (MIN_LOG, None))
EXPONENT_BOUNDS: 'Bounds' = ((1e-3, 4.0), (1e-3, 4.0))

Bounds = tuple[tuple[float | None, float | None], ...]


class LogData(NamedTuple):
    """The data that the laws use, each [runs], in natural logarithms.

    Attributes:
      n: parameters; for a law over one variable, that variable minus its mean.
      d: tokens.
      u: unique tokens.
      log_loss: the loss.
      total: all parameters, where n are those active for a token; None: n are all.
    """

    n: np.ndarray
    d: np.ndarray
    u: np.ndarray
    log_loss: np.ndarray
    total: np.ndarray | None = None

    def take(self, selection: np.ndarray) -> 'LogData':
        """Return the runs of a mask or of indices."""
        n, d, u, log_loss = (column[selection] for column in self[:4])
        return LogData(n, d, u, log_loss, None if self.total is None else self.total[selection])


class LawForm(NamedTuple):
    """A law as the fit uses it.

    Attributes:
      predict: (theta, data) -> (log loss [runs], its gradient [len(theta), runs]).
      starts: data -> thetas to search from.
      bounds: bounds of theta.
      shear: (i, j, letter): theta[i] is the level of a term at N = D = 1, and theta[j] its exponent
        over `letter`. The search varies the level at the runs' mean instead, which depends less on
        the exponent.
      pack: constants by name -> theta.
      unpack: the inverse of pack.
    """

    predict: Callable[[np.ndarray, LogData], tuple[np.ndarray, np.ndarray]]
    starts: Callable[[LogData], list[np.ndarray]]
    bounds: Bounds
    shear: tuple[tuple[int, int, str], ...]
    pack: Callable[[dict[str, float]], np.ndarray]
    unpack: Callable[[np.ndarray], dict[str, float]]


def log_sum_exp(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute log-sum-exp over the first dim, and each term's share of the sum."""
    # Row by row, because numpy's reductions over a short first dim are slow.
    top = functools.reduce(np.maximum, terms)
    shares = np.exp(terms - top)
    total = functools.reduce(np.add, shares)
    shares /= total
    return top + np.log(total), shares


def start_from_exponents(data: LogData, pairs: Iterable[tuple[float, float]]) -> list[np.ndarray]:
    """Make a start of chinchilla per (alpha, beta), with E, A and B by non-negative least squares.

    With fixed exponents the law is linear in E, A and B (variable projection).
    """
    weight = np.exp(-data.log_loss)  # relative errors
    centre_n, centre_d = data.n.mean(), data.d.mean()
    starts = []
    for alpha, beta in pairs:
        powers = [
            np.ones_like(data.n),
            np.exp(-alpha * (data.n - centre_n)),
            np.exp(-beta * (data.d - centre_d)),
        ]
        linear, _ = optimize.nnls(np.stack(powers, axis=1) * weight[:, None], np.ones_like(data.n))
        floor = 1e-3 * np.exp(data.log_loss.min())  # lets a term recover that came out as 0
        e, a, b = np.log(np.maximum(linear, floor))
        starts.append(np.array([e, a + alpha * centre_n, b + beta * centre_d, alpha, beta]))
    return starts
