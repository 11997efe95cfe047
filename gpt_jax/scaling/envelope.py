"""Approach 1 of Hoffmann et al. 2022: a line of log N over log C along the envelope of the runs.

Where sizes have several token counts (runs of several lengths, or checkpoints), each size gets a
loss at every compute in between. Where the curves of two sizes cross, both are equally good, so the
optimal size is between them: the line goes through these crossings. Otherwise it goes through the
best run of each budget. A budget whose best size is the smallest or the largest that was run there
is left out, since the optimum may be beyond it.
"""

from typing import NamedTuple

import numpy as np
from scipy import interpolate

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.compute_optimal import ComputeCost, ComputeSplit, fit_split_line
from gpt_jax.scaling.interpolated_runs import interpolate_sizes
from gpt_jax.scaling.runs import Runs

BINS_PER_DECADE = 8  # of compute
MIN_POINTS = 3  # for the line
MIN_FREEDOM = 2  # for an interval: with one degree of freedom, it excludes nothing
GRID_POINTS = 2000  # of compute, to find crossings


class EnvelopeFit(NamedTuple):
    """The line through the envelope.

    Attributes:
      split: the line.
      log_flops, log_params: the points that it goes through, [points].
      step: the largest difference in log N between neighboring sizes at a point: how finely the
        sizes resolve the optimum.
      between_runs: whether the points are crossings of interpolated curves.
      left_out: budgets in FLOPs whose best size is the smallest or the largest.
    """

    split: ComputeSplit
    log_flops: np.ndarray
    log_params: np.ndarray
    step: float
    between_runs: bool
    left_out: list[float]


def find_envelope(runs: Runs) -> np.ndarray:
    """Return indices of the runs on the envelope.

    They are the lowest run of each bin of compute, unless a cheaper run beats it.
    """
    best = [int(members[np.argmin(runs.loss[members])]) for members in _bin_by_compute(runs)]
    envelope: list[int] = []
    for index in sorted(best, key=lambda i: runs.flops[i]):
        if not envelope or runs.loss[index] < runs.loss[envelope[-1]]:
            envelope.append(index)
    return np.array(envelope, int)


def _bin_by_compute(runs: Runs) -> list[np.ndarray]:
    """Group runs by compute: by the column `budget`, if any, else in bins that begin at a run.

    Bins with fixed edges could split the runs of a budget, and then keep one that another of them
    beats.
    """
    planned = runs.extra.get('budget')
    if planned is not None and not np.isnan(planned).any():
        labels = np.round(np.log(planned), 6)
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]
    bins: list[list[int]] = []
    for index in np.argsort(runs.flops, kind='stable'):
        if bins and runs.flops[index] < runs.flops[bins[-1][0]] * 10 ** (1 / BINS_PER_DECADE):
            bins[-1].append(int(index))
        else:
            bins.append([int(index)])
    return [np.array(members) for members in bins]


def fit_envelope(runs: Runs, cost: ComputeCost) -> EnvelopeFit:
    """Fit a line through the crossings of the curves of the sizes, or else the best runs.

    Raises:
      UserError: there are fewer than MIN_POINTS of either.
    """
    crossings, step = _find_crossings(interpolate_sizes(runs))
    left_out: list[float] = []
    between_runs = len(crossings) >= MIN_POINTS
    if not between_runs:
        crossings, step, left_out = _find_best_sizes(runs)
    if len(crossings) < MIN_POINTS:
        raise UserError(
            f'approach 1: needs at least {MIN_POINTS} budgets whose best size is neither the '
            f'smallest nor the largest that was run there, got {len(crossings)} of '
            f'{len(crossings) + len(left_out)}'
        )
    log_flops, log_params = np.array(crossings).T
    split = fit_split_line(log_flops, log_params, np.ones(len(crossings)), cost)
    return EnvelopeFit(split, log_flops, log_params, step, between_runs, left_out)


def draw_envelope_lines(
    fitted: EnvelopeFit, cost: ComputeCost, draws: int, seed: int
) -> list[ComputeSplit]:
    """Draw lines from the uncertainty of the fit, as Student's t; [] from three points.

    The variance of a point is that about the line, for which the variance of a uniform distribution
    over a step between sizes counts as one more point: few points can be on a line by chance.
    """
    x, y = fitted.log_flops, fitted.log_params
    predicted = np.log(fitted.split.n_coefficient) + fitted.split.a * x
    freedom = len(x) - 2
    if freedom < MIN_FREEDOM:
        return []
    variance = (float(((y - predicted) ** 2).sum()) + fitted.step**2 / 12) / (freedom + 1)
    random = np.random.default_rng(seed)
    scales = np.sqrt(variance * freedom / random.chisquare(freedom, draws))
    noise = random.standard_normal((draws, len(x)))
    return [
        fit_split_line(x, predicted + scale * row, np.ones(len(x)), cost)
        for scale, row in zip(scales, noise, strict=True)
    ]


def _find_crossings(
    curves: dict[float, interpolate.PchipInterpolator],
) -> tuple[list[tuple[float, float]], float]:
    """Find where the lowest curve changes from one size to another: (log FLOPs, log N)."""
    if len(curves) < 2:
        return [], 0.0
    sizes = np.log(list(curves))
    ends = [end for curve in curves.values() for end in (curve.x[0], curve.x[-1])]
    grid = np.linspace(min(ends), max(ends), GRID_POINTS)
    loss = np.stack([curve(grid) for curve in curves.values()])  # NaN outside a curve
    best = np.argmin(np.where(np.isnan(loss), np.inf, loss), axis=0)
    places: dict[tuple[int, int], list[float]] = {}
    for i in np.flatnonzero(best[1:] != best[:-1]):
        first, second = sorted((int(best[i]), int(best[i + 1])))
        # A change because a curve begins or ends says nothing of the optimum.
        if not np.isnan(loss[[first, second], i : i + 2]).any():
            places.setdefault((first, second), []).append(float(grid[i : i + 2].mean()))
    points = [(float(np.mean(at)), float(sizes[list(pair)].mean())) for pair, at in places.items()]
    step = max((float(abs(np.diff(sizes[list(pair)])[0])) for pair in places), default=0.0)
    return points, step


def _find_best_sizes(runs: Runs) -> tuple[list[tuple[float, float]], float, list[float]]:
    """Find the best size of each budget: (points, step, the budgets that are left out)."""
    points, steps, left_out = [], [0.0], []
    on_envelope = set(find_envelope(runs).tolist())
    for members in _bin_by_compute(runs):
        lowest = members[np.argmin(runs.loss[members])]
        if int(lowest) not in on_envelope:
            continue
        sizes = np.unique(runs.params[members])
        place = int(np.searchsorted(sizes, runs.params[lowest]))
        if place in (0, len(sizes) - 1):
            left_out.append(float(runs.flops[lowest]))
            continue
        points.append((float(np.log(runs.flops[lowest])), float(np.log(sizes[place]))))
        steps.append(float(np.log(sizes[place + 1] / sizes[place - 1])) / 2)
    return points, max(steps), left_out
