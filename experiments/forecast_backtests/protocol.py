"""Forecasts of real runs: fit those with little compute, predict those with the most.

python experiments/forecast_backtests/protocol.py FILE.csv ... --output=results.jsonl
python experiments/forecast_backtests/protocol.py FILE.csv ... --peer_python=PATH
python experiments/forecast_backtests/protocol.py                     draws the committed results

Each file is one set of runs, with the columns params, tokens, loss and flops. For f = 10, 30 and
100, the runs with FLOPs up to Cmax / f are fitted, and those from Cmax / 1.6 are forecast (at most
12, drawn with seed 0). Sets with fewer than 6 runs to fit are left out. Prints the median absolute
error, the intervals that contain the loss, their mean width and the mean interval score (the width
plus 40 times the distance of a loss outside), in percent of the loss; --output receives every
forecast, and the figure forecast_backtests.png beside it.

With --peer_python, the forecasts of simple-scaling-laws (experiments/forecast_coverage/peer.py) are
made for the same fits and targets; they replace those in --output, and the others are kept.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.forecast_coverage import simulate
from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rollouts
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    MEASURED_COLOR,
    RC_PARAMS,
    save_figure,
)
from gpt_jax.scaling.rollouts import Rollout
from gpt_jax.scaling.runs import Runs, read_runs

HERE = Path(__file__).parent
FACTORS = (10, 30, 100)
NEAR_LARGEST, MAX_TARGETS, MIN_RUNS = 1.6, 12, 6
LAWS = ('auto', 'chinchilla')
PEER = simulate.PEER
Row = dict[str, Any]


def split_runs(runs: Runs, factor: int) -> tuple[Runs, np.ndarray]:
    """Return the runs to fit, none of which has more than 1/factor of the compute, and the targets.

    Without MIN_RUNS to fit, both are empty.
    """
    largest = runs.flops.max()
    fitted = runs.take(runs.flops <= largest / factor)
    targets = np.flatnonzero(runs.flops >= largest / NEAR_LARGEST)
    if len(targets) > MAX_TARGETS:
        targets = np.sort(np.random.default_rng(0).choice(targets, MAX_TARGETS, replace=False))
    if len(fitted) < MIN_RUNS:
        return runs.take(np.zeros(len(runs), bool)), targets[:0]
    return fitted, targets


def forecast_set(runs: Runs, law: str, factor: int) -> list[Rollout]:
    """Forecast the largest runs of a set from those with at most 1/factor of their compute."""
    fitted, targets = split_runs(runs, factor)
    if not len(targets):
        return []
    forecast = rollouts.make_forecast(fitted, law, seed=0)
    origin = float(fitted.flops.max())
    return [rollouts.roll_out(runs, int(i), law, factor, origin, forecast) for i in targets]


def measure_files(paths: list[str]) -> list[Row]:
    """Return every forecast of every file."""
    rows = []
    for path in paths:
        runs = read_runs(path)
        for law in LAWS:
            for factor in FACTORS:
                try:
                    made = forecast_set(runs, law, factor)
                except UserError as reason:
                    print(f'{path}: {law}, f = {factor}: {reason}', file=sys.stderr)
                    continue
                rows += [{'set': Path(path).stem, **rollout._asdict()} for rollout in made]
        print(path, file=sys.stderr)
    return rows


def measure_peer(paths: list[str], python: str) -> list[Row]:
    """Return every forecast of every file by simple-scaling-laws, with the median of its draws."""
    rows = []
    for path in paths:
        runs = read_runs(path)
        for factor in FACTORS:
            fitted, indices = split_runs(runs, factor)
            if not len(indices):
                continue
            question = {
                'columns': {
                    name: getattr(fitted, name).tolist() for name in ('params', 'tokens', 'loss')
                },
                'targets': np.stack([runs.params, runs.tokens], axis=1)[indices].tolist(),
                'flops': None,
                'over': 'N and D',
                'is_isoflop': False,
            }
            (answer,) = simulate.ask_peer(python, [question], f'--draws={rollouts.DRAWS}')
            if 'error' in answer:
                print(f'{path}: {PEER}, f = {factor}: {answer["error"]}', file=sys.stderr)
                continue
            origin = float(fitted.flops.max())
            for i, (low, high, loss) in zip(indices, answer['forecasts'], strict=True):
                made = rollouts.roll_out(
                    runs,
                    int(i),
                    PEER,
                    factor,
                    origin,
                    lambda *_, found=(loss, low, high), **__: found,
                )
                rows.append({'set': Path(path).stem, **made._asdict()})
        print(path, file=sys.stderr)
    return rows


def to_rollouts(rows: list[Row]) -> list[Rollout]:
    return [Rollout(*(row[name] for name in Rollout._fields)) for row in rows]


def print_tables(rows: list[Row]) -> None:
    """Print a line per set, law and factor, and the figures over all sets."""
    for law in dict.fromkeys(row['law'] for row in rows):
        own = [row for row in rows if row['law'] == law]
        print(f'\n| {law} | f = 10 | f = 30 | f = 100 |\n| --- | --- | --- | --- |')
        for name in dict.fromkeys(row['set'] for row in own):
            scores = rollouts.summarize_rollouts(
                to_rollouts([row for row in own if row['set'] == name])
            )
            cells = {score['factor']: _format_score(score) for score in scores}
            print(f'| {name} | ' + ' | '.join(cells.get(f, '') for f in FACTORS) + ' |')
        print(describe_all(own))


def _format_score(score: Row) -> str:
    return (
        f'{score["median_percent"]:.1f}%, {score["inside"]}/{score["rollouts"]}, '
        f'{score["width_percent"]:.0f}% wide'
    )


def describe_all(rows: list[Row]) -> str:
    """Return the figures over all sets of one law."""
    summary = rollouts.summarize_rollouts(
        [rollout._replace(factor=0) for rollout in to_rollouts(rows)]
    )[0]
    medians = [
        rollouts.summarize_rollouts(to_rollouts(group))[0]['median_percent']
        for name in dict.fromkeys(row['set'] for row in rows)
        if (group := [row for row in rows if row['set'] == name and row['factor'] == 10])
    ]
    return (
        f'{summary["inside"]} of {summary["rollouts"]} inside '
        f'({100 * summary["inside"] / summary["rollouts"]:.0f}%), '
        f'{summary["width_percent"]:.1f}% wide on average, mean interval score '
        f'{summary["score_percent"]:.1f}%; at f = 10, median error over the sets '
        f'{np.median(medians):.2f}%, worst set {max(medians):.1f}%'
    )


def draw_figure(rows: list[Row], path: Path) -> list[Path]:
    """Draw the error and the intervals of every forecast at f = 10, by set."""
    names = list(dict.fromkeys(row['set'] for row in rows))
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(7.6, 0.24 * len(names) + 1.4), layout='constrained')
        axes = figure.subplots()
        for law, offset, color in (
            ('auto', 0.16, MEASURED_COLOR),
            ('chinchilla', -0.16, HELD_OUT_COLOR),
        ):
            own = [row for row in rows if row['law'] == law and row['factor'] == 10]
            y = np.array([len(names) - names.index(row['set']) for row in own]) + offset
            columns = ('predicted', 'low', 'high', 'reached')
            predicted, low, high, reached = (
                np.array([row[column] for row in own]) for column in columns
            )
            axes.hlines(
                y, 100 * (low / reached - 1), 100 * (high / reached - 1), color=color, alpha=0.45
            )
            axes.plot(
                100 * (predicted / reached - 1), y, 'o', ms=2.6, color=color, label=f'law {law}'
            )
        axes.axvline(0, color='black', lw=0.8)
        axes.set_yticks(range(len(names), 0, -1), names, fontsize=7.5)
        axes.set_xlabel('forecast over measured loss - 1, and 95% interval (%)')
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False, loc='lower right')
        figure.suptitle(
            'Forecasts of the largest runs from those with a tenth of the compute',
            fontsize=10,
            fontweight='bold',
        )
        return save_figure(figure, path)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('files', nargs='*', metavar='FILE.csv', help='sets of runs')
    parser.add_argument(
        '--output', default=str(HERE / 'results.jsonl'), metavar='PATH', help='every forecast'
    )
    parser.add_argument('--peer_python', default='', metavar='PATH', help='has simple-scaling-laws')
    flags = parser.parse_args()
    output = Path(flags.output)
    if flags.files and flags.peer_python:
        kept = [row for row in files.read_jsonl(output) if row['law'] != PEER]
        files.write_jsonl(output, kept + measure_peer(flags.files, flags.peer_python))
    elif flags.files:
        files.write_jsonl(output, measure_files(flags.files))
    results = files.read_jsonl(output)
    print_tables(results)
    for figure_path in draw_figure(results, output.with_name('forecast_backtests.png')):
        print(figure_path)
