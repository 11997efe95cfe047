"""Table and figure of the gain from pre-training by model size, for all weights and adapters.

python experiments/finetuning/draw.py experiments/finetuning/records.jsonl

Writes finetuning.json, finetuning.png and .svg in this folder. Gains are differences between runs
of one size and seed, with 95% intervals of Student's t over all sizes and seeds of a task.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from gpt_jax.core import files
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    LAW_COLOR,
    MUTED_COLOR,
    RC_PARAMS,
    save_figure,
)

HERE = Path(__file__).parent
METHODS = {
    'scratch': (MUTED_COLOR, 'from scratch'),
    'full': (HELD_OUT_COLOR, 'pre-trained, all weights'),
    'adapters': (LAW_COLOR, 'pre-trained, adapters alone'),
}
NAME = re.compile(r'(?P<task>\w+)-(?P<method>\w+)-(?P<size>\d+x\d+)-seed(?P<seed>\d+)')
# A task is scored by the first of these that its records have.
METRICS = ('validation_entity_f1', 'validation_chrf', 'validation_accuracy')
Runs = Mapping[tuple[str, str, str, int], dict[str, Any]]  # by task, method, size and seed


def read_runs(path: str) -> Runs:
    runs = {}
    for record in files.read_jsonl(path):
        match = NAME.fullmatch(record['name'])
        if match and record['status'] == 'done':
            runs[match['task'], match['method'], match['size'], int(match['seed'])] = record
    return runs


def find_metric(runs: Runs, task: str) -> str:
    first = next(record for key, record in runs.items() if key[0] == task)
    return next(name for name in METRICS if name in first)


def compute_gains(runs: Runs, task: str, method: str, baseline: str, column: str) -> dict[str, Any]:
    """Compare a method with a baseline over the pairs of runs of one size and seed.

    Returns:
      'mean' difference with its 95% interval 'low' to 'high', the number of 'pairs' and of 'wins',
      and the mean 'by_size'.
    """
    by_size: dict[str, list[float]] = {}
    for (run_task, run_method, size, seed), record in runs.items():
        other = runs.get((task, baseline, size, seed))
        if (run_task, run_method) == (task, method) and other is not None:
            by_size.setdefault(size, []).append(record[column] - other[column])
    gains = np.array([gain for group in by_size.values() for gain in group])
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return {
        'pairs': len(gains),
        'mean': float(gains.mean()),
        'low': float(gains.mean() - half),
        'high': float(gains.mean() + half),
        'wins': int(np.sum(gains > 0)),
        'by_size': {size: float(np.mean(group)) for size, group in by_size.items()},
    }


def main(path: str) -> None:
    runs = read_runs(path)
    tasks = list(dict.fromkeys(task for task, *_ in runs))
    results = {}
    for task in tasks:
        column = find_metric(runs, task)
        results[task] = {
            'metric': column.removeprefix('validation_'),
            'full over scratch': compute_gains(runs, task, 'full', 'scratch', column),
            'adapters over full': compute_gains(runs, task, 'adapters', 'full', column),
            'loss, full over scratch': compute_gains(
                runs, task, 'full', 'scratch', 'validation_loss'
            ),
        }
    files.write_json(HERE / 'finetuning.json', results)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(3.2 * len(tasks), 5.2), layout='constrained')
        top, bottom = figure.subplots(2, len(tasks), squeeze=False, sharex=True)
        for axes, below, task in zip(top, bottom, tasks, strict=True):
            _plot_scores(axes, runs, task)
            _plot_gains(below, runs, task)
        bottom[0].set_ylabel('over the twin from scratch')
        figure.legend(
            *top[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False
        )
        figure.suptitle('What pre-training gives a task, by size', fontsize=10, fontweight='bold')
    print(*save_figure(figure, HERE / 'finetuning.png'), sep='\n')
    for task, result in results.items():
        for name in ('full over scratch', 'adapters over full'):
            gain = result[name]
            interval = f'{gain["low"]:+.3f} to {gain["high"]:+.3f}'
            print(
                f'{task}: {result["metric"]}, {name}: {gain["mean"]:+.3f} ({interval}), '
                f'better in {gain["wins"]} of {gain["pairs"]} pairs'
            )


def _plot_scores(axes: Any, runs: Runs, task: str) -> None:
    column = find_metric(runs, task)
    for method in METHODS:
        _plot_method(
            axes,
            method,
            [
                (record['params_non_embedding'], record[column])
                for (run_task, run_method, _, _), record in runs.items()
                if (run_task, run_method) == (task, method)
            ],
        )
    axes.set_ylim(bottom=0)
    axes.set_title(f'{task}: {_format_metric(column)}', fontsize=9)


def _plot_gains(axes: Any, runs: Runs, task: str) -> None:
    column = find_metric(runs, task)
    axes.axhline(0, color=MUTED_COLOR, linewidth=1)
    for method in ('full', 'adapters'):
        _plot_method(
            axes,
            method,
            [
                (
                    record['params_non_embedding'],
                    record[column] - runs[task, 'scratch', size, seed][column],
                )
                for (run_task, run_method, size, seed), record in runs.items()
                if (run_task, run_method) == (task, method)
                and (task, 'scratch', size, seed) in runs
            ],
        )
    axes.set_xlabel('non-embedding parameters')


def _plot_method(axes: Any, method: str, points: list[tuple[int, float]]) -> None:
    """Plot a point for each seed, and a line through the means."""
    color, label = METHODS[method]
    sizes = sorted({size for size, _ in points})
    means = [np.mean([value for params, value in points if params == size]) for size in sizes]
    axes.plot(sizes, means, color=color, linewidth=1.2, label=label)
    axes.plot(*zip(*points, strict=True), 'o', color=color, markersize=3)
    axes.set_xscale('log')


def _format_metric(column: str) -> str:
    return {'entity_f1': 'entity F1', 'chrf': 'chrF'}.get(
        column.removeprefix('validation_'), 'accuracy'
    )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('records', help='records.jsonl of the sweep')
    main(parser.parse_args().records)
