"""Compute-optimal split between parameters and tokens: N*, D* and the loss at any budget.

With L = E + A / N^alpha + B / D^beta and C = k N^p D (k = 6 and p = 1 for 6 N D), the minimum over
N at fixed C is

    N* = [alpha A C^beta / (p beta B k^beta)]^(1 / (alpha + p beta)),   D* = C / (k N*^p)

so N* ~ C^a with a = beta / (alpha + p beta) and D* ~ C^b with b = 1 - p a (Hoffmann et al. 2022,
equation 4).
"""

from typing import Any, NamedTuple

import numpy as np

from gpt_jax.scaling.parametric_fit import ParametricLaw
from gpt_jax.scaling.runs import Runs


class ComputeCost(NamedTuple):
    """C = k N^p D, the FLOPs of the runs as a function of their parameters and tokens."""

    k: float
    p: float


class ComputeSplit(NamedTuple):
    """N* = n_coefficient C^a, D* = d_coefficient C^b."""

    a: float
    b: float
    n_coefficient: float
    d_coefficient: float

    def at(self, flops: Any) -> tuple[Any, Any]:
        """Return (N*, D*) at one or several budgets."""
        flops = np.asarray(flops, float)
        return self.n_coefficient * flops**self.a, self.d_coefficient * flops**self.b


COST_6ND = ComputeCost(6.0, 1.0)
MAX_LOG = 300.0


def evaluate_split(split: ComputeSplit, law: ParametricLaw, flops: float) -> dict[str, float]:
    """Return the optimal run of a budget: flops, params, tokens, tokens_per_param and its loss."""
    n, d = (float(value) for value in split.at(flops))
    return {
        'flops': flops,
        'params': n,
        'tokens': d,
        'tokens_per_param': d / n,
        'loss': float(law.predict(n, d)),
    }


def fit_cost(runs: Runs) -> ComputeCost:
    """Return the cost of the runs: 6 N D if that is how they count, else a fit of k and p.

    The fit is least squares of log(C / D) over log N; with a single size, p is 1.
    """
    per_token, n = np.log(runs.flops / runs.tokens), np.log(runs.params)
    if np.allclose(per_token - n, np.log(6.0), atol=1e-6) or np.ptp(n) == 0:
        return ComputeCost(float(np.exp(np.median(per_token - n))), 1.0)
    p, k = np.polyfit(n - n.mean(), per_token, 1)
    return ComputeCost(float(np.exp(k - p * n.mean())), float(p))


def compute_split(constants: dict[str, float], cost: ComputeCost = COST_6ND) -> ComputeSplit:
    """Return the optimal split of a law with the constants E, A, B, alpha, beta."""
    alpha, beta = constants['alpha'], constants['beta']
    power = alpha + cost.p * beta
    log_n = (
        np.log(alpha * constants['A'])
        - np.log(cost.p * beta * constants['B'])
        - beta * np.log(cost.k)
    ) / power
    return _make_split(beta / power, float(log_n), cost)


def fit_split_line(
    log_flops: np.ndarray, log_params: np.ndarray, weights: np.ndarray, cost: ComputeCost
) -> ComputeSplit:
    """Return the split from a weighted least-squares line of log N* over log C."""
    centre = float(np.average(log_flops, weights=weights))
    x = log_flops - centre
    mean = float(np.average(log_params, weights=weights))
    a = float((weights * x * (log_params - mean)).sum() / (weights * x * x).sum())
    return _make_split(a, mean - a * centre, cost)


def _make_split(a: float, log_n: float, cost: ComputeCost) -> ComputeSplit:
    """Return the split with N* = exp(log_n) C^a, and the tokens that the cost leaves."""
    log_n = float(np.clip(log_n, -MAX_LOG, MAX_LOG))  # of a law that the runs leave open
    return ComputeSplit(
        float(a),
        float(1 - cost.p * a),
        float(np.exp(log_n)),
        float(np.exp(-cost.p * log_n) / cost.k),
    )
