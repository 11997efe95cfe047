"""What does pre-training give a task, by the model's size, and what do adapters leave of it? The table and the figure.

python experiments/finetuning/draw.py experiments/finetuning/records.jsonl

Writes finetuning.json and finetuning.png, .svg beside this file. Gains are differences between runs of one size and
seed; their intervals are 95% of Student's t over all sizes and seeds of a task.
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

from gpt_jax import files, jsonl
from gpt_jax.scaling.view.plots import HELD_OUT, LAW, QUIET, STYLE, save

HERE = Path(__file__).parent
WAYS = {
    'scratch': (QUIET, 'from scratch'),
    'full': (HELD_OUT, 'pre-trained, all weights'),
    'adapters': (LAW, 'pre-trained, adapters alone'),
}
NAME = re.compile(r'(?P<task>\w+)-(?P<way>\w+)-(?P<size>\d+x\d+)-seed(?P<seed>\d+)')
METRICS = ('validation_entity_f1', 'validation_chrf', 'validation_accuracy')  # the first that a task has
Runs = Mapping[tuple[str, str, str, int], dict[str, Any]]  # by task, way, size and seed


def read(path: str) -> Runs:
    runs = {}
    for record in jsonl.read(path):
        match = NAME.fullmatch(record['name'])
        if match and record['status'] == 'done':
            runs[match['task'], match['way'], match['size'], int(match['seed'])] = record
    return runs


def metric(runs: Runs, task: str) -> str:
    one = next(record for key, record in runs.items() if key[0] == task)
    return next(name for name in METRICS if name in one)


def gains(runs: Runs, task: str, way: str, over: str, column: str) -> dict[str, Any]:
    """How much better one way is than another: 'mean', 'low', 'high' over pairs of one size and seed, and 'by_size'."""
    by_size: dict[str, list[float]] = {}
    for (of, one, size, seed), record in runs.items():
        other = runs.get((task, over, size, seed))
        if of == task and one == way and other is not None:
            by_size.setdefault(size, []).append(record[column] - other[column])
    every = np.array([gain for some in by_size.values() for gain in some])
    half = stats.t.ppf(0.975, len(every) - 1) * every.std(ddof=1) / np.sqrt(len(every))
    return {
        'pairs': len(every), 'mean': float(every.mean()), 'low': float(every.mean() - half),
        'high': float(every.mean() + half), 'wins': int(np.sum(every > 0)),
        'by_size': {size: float(np.mean(some)) for size, some in by_size.items()},
    }  # fmt: skip


def main(path: str) -> None:
    runs = read(path)
    tasks = list(dict.fromkeys(task for task, *_ in runs))
    found = {}
    for task in tasks:
        column = metric(runs, task)
        found[task] = {
            'metric': column.removeprefix('validation_'),
            'full over scratch': gains(runs, task, 'full', 'scratch', column),
            'adapters over full': gains(runs, task, 'adapters', 'full', column),
            'loss, full over scratch': gains(runs, task, 'full', 'scratch', 'validation_loss'),
        }
    files.write_json(HERE / 'finetuning.json', found)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(tasks), 5.2), layout='constrained')
        top, bottom = figure.subplots(2, len(tasks), squeeze=False, sharex=True)
        for axes, below, task in zip(top, bottom, tasks, strict=True):
            _scores(axes, runs, task)
            _over_scratch(below, runs, task)
        bottom[0].set_ylabel('over the twin from scratch')
        figure.legend(*top[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False)
        figure.suptitle('What pre-training gives a task, by size', fontsize=10, fontweight='bold')
    print(*save(figure, HERE / 'finetuning.png'), sep='\n')
    for task, said in found.items():
        for name in ('full over scratch', 'adapters over full'):
            one = said[name]
            print(f'{task}: {said["metric"]}, {name}: {one["mean"]:+.3f} ({one["low"]:+.3f} to {one["high"]:+.3f}), '
                  f'better in {one["wins"]} of {one["pairs"]} pairs')  # fmt: skip


def _scores(axes: Any, runs: Runs, task: str) -> None:
    column = metric(runs, task)
    for way in WAYS:
        _draw(axes, way, [(record['params_non_embedding'], record[column])
                          for (of, one, _, _), record in runs.items() if (of, one) == (task, way)])  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_title(f'{task}: {_name(column)}', fontsize=9)


def _over_scratch(axes: Any, runs: Runs, task: str) -> None:
    column = metric(runs, task)
    axes.axhline(0, color=QUIET, linewidth=1)
    for way in ('full', 'adapters'):
        _draw(axes, way, [(record['params_non_embedding'], record[column] - runs[of, 'scratch', size, seed][column])
                          for (of, one, size, seed), record in runs.items()
                          if (of, one) == (task, way) and (of, 'scratch', size, seed) in runs])  # fmt: skip
    axes.set_xlabel('non-embedding parameters')


def _draw(axes: Any, way: str, points: list[tuple[int, float]]) -> None:
    """A point for each seed, and a line through the means."""
    color, label = WAYS[way]
    sizes = sorted({size for size, _ in points})
    means = [np.mean([value for of, value in points if of == size]) for size in sizes]
    axes.plot(sizes, means, color=color, linewidth=1.2, label=label)
    axes.plot(*zip(*points, strict=True), 'o', color=color, markersize=3)
    axes.set_xscale('log')


def _name(column: str) -> str:
    return {'entity_f1': 'entity F1', 'chrf': 'chrF'}.get(column.removeprefix('validation_'), 'accuracy')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('records', help='records.jsonl of the sweep')
    main(parser.parse_args().records)
