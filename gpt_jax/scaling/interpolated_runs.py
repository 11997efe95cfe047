"""Losses of a size at any compute, interpolated between its runs.

Runs that were not planned as isoFLOP curves can still give some (`interpolate_isoflop_runs`). A
size with several token counts, such as cooldown branches of one trunk, is given a loss at every
compute between its shortest and its longest run, by a monotone cubic through log loss over log
compute (Fritsch & Carlson 1980). At budgets where enough sizes have one, these are isoFLOP curves.
"""

import dataclasses

import numpy as np
from scipy import interpolate

from gpt_jax.scaling.isoflop import MIN_SIZES_PER_CURVE, group_by_budget
from gpt_jax.scaling.runs import Runs

MIN_LENGTHS_PER_SIZE = 3  # to interpolate between the runs of a size
INTERPOLATED_BUDGETS = 8  # evenly in log compute, over the range that enough sizes share


def interpolate_sizes(runs: Runs) -> dict[float, interpolate.PchipInterpolator]:
    """Return a monotone cubic of log loss over log FLOPs for each size with enough lengths."""
    curves = {}
    for size in np.unique(runs.params):
        members = np.flatnonzero(runs.params == size)
        lengths, where = np.unique(runs.flops[members], return_inverse=True)
        if len(lengths) >= MIN_LENGTHS_PER_SIZE:
            sums = np.bincount(where.ravel(), np.log(runs.loss[members]))
            means = sums / np.bincount(where.ravel())
            curves[float(size)] = interpolate.PchipInterpolator(
                np.log(lengths), means, extrapolate=False
            )
    return curves


def interpolate_isoflop_runs(runs: Runs) -> tuple[Runs, bool]:
    """Return runs that make isoFLOP curves, and whether they are interpolated between runs.

    They are the runs themselves if these make curves, or if nothing can be interpolated.
    """
    if len(group_by_budget(runs)) >= 2:
        return runs, False
    curves = interpolate_sizes(runs)
    points = [
        (size, flops, float(np.exp(curve(np.log(flops)))))
        for flops in _find_shared_budgets(list(curves.values()))
        for size, curve in curves.items()
        if curve.x[0] <= np.log(flops) <= curve.x[-1]
    ]
    if not points:
        return runs, False
    params, flops, loss = np.array(points).T
    flops_per_token = {
        size: float(np.mean((runs.flops / runs.tokens)[runs.params == size])) for size in curves
    }
    return dataclasses.replace(
        runs,
        params=params,
        tokens=flops / np.array([flops_per_token[size] for size in params]),
        loss=loss,
        flops=flops,
        extra={'budget': flops},
        names=[f'{size:.4g} at {budget:.3g} FLOPs' for size, budget, _ in points],
        rows=np.zeros(len(points), int),
        curves=[[] for _ in points],
        files=['' for _ in points],
        clusters=np.arange(len(points)),
    ), True


def _find_shared_budgets(curves: list[interpolate.PchipInterpolator]) -> list[float]:
    """Find budgets at which enough sizes have a loss."""
    least = MIN_SIZES_PER_CURVE
    if len(curves) < least:
        return []
    low = sorted(float(curve.x[0]) for curve in curves)[least - 1]
    high = sorted((float(curve.x[-1]) for curve in curves), reverse=True)[least - 1]
    if low >= high:
        return []
    log_budgets = np.linspace(low + 1e-9, high - 1e-9, INTERPOLATED_BUDGETS)
    return [float(np.exp(log_budget)) for log_budget in log_budgets]
