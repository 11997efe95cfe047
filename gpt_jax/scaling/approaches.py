"""The three approaches of Hoffmann et al. 2022 to the compute-optimal split, side by side.

Approach 1 is the envelope of the runs (envelope.py), 2 the minima of isoFLOP curves (isoflop.py), 3
the parametric law.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, envelope, interpolated_runs, isoflop
from gpt_jax.scaling.compute_optimal import (
    ComputeCost,
    ComputeSplit,
    compute_split,
    evaluate_split,
    fit_cost,
)
from gpt_jax.scaling.parametric_fit import ParametricLaw
from gpt_jax.scaling.runs import Runs

SAME_SIZE_TOLERANCE = 0.02  # relative: two N* this close agree, however narrow their intervals
ENVELOPE_DRAWS = 400
MINIMA_DRAWS = 400
BAND_POINTS, BAND_REACH = 40, 10  # the band ends at this multiple of the largest compute


class _Inputs(NamedTuple):
    """The inputs of the approaches."""

    runs: Runs
    law: ParametricLaw
    refits: list[dict[str, float]]
    resampled: str
    budgets: tuple[float, ...]
    cost: ComputeCost
    seed: int
    curves: isoflop.CurveOptions | None


class _Outcome(NamedTuple):
    """The split of one approach, its bootstrap draws, the units resampled, and further results."""

    split: ComputeSplit
    drawn: list[ComputeSplit]
    resampled: str
    extra: dict[str, Any]


def compare_approaches(
    runs: Runs,
    law: ParametricLaw,
    refits: list[dict[str, float]],
    resampled: str,
    at_flops: tuple[float, ...],
    which: tuple[str, ...],
    seed: int,
    curves: isoflop.CurveOptions | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Compute the compute-optimal split by each approach, with intervals.

    Args:
      runs: the runs.
      law: the law fitted to them.
      refits: constants of bootstrap refits.
      resampled: what the refits resampled, in words.
      at_flops: FLOP budgets to split.
      which: the approaches to use, of '1', '2' and '3'.
      seed: seed of the random numbers.
      curves: how isoFLOP curves are fitted; None: the defaults.

    Returns:
      For each approach, the entries that `analysis.analyze_parametric` documents; and sentences on
      where approaches disagree beyond their intervals.
    """
    inputs = _Inputs(runs, law, refits, resampled, at_flops, fit_cost(runs), seed, curves)
    results: dict[str, Any] = {}
    for number in which:
        try:
            results[number] = _describe_outcome(_APPROACHES[number](inputs), inputs)
        except UserError as error:
            results[number] = {'note': str(error)}
    return results, _find_disagreements(results)


def _fit_envelope(inputs: _Inputs) -> _Outcome:
    """Apply approach 1, the envelope."""
    fitted = envelope.fit_envelope(inputs.runs, inputs.cost)
    drawn = envelope.draw_envelope_lines(fitted, inputs.cost, ENVELOPE_DRAWS, inputs.seed)
    extra = {
        'envelope': [int(i) for i in envelope.find_envelope(inputs.runs)],
        'budgets': np.exp(fitted.log_flops).tolist(),
        'between_runs': fitted.between_runs,
        'no_interval': '' if drawn else 'no interval: three points leave one degree of freedom',
        'budgets_left_out': fitted.left_out,
    }
    words = "the points of the line, by Student's t of their scatter and the steps between sizes"
    return _Outcome(fitted.split, drawn, words, extra)


def _fit_minima(inputs: _Inputs) -> _Outcome:
    """Apply approach 2, the minima of isoFLOP curves."""
    runs, between_runs = interpolated_runs.interpolate_isoflop_runs(inputs.runs)
    curves = isoflop.fit_curves(runs, inputs.curves)
    minima = isoflop.describe_minima(curves, runs, seed=inputs.seed)
    equal = math.isinf(curves.options.window)
    split = isoflop.fit_isoflop_minima(minima, inputs.cost, equal_weights=equal)
    akima = isoflop.fit_isoflop_minima(minima, inputs.cost, akima=True, equal_weights=equal)
    resampled = "the runs' noise about their curves and of the minima about the line (Student's t)"
    if between_runs:
        resampled += '; the curves are interpolated between runs'
    extra = {
        'minima': [dataclasses.asdict(minimum) for minimum in minima],
        'points': {
            'params': runs.params.tolist(),
            'loss': runs.loss.tolist(),
            'between_runs': between_runs,
        },
        'akima': {
            'a': akima.a,
            'b': akima.b,
            'at': _evaluate_budgets(akima, inputs.law, inputs.budgets),
        },
    }
    drawn = isoflop.draw_split_lines(curves, minima, inputs.cost, MINIMA_DRAWS, inputs.seed)
    if not drawn:
        extra['no_interval'] = 'no interval: the curves leave no degrees of freedom for the noise'
    return _Outcome(split, drawn, resampled, extra)


def _use_law(inputs: _Inputs) -> _Outcome:
    """Apply approach 3, the parametric law."""
    split = compute_split(inputs.law.constants, inputs.cost)
    drawn = [compute_split(constants, inputs.cost) for constants in inputs.refits]
    return _Outcome(split, drawn, inputs.resampled, {})


_APPROACHES: dict[str, Callable[[_Inputs], _Outcome]] = {
    '1': _fit_envelope,
    '2': _fit_minima,
    '3': _use_law,
}


def _describe_outcome(outcome: _Outcome, inputs: _Inputs) -> dict[str, Any]:
    split, drawn = outcome.split, outcome.drawn
    interval = None
    if drawn:
        interval = bootstrap.compute_interval([draw.a for draw in drawn], outcome.resampled)
    return {
        'a': split.a,
        'b': split.b,
        'n_coefficient': split.n_coefficient,
        'd_coefficient': split.d_coefficient,
        'cost': inputs.cost._asdict(),
        'a_interval': dataclasses.asdict(interval) if interval else None,
        'at': _evaluate_budgets(split, inputs.law, inputs.budgets, drawn),
        'band': _compute_band(inputs.runs, drawn),
        'note': '',
        **outcome.extra,
    }


def _compute_band(runs: Runs, drawn: list[ComputeSplit]) -> dict[str, list[float]] | None:
    """Return the interval of N* along compute, up to BAND_REACH times the largest run."""
    if not drawn:
        return None
    grid = np.geomspace(runs.flops.min(), runs.flops.max() * BAND_REACH, BAND_POINTS)
    low, high = np.quantile([split.at(grid)[0] for split in drawn], [0.025, 0.975], axis=0)
    return {'flops': grid.tolist(), 'params_low': low.tolist(), 'params_high': high.tolist()}


def _evaluate_budgets(
    split: ComputeSplit,
    law: ParametricLaw,
    budgets: tuple[float, ...],
    drawn: list[ComputeSplit] | None = None,
) -> list[dict[str, Any]]:
    """Return the optimal run of each budget, with the interval of N* if there are draws."""
    points: list[dict[str, Any]] = []
    for flops in budgets:
        point: dict[str, Any] = evaluate_split(split, law, flops)
        if drawn:
            params = [float(draw.at(flops)[0]) for draw in drawn]
            low, high = np.quantile(params, [0.025, 0.975])
            point |= {'params_low': float(low), 'params_high': float(high)}
        points.append(point)
    return points


def _find_disagreements(results: dict[str, Any]) -> list[str]:
    """Write a line for each pair of approaches whose intervals of a, N* or D* are disjoint."""
    lines = []
    usable = {number: result for number, result in results.items() if result.get('a_interval')}
    for first, second in itertools.combinations(sorted(usable), 2):
        result, other = usable[first], usable[second]
        pair = f'approaches {first} and {second} disagree on'
        if _are_disjoint(result['a_interval'], other['a_interval'], 'low', 'high'):
            lines.append(
                f'{pair} the exponent a beyond their intervals: '
                f'{result["a"]:.3f} and {other["a"]:.3f}'
            )
        for point, other_point in zip(result['at'], other['at'], strict=True):
            # At one budget, D* = C / (k N^p): its intervals are disjoint if those of N* are.
            if _disagree_on_size(point, other_point):
                lines.append(
                    f'{pair} N* and D* at {point["flops"]:.3g} FLOPs beyond their intervals: '
                    f'N* {point["params"]:.3g} and {other_point["params"]:.3g}, '
                    f'D* {point["tokens"]:.3g} and {other_point["tokens"]:.3g}'
                )
    return lines


def _disagree_on_size(point: dict[str, Any], other: dict[str, Any]) -> bool:
    differ = abs(math.log(point['params'] / other['params'])) > SAME_SIZE_TOLERANCE
    if not differ or 'params_low' not in point or 'params_low' not in other:
        return False
    return _are_disjoint(point, other, 'params_low', 'params_high')


def _are_disjoint(first: dict[str, Any], second: dict[str, Any], low: str, high: str) -> bool:
    return bool(first[high] < second[low] or second[high] < first[low])
