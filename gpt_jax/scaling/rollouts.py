"""Backtests: how good forecasts would have been on the runs at hand (`gpt-jax backtest`).

For each of several origins (amounts of compute), the runs up to it are fitted, and the runs at
about 3, 10, 30 and 100 times that compute are forecast (`FACTORS`, within a factor `WINDOW`). So
every forecast is of runs that the fit did not see and that are larger than all that it saw. The
forecasts of one origin share its fit, and those of nearby origins share runs: their number is not a
number of independent trials.

Beside the laws stand two baselines without intervals: no change (the lowest loss so far), and a
line in logarithms through the lowest losses at the largest amount of compute and at the largest
that is less by the factor `LINE_FACTOR` or more.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap
from gpt_jax.scaling.forecast import fit_forecaster
from gpt_jax.scaling.law_forms import LAW_FORMS
from gpt_jax.scaling.parametric_fit import to_log_data
from gpt_jax.scaling.runs import Runs

FACTORS = (3, 10, 30, 100)
WINDOW = 1.6
MAX_ORIGINS, ORIGIN_FACTOR = 8, 2.0  # origins, and the least factor between two of them
MAX_TARGETS = 12  # per origin and factor
MIN_RUNS = 6  # to be fitted
LINE_FACTOR = 2.0  # of compute, between the two ends of the line
DRAWS, STARTS = 100, 12  # of the parametric laws
MISS_WEIGHT = 2 / (1 - bootstrap.CONFIDENCE_LEVEL)  # of the interval score
MIN_ROLLOUTS, MIN_ORIGINS = 8, 3  # that may widen an interval
BASELINES = ('no change', 'line')
LAWS = ('auto', 'chinchilla')

Forecast = Callable[..., tuple[float, float, float]]  # (N, D) -> (loss, low, high)


class Rollout(NamedTuple):
    """One forecast of a run, and what the run reached.

    Attributes:
      law: 'auto', another law or a baseline.
      factor: one of FACTORS.
      origin: FLOPs of the largest run that was fitted.
      name, params, tokens, flops, reached: the run.
      predicted, low, high: the forecast; NaN for the interval of a baseline.
    """

    law: str
    factor: int
    origin: float
    name: str
    params: float
    tokens: float
    flops: float
    reached: float
    predicted: float
    low: float
    high: float


def run_backtest(
    runs: Runs,
    *,
    laws: Iterable[str] = LAWS,
    baselines: Iterable[str] = BASELINES,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> list[Rollout]:
    """Forecast the larger runs from the smaller ones, at several origins.

    Args:
      runs: finished runs.
      laws: 'auto' and keys of LAW_FORMS.
      baselines: of BASELINES.
      seed: seed of the bootstrap.
      note: receives what is being done.

    Returns:
      The rollouts of all laws and baselines, by origin, law and factor. A law that the runs of an
      origin cannot determine has none there.

    Raises:
      UserError: no run has enough smaller ones.
    """
    # A run with several rows is fitted as a whole, and forecast at its end.
    largest, is_end = runs.max_in_cluster(runs.flops), runs.are_ends()
    origins = find_origins(runs.flops[is_end])
    if not origins:
        raise UserError(
            f'needs {MIN_RUNS} runs, and others of at least {FACTORS[0] / WINDOW:.3g} '
            'times their compute'
        )
    rollouts = []
    for number, origin in enumerate(origins, 1):
        fitted = runs.take(largest <= origin)
        targets = find_targets(np.where(is_end, runs.flops, 0), origin)
        for law in (*laws, *baselines):
            note(f'origin {number} of {len(origins)}: {len(fitted)} runs, {law}')
            try:
                forecast = make_forecast(fitted, law, seed)
            except UserError:
                continue
            for factor, indices in targets.items():
                rollouts += [roll_out(runs, i, law, factor, origin, forecast) for i in indices]
    return rollouts


def list_laws(runs: Runs) -> tuple[str, ...]:
    """Return 'auto' and the laws over N and D that the runs' columns allow."""
    data = to_log_data(runs)
    needs = {
        'repeated': bool((data.d - data.u > 1e-6).any()),
        'experts': data.total is not None and bool((data.total - data.n > 1e-6).any()),
    }
    return ('auto', *(law for law in LAW_FORMS if needs.get(law, True)))


def run_own_backtest(runs: Runs, *, note: Callable[[str], None] = lambda _: None) -> list[Rollout]:
    """Return the rollouts of 'auto' alone, which widen its intervals; [] if there are none."""
    if not find_origins(runs.flops[runs.are_ends()]):
        return []
    return run_backtest(runs, laws=('auto',), baselines=(), note=note)


def find_origins(flops: np.ndarray) -> list[float]:
    """Return amounts of compute to forecast from: each the FLOPs of a run, ascending."""
    amounts = np.unique(flops)
    counts = np.searchsorted(np.sort(flops), amounts, side='right')
    usable = amounts[(counts >= MIN_RUNS) & (amounts * FACTORS[0] / WINDOW <= flops.max())]
    origins: list[float] = []
    for amount in usable[::-1]:  # the largest origins have the most runs
        if not origins or origins[-1] / amount >= ORIGIN_FACTOR:
            origins.append(float(amount))
    return origins[:MAX_ORIGINS][::-1]


def find_targets(flops: np.ndarray, origin: float) -> dict[int, np.ndarray]:
    """Return the runs to forecast from an origin, as indices by factor."""
    targets = {}
    for factor in FACTORS:
        low, high = factor * origin / WINDOW, factor * origin * WINDOW
        found = np.flatnonzero((flops >= low) & (flops < high))
        if len(found) > MAX_TARGETS:
            found = found[np.linspace(0, len(found) - 1, MAX_TARGETS).round().astype(int)]
        if len(found):
            targets[factor] = found
    return targets


def make_forecast(fitted: Runs, law: str, seed: int) -> Forecast:
    """Return a function that forecasts a run by a law or a baseline.

    Raises:
      UserError: the runs cannot determine the law.
    """
    if law in BASELINES:
        return _make_baseline(fitted, law)
    return fit_forecaster(fitted, law, draws=DRAWS, seed=seed, starts=STARTS).predict


def _make_baseline(fitted: Runs, law: str) -> Forecast:
    lowest = float(fitted.loss.min())
    if law == 'no change':
        return lambda *_, **__: (lowest, math.nan, math.nan)
    top = fitted.flops.max()
    smaller = fitted.flops[fitted.flops < top / LINE_FACTOR]
    if not smaller.size:
        raise UserError('line: needs runs of two amounts of compute')
    ends = []
    for amount in (smaller.max(), top):
        near = (fitted.flops <= amount) & (fitted.flops >= amount / math.sqrt(LINE_FACTOR))
        best = np.flatnonzero(near)[np.argmin(fitted.loss[near])]
        ends.append((math.log(fitted.flops[best]), math.log(fitted.loss[best])))
    (x0, y0), (x1, y1) = ends
    slope = (y1 - y0) / (x1 - x0)
    scale = float(np.median(fitted.flops / (fitted.params * fitted.tokens)))

    def forecast(params: float, tokens: float, **_: float) -> tuple[float, float, float]:
        compute = math.log(scale * params * tokens)
        return math.exp(y1 + slope * (compute - x1)), math.nan, math.nan

    return forecast


def roll_out(
    runs: Runs, index: int, law: str, factor: int, origin: float, forecast: Forecast
) -> Rollout:
    params, tokens = float(runs.params[index]), float(runs.tokens[index])
    flops, reached = float(runs.flops[index]), float(runs.loss[index])
    more = {
        name: float(runs.extra[name][index])
        for name in ('unique_tokens', 'params_total')
        if name in runs.extra
    }
    predicted = forecast(params, tokens, **more)
    name = runs.names[index]
    return Rollout(law, factor, origin, name, params, tokens, flops, reached, *predicted)


def summarize_rollouts(rollouts: list[Rollout]) -> list[dict[str, Any]]:
    """Score the forecasts of each law at each factor.

    Returns:
      For each: law, factor, rollouts, origins; median_percent (of the absolute errors),
      bias_percent (the median error), worst_percent; inside (number of intervals that contain the
      loss), width_percent (mean width of the intervals) and score_percent (mean interval score: the
      width plus MISS_WEIGHT times the distance of a loss outside), which are None for baselines.
      All percentages are of the loss that was reached.
    """
    rows = []
    for law, factor in dict.fromkeys((r.law, r.factor) for r in rollouts):
        group = [r for r in rollouts if (r.law, r.factor) == (law, factor)]
        reached, predicted, low, high = np.array(
            [(r.reached, r.predicted, r.low, r.high) for r in group]
        ).T
        percent = 100 * (predicted - reached) / reached
        row: dict[str, Any] = {
            'law': law,
            'factor': factor,
            'rollouts': len(group),
            'origins': len({r.origin for r in group}),
            'median_percent': float(np.median(np.abs(percent))),
            'bias_percent': float(np.median(percent)),
            'worst_percent': float(percent[np.argmax(np.abs(percent))]),
            'inside': None,
            'width_percent': None,
            'score_percent': None,
        }
        if law not in BASELINES:
            miss = np.maximum(np.maximum(low - reached, reached - high), 0)
            row['inside'] = int((miss == 0).sum())
            row['width_percent'] = float((100 * (high - low) / reached).mean())
            score = 100 * (high - low + MISS_WEIGHT * miss) / reached
            row['score_percent'] = float(score.mean())
        rows.append(row)
    return sorted(rows, key=lambda row: row['factor'])


def find_widening(
    rollouts: list[Rollout], runs: Runs, params: float, tokens: float
) -> tuple[float, dict[str, Any]]:
    """Return the factor by which intervals must be wider for the rollouts to lie inside.

    It multiplies the distances of low and high from the loss, in logarithms, so that the nominal
    share of the rollouts at the nearest factor is inside; it is at least 1, and 1 if there are
    fewer than MIN_ROLLOUTS of at least MIN_ORIGINS origins.

    Args:
      rollouts: those of the law that forecasts, on `runs`.
      runs: the runs that the forecast is made from.
      params, tokens: the run to forecast.

    Returns:
      The factor, and the row of `summarize_rollouts` for the nearest factor; {} without rollouts.
    """
    rows = summarize_rollouts(rollouts)
    if not rows:
        return 1.0, {}
    extrapolation = max(params * tokens / (runs.params * runs.tokens).max(), 1.0)
    row = min(rows, key=lambda row: abs(math.log(row['factor'] / extrapolation)))
    if row['rollouts'] < MIN_ROLLOUTS or row['origins'] < MIN_ORIGINS:
        return 1.0, row
    ratios = []
    for rollout in rollouts:
        if rollout.factor == row['factor']:
            error = math.log(rollout.reached / rollout.predicted)
            end = rollout.high if error > 0 else rollout.low
            ratios.append(error / math.log(end / rollout.predicted))
    return max(1.0, float(np.quantile(ratios, bootstrap.CONFIDENCE_LEVEL))), row
