"""How is compute best split between parameters and tokens? N*, D* and the loss at any budget, out of a fitted law.

With L = E + A / N^alpha + B / D^beta and C = k N^p D (6 N D is k = 6, p = 1), the minimum over N at fixed C is

    N* = [alpha A C^beta / (p beta B k^beta)]^(1 / (alpha + p beta)),   D* = C / (k N*^p)

so N* ~ C^a with a = beta / (alpha + p beta) and D* ~ C^b with b = 1 - p a (Hoffmann et al. 2022, equation 4).
"""

from typing import Any, NamedTuple

import numpy as np

from gpt_jax.scaling.runs import Runs
from gpt_jax.scaling.surface import Surface


class Cost(NamedTuple):
    """C = k N^p D, the FLOPs of the runs as a function of their parameters and tokens."""

    k: float
    p: float


class Split(NamedTuple):
    """N* = n_coefficient C^a, D* = d_coefficient C^b."""

    a: float
    b: float
    n_coefficient: float
    d_coefficient: float

    def at(self, flops: Any) -> tuple[Any, Any]:
        """(N*, D*) at a budget."""
        flops = np.asarray(flops, float)
        return self.n_coefficient * flops**self.a, self.d_coefficient * flops**self.b


SIX = Cost(6.0, 1.0)


def point(split: Split, law: Surface, flops: float) -> dict[str, float]:
    """The optimal run of a budget: flops, params, tokens, tokens_per_param and its loss by the law."""
    n, d = (float(value) for value in split.at(flops))
    return {'flops': flops, 'params': n, 'tokens': d, 'tokens_per_param': d / n, 'loss': float(law.predict(n, d))}


def cost(runs: Runs) -> Cost:
    """The runs' own cost: 6 N D where their FLOPs are that, else k and p by least squares on log(C / D) over log N."""
    per_token, n = np.log(runs.flops / runs.tokens), np.log(runs.params)
    if np.allclose(per_token - n, np.log(6.0), atol=1e-6) or np.ptp(n) == 0:
        return Cost(float(np.exp(np.median(per_token - n))), 1.0)
    p, k = np.polyfit(n - n.mean(), per_token, 1)
    return Cost(float(np.exp(k - p * n.mean())), float(p))


def split(constants: dict[str, float], cost: Cost = SIX) -> Split:
    """The optimal split of a law with the constants E, A, B, alpha, beta."""
    alpha, beta = constants['alpha'], constants['beta']
    power = alpha + cost.p * beta
    log_n = (np.log(alpha * constants['A']) - np.log(cost.p * beta * constants['B']) - beta * np.log(cost.k)) / power
    a = beta / power
    return _split(a, float(log_n), cost)


def _split(a: float, log_n: float, cost: Cost) -> Split:
    """Of N* = exp(log_n) C^a, with the tokens that the cost leaves."""
    return Split(float(a), float(1 - cost.p * a), float(np.exp(log_n)), float(np.exp(-cost.p * log_n) / cost.k))


def from_line(log_flops: np.ndarray, log_params: np.ndarray, weights: np.ndarray, cost: Cost) -> Split:
    """The split that a weighted straight line through log N* over log C gives."""
    centre = float(np.average(log_flops, weights=weights))
    x = log_flops - centre
    mean = float(np.average(log_params, weights=weights))
    a = float((weights * x * (log_params - mean)).sum() / (weights * x * x).sum())
    return _split(a, mean - a * centre, cost)
