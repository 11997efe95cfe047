"""Where is the optimum of a budget, as far as is known before it is run? Published, or recentred on the runs so far.

A published law is of another text and tokenizer: its N* may be wrong by some factor. So a sweep begins with its small
budgets, and what they say moves the large ones. Of the runs' own words the first that can be had counts: the line
through the minima of approach 2; the parametric law; the minima or the best runs there are, with N* ~ C^0.5.
"""

import math
from typing import NamedTuple

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, approaches, optimal, outliers, surface
from gpt_jax.scaling.plan import planner
from gpt_jax.scaling.runs import Runs

FAR = 3.0  # a law that puts the optimum of its own runs this factor outside their sizes says nothing


class Source(NamedTuple):
    """N* at any budget. words: where it is from. passed_over: why it is not from what would come first."""

    split: optimal.Split
    words: str
    passed_over: list[str]


def published() -> Source:
    return Source(optimal.split(planner.PUBLISHED), 'Besiroglu et al. 2024', [])


def recentred(runs: Runs) -> Source:
    """N* of any budget as the runs have it."""
    passed_over: list[str] = []
    cost = optimal.cost(runs)
    for attempt in (_minima, _parametric):
        try:
            split, words = attempt(runs, cost)
            _believable(split, runs)
        except UserError as error:
            passed_over.append(' '.join(str(error).split()))
        else:
            return Source(split, words, passed_over)
    return Source(*_best(runs, cost), passed_over)


def _minima(runs: Runs, cost: optimal.Cost) -> tuple[optimal.Split, str]:
    found = approaches.minima(runs)
    split = approaches.isoflop(found, cost)
    inside = sum(not one.note for one in found)
    return split, f'approach 2, the line through {inside} minima, N* ~ C^{split.a:.3f}'


def _parametric(runs: Runs, cost: optimal.Cost) -> tuple[optimal.Split, str]:
    cleaned, delta, _ = outliers.cleaned('chinchilla', runs)
    found = surface.fit('chinchilla', surface.data(cleaned), delta=delta, tries=analysis.TRIES)
    split = optimal.split(found.constants, cost)
    return split, f'the parametric law through {len(cleaned)} runs, N* ~ C^{split.a:.3f}'


def _best(runs: Runs, cost: optimal.Cost) -> tuple[optimal.Split, str]:
    """A slope of 0.5 through the centre of the minima that are inside; without any, of each budget's best run."""
    inside = [one for one in approaches.minima(runs, least=0) if not one.note]
    if inside:
        points = [(one.flops, one.params) for one in inside]
    else:
        order = np.argsort(approaches.budget(runs), kind='stable')
        steps = np.diff(np.log(approaches.budget(runs)[order]))
        groups = np.split(order, np.flatnonzero(steps > np.log1p(approaches.SAME_BUDGET)) + 1)
        best = [group[np.argmin(runs.loss[group])] for group in groups]
        points = [(float(runs.flops[i]), float(runs.params[i])) for i in best]
    flops, params = np.log(points).mean(axis=0)
    n = math.exp(params - 0.5 * flops)
    words = f'{"the minima" if inside else "the best runs"} of budgets done ({len(points)}), N* ~ C^0.5 assumed'
    return optimal.Split(0.5, 1 - 0.5 * cost.p, n, n**-cost.p / cost.k), words


def _believable(split: optimal.Split, runs: Runs) -> None:
    """Raises UserError where a split cannot be extrapolated."""
    ends = np.array([runs.flops.min(), runs.flops.max()])
    n, _ = split.at(ends)
    if not (split.a > 0 and split.b > 0):
        raise UserError(f'N* ~ C^{split.a:.3g}: an exponent that no optimum has')
    if not ((n > runs.params.min() / FAR) & (n < runs.params.max() * FAR)).all():
        raise UserError(f'N* from {n.min():.3g} to {n.max():.3g} at the compute of the runs: far outside their sizes')
