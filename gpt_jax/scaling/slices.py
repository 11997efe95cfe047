"""Which isoFLOP curves lie in runs that were not planned as such? Each size's loss, read off between its own runs.

A size with several token counts, cooldown branches of one trunk say, has a loss at every compute between its shortest
run and its longest: a monotone cubic through log loss over log compute (Fritsch & Carlson 1980). At budgets where
enough sizes have one, these are isoFLOP curves, and approach 2 reads them as it reads planned ones.
"""

import dataclasses

import numpy as np
from scipy import interpolate

from gpt_jax.scaling import approaches
from gpt_jax.scaling.runs import Runs

FEWEST_LENGTHS = 3  # of a size, to be read between
BUDGETS = 8  # evenly in log compute, over the range that enough sizes share


def isoflop(runs: Runs) -> tuple[Runs, bool]:
    """(runs that make isoFLOP curves, whether they were read off between runs): the runs themselves where they do."""
    if len(approaches.budgets(runs)) >= 2:
        return runs, False
    curves = {}
    for size in np.unique(runs.params):
        mine = np.flatnonzero(runs.params == size)
        lengths = np.unique(runs.flops[mine])
        if len(lengths) >= FEWEST_LENGTHS:
            means = [np.log(runs.loss[mine][runs.flops[mine] == one]).mean() for one in lengths]
            curves[float(size)] = interpolate.PchipInterpolator(np.log(lengths), means, extrapolate=False)
    made = [
        (size, flops, float(np.exp(curve(np.log(flops))))) for flops in _shared(list(curves.values()))
        for size, curve in curves.items() if curve.x[0] <= np.log(flops) <= curve.x[-1]
    ]  # fmt: skip
    if not made:
        return runs, False
    params, flops, loss = np.array(made).T
    per_token = {size: float(np.mean((runs.flops / runs.tokens)[runs.params == size])) for size in curves}
    tokens = flops / np.array([per_token[size] for size in params])
    names = [f'{size:.4g} at {one:.3g} FLOPs' for size, one in zip(params, flops, strict=True)]
    rows = np.zeros(len(made), int)
    return dataclasses.replace(
        runs, params=params, tokens=tokens, loss=loss, flops=flops, more={'budget': flops}, names=names, rows=rows,
        curves=[[] for _ in made],
    ), True  # fmt: skip


def _shared(curves: list[interpolate.PchipInterpolator]) -> list[float]:
    """Budgets at which enough sizes have a loss."""
    least = approaches.FEWEST_SIZES
    if len(curves) < least:
        return []
    low = sorted(float(curve.x[0]) for curve in curves)[least - 1]
    high = sorted((float(curve.x[-1]) for curve in curves), reverse=True)[least - 1]
    return [float(np.exp(one)) for one in np.linspace(low + 1e-9, high - 1e-9, BUDGETS)] if low < high else []
