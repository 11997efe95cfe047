"""What do larger models make of a task that they are trained on? Of a sweep over sizes, a panel for each task."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.scaling.view.plots import HELD_OUT, LABELS, LAW, QUIET, STYLE, save

WAYS = {'from scratch': QUIET, 'all weights': HELD_OUT, 'adapters alone': LAW}
BEGINS = 'validation_'
GENERAL = ('loss', 'accuracy')  # shown where a task has no score of its own
ROWS = 2  # from four tasks on


def figure(records: list[dict[str, Any]], size: str, path: Path) -> list[Path]:
    """Draws the scores of the runs that learned a task; returns the files, none where there are no two sizes of one.

    Args:
      size: the column of the records' size.
    """
    tasks: dict[str, list[dict[str, Any]]] = {}
    for one in records:
        if one['status'] == 'done' and one.get('task', 'none') != 'none' and isinstance(one.get(size), int | float):
            tasks.setdefault(str(one.get('task_source') or one['task']), []).append(one)
    tasks = {task: some for task, some in tasks.items() if len({one[size] for one in some}) > 1}
    if not tasks:
        return []
    rows = ROWS if len(tasks) > 3 else 1
    columns = -(-len(tasks) // rows)
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(max(4.8, 3.2 * columns), 3 * rows + 0.5), layout='constrained')
        panels = list(made.subplots(rows, columns, squeeze=False).flat)
        for axes, (task, some) in zip(panels, tasks.items(), strict=False):
            _panel(axes, task, some, size)
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        made.suptitle('Tasks by size', fontsize=10, fontweight='bold')
    return save(made, path)


def _panel(axes: Axes, task: str, some: list[dict[str, Any]], size: str) -> None:
    score = _score(some)
    for way, color in WAYS.items():
        points = [(float(one[size]), float(one[score])) for one in some if _way(one) == way]
        sizes = sorted({at for at, _ in points})
        if points:
            means = [np.mean([value for at, value in points if at == one]) for one in sizes]
            axes.plot(sizes, means, color=color, linewidth=1.2, label=way)
            axes.plot(*zip(*points, strict=True), 'o', color=color, markersize=3)
    axes.set_xscale('log')
    axes.set_xlabel(LABELS.get(size, size))
    axes.set_title(f'{task}: {score.removeprefix(BEGINS).replace("_", " ")}', fontsize=9)
    axes.legend(frameon=False, fontsize=7)


def _way(one: dict[str, Any]) -> str:
    """What the run began with and learned; part of the weights counts as all of them."""
    if not one.get('init_from'):
        return 'from scratch'
    return 'adapters alone' if one.get('tune_rank') else 'all weights'


def _score(some: list[dict[str, Any]]) -> str:
    """The first of the task's own scores that all runs have; failing that, accuracy, or loss."""
    shared = [name for name in some[0] if name.startswith(BEGINS) and all(_number(one.get(name)) for one in some)]
    names = [name.removeprefix(BEGINS) for name in shared if not name.startswith(f'{BEGINS}examples')]
    own = [name for name in names if name not in GENERAL]
    return BEGINS + next(iter(own or [name for name in reversed(GENERAL) if name in names]))


def _number(value: Any) -> bool:
    return isinstance(value, int | float)
