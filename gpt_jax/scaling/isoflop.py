"""Optimal size at a budget, directly from the runs: approaches 1 and 2 of Hoffmann et al. 2022.

Approach 1, the envelope: a line of log N over log C through the runs that no cheaper run beats.
Approach 2, isoFLOP curves: loss over log N for the runs of each budget, and a line through the
minima of these curves.

A curve is not symmetric: the loss rises as a power of N on one side and of D on the other, so the
minimum of a parabola through a wide range is shifted, and the shift differs between budgets. Here,
the minimum is that of a parabola through the few points around the lowest and, as an alternative,
that of an Akima interpolation. A minimum at the edge of a sweep is not a true one: it gets a note
and is left out of the line.

Runs that were not planned as isoFLOP curves can still give some (`interpolate_isoflop_runs`). A
size with several token counts, such as cooldown branches of one trunk, is given a loss at every
compute between its shortest and its longest run, by a monotone cubic through log loss over log
compute (Fritsch & Carlson 1980). At budgets where enough sizes have one, these are isoFLOP curves.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy import interpolate

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.bootstrap import estimate_seed_noise
from gpt_jax.scaling.compute_optimal import ComputeCost, ComputeSplit, fit_split_line
from gpt_jax.scaling.runs import Runs

SAME_BUDGET_TOLERANCE = 0.1  # relative: runs whose FLOPs differ by less share a budget
MIN_SIZES_PER_CURVE = 4  # three determine a parabola, with none left to judge the fit
WINDOW = np.log(6.0)  # width in log N of the window of points that the parabola is fitted to
DRAWS = 1000  # draws of the loss noise per curve (Porian et al. 2024)
BINS_PER_DECADE = 8  # of compute, for the envelope
MIN_BINS = 3  # of compute, for the line through the envelope
AKIMA_POINTS = 4001
MIN_LENGTHS_PER_SIZE = 3  # to interpolate between the runs of a size
INTERPOLATED_BUDGETS = 8  # evenly in log compute, over the range that enough sizes share


@dataclasses.dataclass(frozen=True)
class IsoflopMinimum:
    """The lowest point of one isoFLOP curve.

    Attributes:
      flops, params, tokens, loss: at the minimum.
      akima_params: params at the minimum of the Akima interpolation.
      spread: standard deviation of log params over the noise draws.
      used: indices of the runs in the window.
      others: indices of the budget's runs outside it.
      note: why the minimum is not used, or ''.
      curve: (b0, b1, b2) of the window's parabola, log loss = b0 + b1 x + b2 x^2 with x = log N
        less `centre`.
      centre: log N.
    """

    flops: float
    params: float
    tokens: float
    loss: float
    akima_params: float
    spread: float
    used: list[int]
    others: list[int]
    note: str
    curve: tuple[float, float, float]
    centre: float


def group_by_budget(runs: Runs) -> list[tuple[float, np.ndarray]]:
    """Return (mean FLOPs, indices of the runs) of each budget with enough sizes.

    Runs share a budget by the column `budget`, or else if their FLOPs are equal.
    """
    labels = np.log(budget_per_run(runs))
    groups: list[list[int]] = []
    for index in np.argsort(labels, kind='stable'):
        if groups and labels[index] - labels[groups[-1][0]] <= np.log1p(SAME_BUDGET_TOLERANCE):
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return [
        (float(np.exp(np.mean(np.log(runs.flops[group])))), np.array(group))
        for group in groups
        if np.unique(runs.params[group]).size >= MIN_SIZES_PER_CURVE
    ]


def budget_per_run(runs: Runs) -> np.ndarray:
    """Return the FLOPs that each run was planned for, [runs]: the column `budget` or its FLOPs.

    The runs of a budget are an isoFLOP curve even if the plan counted parameters in another way
    than `runs` does; the FLOPs of its minimum are then those of a run of that size. Only if the
    user asks for FLOPs that include attention, the column must agree with them, to
    SAME_BUDGET_TOLERANCE, since the cost itself is then another.
    """
    planned = runs.extra.get('budget')
    if planned is None or np.isnan(planned).any():
        return runs.flops
    if runs.provenance['flops'] not in ('with_attention', 'causal'):
        return planned
    spread = [np.ptp(np.log(runs.flops[group])) for group in _group_equal(planned)]
    return planned if max(spread) <= np.log1p(SAME_BUDGET_TOLERANCE) else runs.flops


def _group_equal(values: np.ndarray) -> list[np.ndarray]:
    """Group the indices of values that are equal up to rounding, by value."""
    labels = np.round(np.log(values), 6)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def find_minima(runs: Runs, *, seed: int = 0, least: int = 2) -> list[IsoflopMinimum]:
    """Find the minimum of every isoFLOP curve.

    Args:
      runs: the runs.
      seed: seed of the noise draws.
      least: number of budgets that are required.

    Raises:
      UserError: fewer than `least` budgets with enough sizes.
    """
    budgets = group_by_budget(runs)
    if len(budgets) < least:
        raise UserError(
            f'approach 2: needs at least two budgets with {MIN_SIZES_PER_CURVE} sizes or more, got '
            f'{len(budgets)}; runs share a budget by the column "budget", or, without it or where '
            f'it disagrees with --flops, by FLOPs within {100 * SAME_BUDGET_TOLERANCE:g}%'
        )
    curves = [_fit_curve(runs, group) for _, group in budgets]
    noise, freedom = estimate_seed_noise(runs)
    if not freedom:
        noise = _estimate_scatter(curves)
    random = np.random.default_rng(seed)
    return [
        _find_minimum(runs, group, curve, noise, random)
        for (_, group), curve in zip(budgets, curves, strict=True)
    ]


class _Curve(NamedTuple):
    """One budget's log loss y over log size x (ascending), and a parabola around the lowest point.

    Attributes:
      lowest: index of the lowest y.
      window: mask of the points of the parabola.
      parabola: coefficients over x - x[lowest], the highest power first.
    """

    x: np.ndarray
    y: np.ndarray
    lowest: int
    window: np.ndarray
    parabola: np.ndarray


def _fit_curve(runs: Runs, group: np.ndarray) -> _Curve:
    sizes = np.unique(runs.params[group])
    x = np.log(sizes)
    y = np.array([np.log(runs.loss[group][runs.params[group] == size]).mean() for size in sizes])
    lowest = int(np.argmin(y))
    window = _select_window(x, lowest)
    return _Curve(x, y, lowest, window, np.polyfit(x[window] - x[lowest], y[window], 2))


def _select_window(x: np.ndarray, lowest: int) -> np.ndarray:
    """Return a mask of the points around the lowest: its neighbors and all within WINDOW.

    At least MIN_SIZES_PER_CURVE points are selected.
    """
    near = np.abs(x - x[lowest]) <= WINDOW / 2
    near[max(0, lowest - 1) : lowest + 2] = True
    if near.sum() < MIN_SIZES_PER_CURVE:
        near[np.argsort(np.abs(x - x[lowest]), kind='stable')[:MIN_SIZES_PER_CURVE]] = True
    return near


def _estimate_scatter(curves: list[_Curve]) -> float:
    """Return the standard deviation of the points about their parabolas, pooled over all curves."""
    residuals = [
        curve.y[curve.window]
        - np.polyval(curve.parabola, curve.x[curve.window] - curve.x[curve.lowest])
        for curve in curves
    ]
    freedom = sum(max(0, len(residual) - 3) for residual in residuals)
    squares = sum((residual**2).sum() for residual in residuals)
    return float(np.sqrt(squares / max(1, freedom)))


def _find_minimum(
    runs: Runs, group: np.ndarray, curve: _Curve, noise: float, random: np.random.Generator
) -> IsoflopMinimum:
    x, y, lowest, window, parabola = curve
    z = x[window] - x[lowest]
    log_params = _find_vertex(parabola, z) + x[lowest]
    drawn = [
        _find_vertex(np.polyfit(z, y[window] + noise * random.standard_normal(z.size), 2), z)
        for _ in range(DRAWS)
    ]
    note = ''
    if lowest in (0, len(x) - 1):
        edge = 'smallest' if lowest == 0 else 'largest'
        note = f'the {edge} size is the best: the minimum is not inside the sweep'
    elif parabola[0] <= 0:
        note = 'the curve has no minimum: it bends downward'
    sizes = np.unique(runs.params[group])
    in_window = np.isin(runs.params[group], sizes[window])
    # A labelled curve may have other FLOPs at each size, by the count of `runs`.
    log_flops, log_tokens = (
        float(np.interp(log_params, x, _average_by_size(values, runs, group, sizes)))
        for values in (runs.flops, runs.tokens)
    )
    return IsoflopMinimum(
        flops=math.exp(log_flops),
        params=float(np.exp(log_params)),
        tokens=math.exp(log_tokens),
        loss=float(np.exp(np.polyval(parabola, log_params - x[lowest]))),
        akima_params=float(np.exp(_find_akima_minimum(x, y))),
        spread=max(float(np.std(drawn)), 1e-6),
        used=[int(i) for i in group[in_window]],
        others=[int(i) for i in group[~in_window]],
        note=note,
        curve=(float(parabola[2]), float(parabola[1]), float(parabola[0])),
        centre=float(x[lowest]),
    )


def _average_by_size(
    values: np.ndarray, runs: Runs, group: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Compute the mean log of values, [runs], over the group's runs of each size, [sizes]."""
    logs = np.log(values[group])
    return np.array([logs[runs.params[group] == size].mean() for size in sizes])


def _find_vertex(parabola: np.ndarray, x: np.ndarray) -> float:
    """Find where the parabola is lowest within the range of x."""
    if parabola[0] <= 0:
        return float(x[np.argmin(np.polyval(parabola, x))])
    return float(np.clip(-parabola[1] / (2 * parabola[0]), x.min(), x.max()))


def _find_akima_minimum(x: np.ndarray, y: np.ndarray) -> float:
    grid = np.linspace(x.min(), x.max(), AKIMA_POINTS)
    return float(grid[np.argmin(interpolate.Akima1DInterpolator(x, y)(grid))])


def fit_isoflop_minima(
    minima: list[IsoflopMinimum], cost: ComputeCost, *, akima: bool = False
) -> ComputeSplit:
    """Fit a line through the valid minima, weighted by 1 / (spread^2 + median spread^2).

    Args:
      minima: the minima of the isoFLOP curves.
      cost: C as a function of N and D.
      akima: whether to take the minima of the Akima interpolations.

    Raises:
      UserError: fewer than two minima are valid.
    """
    inside = [minimum for minimum in minima if not minimum.note]
    if len(inside) < 2:
        notes = [f'{point.flops:.3g} FLOPs: {point.note}' for point in minima if point.note]
        raise UserError(
            f'approach 2: {len(inside)} of {len(minima)} curves have their minimum inside the '
            f'sweep; {"; ".join(notes)}'
        )
    spread = np.array([minimum.spread for minimum in inside])
    weights = 1 / (spread**2 + np.median(spread) ** 2)  # no single curve decides alone
    params = [minimum.akima_params if akima else minimum.params for minimum in inside]
    log_flops = np.log([minimum.flops for minimum in inside])
    return fit_split_line(log_flops, np.log(params), weights, cost)


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
        return _group_equal(planned)
    bins: list[list[int]] = []
    for index in np.argsort(runs.flops, kind='stable'):
        if bins and runs.flops[index] < runs.flops[bins[-1][0]] * 10 ** (1 / BINS_PER_DECADE):
            bins[-1].append(int(index))
        else:
            bins.append([int(index)])
    return [np.array(members) for members in bins]


def fit_envelope(runs: Runs, cost: ComputeCost) -> ComputeSplit:
    """Fit a line through the envelope.

    Raises:
      UserError: fewer than MIN_BINS runs are on the envelope.
    """
    envelope = find_envelope(runs)
    if len(envelope) < MIN_BINS:
        raise UserError(
            f'approach 1: needs at least three bins of compute on the envelope, got {len(envelope)}'
        )
    log_flops, log_params = np.log(runs.flops[envelope]), np.log(runs.params[envelope])
    return fit_split_line(log_flops, log_params, np.ones(len(envelope)), cost)


def interpolate_isoflop_runs(runs: Runs) -> tuple[Runs, bool]:
    """Return runs that make isoFLOP curves, and whether they are interpolated between runs.

    They are the runs themselves if these make curves, or if nothing can be interpolated.
    """
    if len(group_by_budget(runs)) >= 2:
        return runs, False
    curves = {}
    for size in np.unique(runs.params):
        members = np.flatnonzero(runs.params == size)
        lengths = np.unique(runs.flops[members])
        if len(lengths) >= MIN_LENGTHS_PER_SIZE:
            means = [
                np.log(runs.loss[members][runs.flops[members] == length]).mean()
                for length in lengths
            ]
            curves[float(size)] = interpolate.PchipInterpolator(
                np.log(lengths), means, extrapolate=False
            )
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
        files=['' for _ in points],
        clusters=np.arange(len(points)),
        curves=[[] for _ in points],
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
