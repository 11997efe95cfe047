"""Forecasts of the compute-optimal size: from runs with little compute to the largest budgets.

python experiments/forecast_backtests/optimal_size.py FILE.csv ... --output=optimal_size.jsonl
python experiments/forecast_backtests/optimal_size.py                 draws the committed results

The files are those of protocol.py; sets without isoFLOP budgets are left out. The targets are the
minima of a set's isoFLOP curves whose compute is more than a quarter of the largest such minimum's,
C. For f = 10, 30 and 100, the runs with FLOPs up to 1.1 C / f are fitted, and N* at each target's
compute is forecast by law auto (posterior_split.py), by approach 3 with Chinchilla's law and by
approach 2. Prints the median of the ratio of forecast to measured N*, the 95% intervals that
contain the measured N*, and their median width as a factor (high over low); the measured N* is
uncertain too, so that a second count takes it as N* exp(+-2 sd), with the sd of the curve's noise.
--output receives every forecast, and the figure optimal_size.png beside it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import (
    approaches,
    forecast,
    isoflop,
    outliers,
    parametric_fit,
    posterior_split,
    refits,
)
from gpt_jax.scaling.bootstrap import CONFIDENCE_LEVEL
from gpt_jax.scaling.compute_optimal import fit_cost
from gpt_jax.scaling.isoflop import IsoflopMinimum
from gpt_jax.scaling.report.figure_style import RC_PARAMS, save_figure
from gpt_jax.scaling.runs import Runs, read_runs

HERE = Path(__file__).parent
FACTORS = (10, 30, 100)
TOP_SHARE = 0.25  # of the largest minimum's compute: a target has more
BUDGET_TOLERANCE = 1.1  # the runs of a budget differ in FLOPs
MIN_RUNS = 8
DRAWS, STARTS = 100, 12  # of approach 3
XLIM = (0.02, 50.0)  # of the figure: wider intervals are cut
COLORS = {10: 'C0', 30: 'C1', 100: 'C2'}
METHODS = {'auto': 'law auto', '3': 'approach 3', '2': 'approach 2'}
Row = dict[str, Any]


def find_targets(runs: Runs) -> list[IsoflopMinimum]:
    """Return the minima of the isoFLOP curves with the most compute; [] without such curves."""
    try:
        curves = isoflop.fit_curves(runs, least=1)
    except UserError:
        return []
    minima = [m for m in isoflop.describe_minima(curves, runs) if not m.note]
    largest = max((m.flops for m in minima), default=0.0)
    return [m for m in minima if m.flops > TOP_SHARE * largest]


def forecast_optima(fitted: Runs, flops: list[float]) -> dict[str, list[Row]]:
    """Return params, params_low and params_high at each budget, by method; [] if it has none."""
    budgets = tuple(flops)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    made: dict[str, list[Row]] = {method: [] for method in METHODS}
    posterior = forecast.fit_forecaster(fitted, 'auto', draws=0, seed=0).posterior
    assert posterior is not None
    drawn = posterior_split.draw_optima(posterior, fit_cost(fitted), budgets)
    low, high = np.quantile(drawn.params, [tail, 1 - tail], axis=0)
    made['auto'] = [
        {'params': float(n), 'params_low': float(a), 'params_high': float(b)}
        for n, a, b in zip(drawn.median, low, high, strict=True)
    ]
    runs, delta, _ = outliers.clean_runs('chinchilla', fitted)
    law = parametric_fit.fit_parametric_law(
        'chinchilla', parametric_fit.to_log_data(runs), delta=delta, tries=STARTS
    )
    refitted = refits.draw_refits(runs, law, DRAWS, 0)
    results, _ = approaches.compare_approaches(
        runs, law, refitted.constants, refitted.words, budgets, ('2', '3'), 0
    )
    for number, result in results.items():
        if result['note']:
            print(f'  approach {number}: {result["note"]}', file=sys.stderr)
        made[number] = result.get('at', [])
    return made


def measure_files(paths: list[str]) -> list[Row]:
    """Return every forecast of every file."""
    rows = []
    for path in paths:
        runs = read_runs(path)
        targets = find_targets(runs)
        print(f'{path}: {len(targets)} targets', file=sys.stderr)
        largest = max((target.flops for target in targets), default=0.0)
        for factor in FACTORS:
            fitted = runs.take(runs.flops <= BUDGET_TOLERANCE * largest / factor)
            if len(fitted) < MIN_RUNS:
                continue
            try:
                made = forecast_optima(fitted, [target.flops for target in targets])
            except UserError as reason:
                print(f'{path}: f = {factor}: {reason}', file=sys.stderr)
                continue
            for method, points in made.items():
                for target, point in zip(targets, points or [{}] * len(targets), strict=True):
                    rows.append(
                        {
                            'set': Path(path).stem,
                            'method': method,
                            'factor': factor,
                            'runs': len(fitted),
                            'flops': target.flops,
                            'reached': target.params,
                            'reached_sd': target.spread,
                            'predicted': point.get('params'),
                            'low': point.get('params_low'),
                            'high': point.get('params_high'),
                        }
                    )
    return rows


def has_interval(row: Row) -> bool:
    return row['low'] is not None


def is_inside(row: Row, sds: float) -> bool:
    """Whether the interval contains a size within `sds` standard deviations of the minimum."""
    reach = np.exp(sds * row['reached_sd'])
    return row['low'] <= row['reached'] * reach and row['high'] >= row['reached'] / reach


def summarize_group(rows: list[Row]) -> str:
    """Return the figures of some forecasts of one method."""
    predicted = [row for row in rows if row['predicted'] is not None]
    if not predicted:
        return ''
    ratios = np.array([row['predicted'] / row['reached'] for row in predicted])
    error = np.exp(np.median(np.abs(np.log(ratios))))
    text = f'{np.median(ratios):.2f}, off by {error:.2f}x'
    given = [row for row in rows if has_interval(row)]
    if not given:
        return f'{text}, no interval'
    strict, allowed = (sum(is_inside(row, sds) for row in given) for sds in (0, 2))
    width = np.median([row['high'] / row['low'] for row in given])
    return f'{text}, {strict} ({allowed}) of {len(given)}, {width:.1f}x wide'


def print_tables(rows: list[Row]) -> None:
    """Print a line per set for law auto, and a line per method over all sets."""
    head = '| f = 10 | f = 30 | f = 100 |'
    print(f'| set, law auto {head}\n| --- | --- | --- | --- |')
    for name in dict.fromkeys(row['set'] for row in rows):
        own = [row for row in rows if row['set'] == name and row['method'] == 'auto']
        print(f'| {name} | {" | ".join(_list_cells(own))} |')
    print(f'\n| all sets {head[:-1]}| all f |\n| --- | --- | --- | --- | --- |')
    for method, label in METHODS.items():
        own = [row for row in rows if row['method'] == method]
        print(f'| {label} | {" | ".join([*_list_cells(own), summarize_group(own)])} |')


def _list_cells(rows: list[Row]) -> list[str]:
    return [summarize_group([row for row in rows if row['factor'] == f]) for f in FACTORS]


def draw_figure(rows: list[Row], path: Path) -> list[Path]:
    """Draw forecast over measured N*, with intervals, a panel per method."""
    names = list(dict.fromkeys(row['set'] for row in rows))
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(9.0, 0.34 * len(names) + 1.5), layout='constrained')
        panels = figure.subplots(1, len(METHODS), sharey=True, sharex=True)
        for axes, (method, label) in zip(panels, METHODS.items(), strict=True):
            for factor, color in COLORS.items():
                own = [
                    row
                    for row in rows
                    if (row['method'], row['factor']) == (method, factor)
                    and row['predicted'] is not None
                ]
                y = np.array([_place(row, names, own) for row in own])
                reached = np.array([row['reached'] for row in own])
                low, high = (
                    np.array([row[end] or np.nan for row in own]) / reached
                    for end in ('low', 'high')
                )
                axes.hlines(y, low, high, color=color, alpha=0.5, lw=1)
                predicted = np.array([row['predicted'] for row in own])
                axes.plot(predicted / reached, y, 'o', ms=2.4, color=color, label=f'f = {factor}')
            axes.axvline(1, color='black', lw=0.8)
            axes.set_xscale('log')
            axes.set_xlim(*XLIM)
            axes.set_title(label, fontsize=9)
            axes.grid(alpha=0.25, lw=0.5)
        panels[0].set_yticks(range(len(names), 0, -1), names, fontsize=7.5)
        panels[0].legend(frameon=False, fontsize=7)
        panels[1].set_xlabel('forecast over measured N*, and 95% interval')
        figure.suptitle(
            'Compute-optimal size of the largest budgets, from runs with 1/f of the compute',
            fontsize=10,
            fontweight='bold',
        )
        return save_figure(figure, path)


def _place(row: Row, names: list[str], own: list[Row]) -> float:
    """Return the height of a target: by set, factor, and place among the set's targets."""
    group = [other['flops'] for other in own if other['set'] == row['set']]
    within = group.index(row['flops']) / max(len(group), 1)
    return (
        len(names)
        - names.index(row['set'])
        + 0.36
        - 0.27 * FACTORS.index(row['factor'])
        - (0.22 * within)
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='*', metavar='FILE.csv', help='sets of runs')
    parser.add_argument(
        '--output', default=str(HERE / 'optimal_size.jsonl'), metavar='PATH', help='every forecast'
    )
    flags = parser.parse_args()
    output = Path(flags.output)
    if flags.files:
        files.write_jsonl(output, measure_files(flags.files))
    results = files.read_jsonl(output)
    print_tables(results)
    for figure_path in draw_figure(results, output.with_name('optimal_size.png')):
        print(figure_path)
