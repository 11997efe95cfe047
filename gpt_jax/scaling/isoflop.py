"""IsoFLOP curves, approach 2 of Hoffmann et al. 2022.

A curve is the loss over log N for the runs of a budget; a line of log N over log C goes through the
minima of the curves.

A curve is not symmetric: the loss rises as a power of N on one side and of D on the other, so the
minimum of a parabola through a wide range is shifted, and the shift differs between budgets. Here,
the minimum is that of a parabola through the few points around the lowest or, as alternatives, of
more points, of a cubic or of an Akima interpolation. A minimum at the edge of a sweep is not a true
one: it gets a note and is left out of the line.
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
WINDOW = 6**0.5  # a curve is fitted to the sizes within this factor of the lowest
MIN_NOISE = 1e-6  # of log loss: losses are not recorded more precisely
DRAWS = 1000  # draws of the loss noise per curve (Porian et al. 2024)
AKIMA_POINTS = 4001


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
        less `centre`; with b3 for a cubic.
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
    curve: tuple[float, ...]
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


class CurveOptions(NamedTuple):
    """How the minimum of an isoFLOP curve is found.

    Attributes:
      shape: 'parabola' or 'cubic', fitted to log loss over log N in the window; 'akima', an
        interpolation through all sizes.
      window: the sizes of the window are within this factor of the lowest; inf: all, and every
        minimum counts the same for the line, as in the published fits (Llama 3, section 3.2.1).
    """

    shape: str = 'parabola'
    window: float = WINDOW


class IsoflopCurves(NamedTuple):
    """IsoFLOP curves, and the noise of the runs about them.

    Attributes:
      curves: one for each budget.
      noise: standard deviation of the log loss of a run.
      freedom: degrees of freedom of the noise; 0: unknown.
      options: how they were fitted.
    """

    curves: list['_Curve']
    noise: float
    freedom: int
    options: CurveOptions


class _Curve(NamedTuple):
    """One budget's log loss over log size, and a polynomial around the lowest point.

    Attributes:
      group: indices of the budget's runs.
      x: log of the sizes, ascending.
      y: mean log loss of each size.
      runs: number of runs of each size.
      lowest: index of the lowest y.
      window: mask of the points that are fitted.
      polynomial: coefficients over x - x[lowest], the highest power first.
    """

    group: np.ndarray
    x: np.ndarray
    y: np.ndarray
    runs: np.ndarray
    lowest: int
    window: np.ndarray
    polynomial: np.ndarray


def find_minima(runs: Runs, *, seed: int = 0, least: int = 2) -> list[IsoflopMinimum]:
    """Find the minimum of every isoFLOP curve by a parabola; see `fit_curves`."""
    return describe_minima(fit_curves(runs, least=least), runs, seed=seed)


def fit_curves(runs: Runs, options: CurveOptions | None = None, *, least: int = 2) -> IsoflopCurves:
    """Fit a curve to the runs of every budget.

    The noise is pooled over the scatter about the curves and that between runs of equal N and D, so
    that one re-run does not set it.

    Args:
      runs: the runs.
      options: how to fit; None: the defaults.
      least: number of budgets that are required.

    Raises:
      UserError: fewer than `least` budgets with enough sizes.
    """
    options = options or CurveOptions()
    budgets = group_by_budget(runs)
    if len(budgets) < least:
        raise UserError(
            f'approach 2: needs at least two budgets with {MIN_SIZES_PER_CURVE} sizes or more, got '
            f'{len(budgets)}; runs share a budget by the column "budget", or, without it or where '
            f'it disagrees with --flops, by FLOPs within {100 * SAME_BUDGET_TOLERANCE:g}%'
        )
    curves = [_fit_curve(runs, group, options) for _, group in budgets]
    noise, freedom = estimate_seed_noise(runs)
    squares = noise**2 * freedom if freedom else 0.0
    for curve in curves:
        z = curve.x[curve.window] - curve.x[curve.lowest]
        residual = curve.y[curve.window] - np.polyval(curve.polynomial, z)
        squares += float((curve.runs[curve.window] * residual**2).sum())
        freedom += max(0, len(z) - len(curve.polynomial))
    noise = max(math.sqrt(squares / max(1, freedom)), MIN_NOISE)
    return IsoflopCurves(curves, noise, freedom, options)


def _fit_curve(runs: Runs, group: np.ndarray, options: CurveOptions) -> _Curve:
    sizes, counts = np.unique(runs.params[group], return_counts=True)
    x, y = np.log(sizes), _average_by_size(runs.loss, runs, group, sizes)
    lowest, degree = int(np.argmin(y)), 3 if options.shape == 'cubic' else 2
    window = _select_window(x, lowest, options.window, degree + 2)
    polynomial = np.polyfit(x[window] - x[lowest], y[window], min(degree, len(x) - 1))
    return _Curve(group, x, y, counts, lowest, window, polynomial)


def _select_window(x: np.ndarray, lowest: int, factor: float, least: int) -> np.ndarray:
    """Return a mask of the lowest point, its neighbors, and all points within the factor of it.

    At least `least` points are selected, if there are as many.
    """
    near = np.abs(x - x[lowest]) <= math.log(factor)
    near[max(0, lowest - 1) : lowest + 2] = True
    if near.sum() < least:
        near[np.argsort(np.abs(x - x[lowest]), kind='stable')[:least]] = True
    return near


def describe_minima(curves: IsoflopCurves, runs: Runs, *, seed: int = 0) -> list[IsoflopMinimum]:
    """Return the minimum of each curve, with its spread over noise draws."""
    random = np.random.default_rng(seed)
    scales = np.full(DRAWS, curves.noise)
    return [
        _describe_minimum(
            curve, runs, _draw_lowest(curve, scales, random, curves.options.shape), curves
        )
        for curve in curves.curves
    ]


def draw_minima(
    curves: IsoflopCurves, minima: list[IsoflopMinimum], misfit: float, draws: int, seed: int
) -> np.ndarray:
    """Draw log N of the minima inside their sweeps, [draws, minima], from the noise of the runs.

    A draw has one noise level, drawn from what its degrees of freedom leave open, so that the draws
    follow Student's t.

    Args:
      curves: the curves.
      minima: their minima.
      misfit: chi-square of the minima about their line; two constants were fitted to them.
      draws: number of draws.
      seed: seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    inside = [c for c, m in zip(curves.curves, minima, strict=True) if not m.note]
    freedom = curves.freedom + len(inside) - 2
    pooled = max(1.0, (curves.freedom + misfit) / freedom)
    scales = curves.noise * np.sqrt(pooled * freedom / random.chisquare(freedom, draws))
    return np.stack(
        [_draw_lowest(curve, scales, random, curves.options.shape) for curve in inside], axis=1
    )


def _draw_lowest(
    curve: _Curve, scales: np.ndarray, random: np.random.Generator, shape: str
) -> np.ndarray:
    """Refit the curve with noise added; return log N at the minimum of each draw, [draws].

    A draw's minimum may be outside the window by the width of the window.
    """
    if shape == 'akima':
        noise = random.standard_normal((len(curve.x), len(scales))) * scales
        noisy = curve.y[:, None] + noise / np.sqrt(curve.runs)[:, None]
        return _find_akima_minimum(curve.x, noisy)
    z = curve.x[curve.window] - curve.x[curve.lowest]
    noise = random.standard_normal((len(z), len(scales))) * scales
    noisy = curve.y[curve.window][:, None] + noise / np.sqrt(curve.runs[curve.window])[:, None]
    polynomials = np.polyfit(z, noisy, len(curve.polynomial) - 1)
    reach = np.ptp(z)
    places, _ = _find_vertex(polynomials, z.min() - reach, z.max() + reach)
    return curve.x[curve.lowest] + places


def _describe_minimum(
    curve: _Curve, runs: Runs, drawn: np.ndarray, curves: IsoflopCurves
) -> IsoflopMinimum:
    _, x, y, _, lowest, window, polynomial = curve
    z = x[window] - x[lowest]
    vertex, has_minimum = _find_vertex(polynomial, z.min(), z.max())
    akima = float(_find_akima_minimum(x, y[:, None])[0])
    log_params = akima if curves.options.shape == 'akima' else float(vertex) + x[lowest]
    note = ''
    if lowest in (0, len(x) - 1):
        edge = 'smallest' if lowest == 0 else 'largest'
        note = f'the {edge} size is the best: the minimum is not inside the sweep'
    elif not has_minimum:
        note = 'the curve has no minimum: it bends downward'
    group = curve.group
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
        loss=float(np.exp(np.polyval(polynomial, log_params - x[lowest]))),
        akima_params=math.exp(akima),
        spread=max(float(np.std(drawn)), 1e-6),
        used=[int(i) for i in group[in_window]],
        others=[int(i) for i in group[~in_window]],
        note=note,
        curve=tuple(float(value) for value in polynomial[::-1]),
        centre=float(x[lowest]),
    )


def _average_by_size(
    values: np.ndarray, runs: Runs, group: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Compute the mean log of values, [runs], over the group's runs of each size, [sizes]."""
    logs = np.log(values[group])
    return np.array([logs[runs.params[group] == size].mean() for size in sizes])


def _find_vertex(polynomial: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the minimum of a parabola or a cubic between two ends.

    Args:
      polynomial: coefficients, the highest power first, [3 or 4, ...].
      low: the lower end.
      high: the upper end.

    Returns:
      The place of the minimum, [...], which is the lower of the ends if there is none between; and
      whether the polynomial has a minimum anywhere.
    """
    c3, c2, c1 = polynomial[:-1] if len(polynomial) == 4 else (0.0, *polynomial[:-1])
    discriminant = c2**2 - 3 * c3 * c1
    denominator = c2 + np.sqrt(np.maximum(discriminant, 0.0))
    exists = (discriminant >= 0) & (denominator > 0)
    lower_end = np.where(np.polyval(polynomial, low) < np.polyval(polynomial, high), low, high)
    place = np.where(exists, -c1 / np.where(exists, denominator, 1.0), lower_end)
    return np.clip(place, low, high), exists


def _find_akima_minimum(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find where the interpolations of each column of y, [sizes, columns], are lowest."""
    grid = np.linspace(x.min(), x.max(), AKIMA_POINTS)
    return grid[np.argmin(interpolate.Akima1DInterpolator(x, y)(grid), axis=0)]


def fit_isoflop_minima(
    minima: list[IsoflopMinimum],
    cost: ComputeCost,
    *,
    akima: bool = False,
    equal_weights: bool = False,
) -> ComputeSplit:
    """Fit a line through the valid minima.

    Args:
      minima: the minima of the isoFLOP curves.
      cost: C as a function of N and D.
      akima: whether to take the minima of the Akima interpolations.
      equal_weights: as in `weigh_minima`.

    Raises:
      UserError: fewer than two minima are valid.
    """
    log_flops, log_params, weights = weigh_minima(minima, equal=equal_weights)
    if akima:
        log_params = np.log([minimum.akima_params for minimum in minima if not minimum.note])
    return fit_split_line(log_flops, log_params, weights, cost)


def weigh_minima(
    minima: list[IsoflopMinimum], *, equal: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log C, log N and the weight of the valid minima.

    The weight is 1 / (spread^2 + median spread^2), or 1 if they are to be equal.

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
    # The median keeps a single curve from deciding alone.
    weights = np.ones_like(spread) if equal else 1 / (spread**2 + np.median(spread) ** 2)
    log_flops, log_params = np.log([(m.flops, m.params) for m in inside]).T
    return log_flops, log_params, weights


def draw_split_lines(
    curves: IsoflopCurves, minima: list[IsoflopMinimum], cost: ComputeCost, draws: int, seed: int
) -> list[ComputeSplit]:
    """Draw lines through the minima from the noise of the runs; [] if the noise is unknown."""
    equal = math.isinf(curves.options.window)
    log_flops, log_params, weights = weigh_minima(minima, equal=equal)
    if curves.freedom + len(log_flops) <= 2 or not curves.freedom:
        return []
    split = fit_split_line(log_flops, log_params, weights, cost)
    spread = np.array([minimum.spread for minimum in minima if not minimum.note])
    about_line = log_params - np.log(split.n_coefficient) - split.a * log_flops
    misfit = float(((about_line / spread) ** 2).sum())
    drawn = draw_minima(curves, minima, misfit, draws, seed)
    return [fit_split_line(log_flops, row, weights, cost) for row in drawn]
