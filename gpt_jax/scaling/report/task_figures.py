"""Figures of task results over model size: tasks of the suite, and fine-tuning."""

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import downstream, rows
from gpt_jax.scaling.report.figure_style import (
    COLUMN_LABELS,
    HELD_OUT_COLOR,
    LAW_COLOR,
    MEASURED_COLOR,
    MUTED_COLOR,
    RC_PARAMS,
    save_figure,
)

Records = list[dict[str, Any]]

SUITE_COLUMN = re.compile(r'suite_(?P<task>.+)_(?P<score>accuracy|exact|loss|chance)')
TASK_COLORS = (
    '#1f3b5c',
    '#c0392b',
    '#27ae60',
    '#e67e22',
    '#8e44ad',
    '#16a085',
    '#7f8c8d',
    '#b7950b',
)
TASK_MARKERS = 'os^Dvp*X'


def draw_task_gains(records: Records, size_column: str, loss_column: str, path: Path) -> list[Path]:
    """Draw the suite's scores, the losses of its answers, and the law of error over loss.

    The accuracy may jump where the loss of the same answers falls smoothly (Schaeffer et al. 2023),
    so both are drawn.

    Args:
      records: records of finished runs with suite results.
      size_column, loss_column: the columns of the size and the validation loss.
      path: path of the figure.

    Returns:
      The files; empty if the runs have no suite results, or one size.
    """
    records, _ = rows.split_fittable(records, [size_column, loss_column])
    scores = _find_scores(records)
    if not scores or len({record[size_column] for record in records}) < 2:
        return []
    records.sort(key=lambda record: float(record[size_column]))
    x = np.array(rows.get_column(records, size_column), float)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(9.6, 3.5), layout='constrained')
        score_axes, loss_axes, law_axes = figure.subplots(1, 3)
        for number, (task, columns) in enumerate(scores.items()):
            color = TASK_COLORS[number % len(TASK_COLORS)]
            style: Any = {
                'color': color,
                'marker': TASK_MARKERS[number % len(TASK_MARKERS)],
                'markersize': 4,
                'linewidth': 1,
                'label': task,
            }
            column = columns.get('accuracy', columns.get('exact'))
            if column:
                score_axes.plot(x, rows.get_column(records, column), **style)
            if 'chance' in columns:
                chance = records[0][columns['chance']]
                score_axes.axhline(chance, color=color, linewidth=0.7, linestyle=':')
            if 'loss' in columns:
                losses = rows.get_column(records, columns['loss'])
                loss_axes.plot(x, [loss / losses[0] for loss in losses], **style)
        _set_size_axis(score_axes, 'share correct (dotted: by chance)', size_column)
        _set_size_axis(loss_axes, "loss of the answers, over the smallest model's", size_column)
        score_axes.legend(frameon=False, fontsize=7)
        _draw_error_law(law_axes, records, loss_column)
        figure.suptitle('Task scores by model size', fontsize=10, fontweight='bold')
    return save_figure(figure, path)


def _find_scores(records: Records) -> dict[str, dict[str, str]]:
    """Return columns by task and score, if all records have them."""
    scores: dict[str, dict[str, str]] = {}
    for name in records[0] if records else ():
        match = SUITE_COLUMN.fullmatch(name)
        if match and all(_is_number(record.get(name)) for record in records):
            scores.setdefault(match['task'], {})[match['score']] = name
    return scores


def _set_size_axis(axes: Axes, title: str, size_column: str) -> None:
    axes.set_xscale('log')
    axes.set_xlabel(COLUMN_LABELS.get(size_column, size_column))
    axes.set_title(title, fontsize=8)


def _draw_error_law(axes: Axes, records: Records, loss_column: str) -> None:
    records = [record for record in records if _is_number(record.get('downstream_error'))]
    x = np.array([record[loss_column] for record in records], float)
    error = np.array([record['downstream_error'] for record in records], float)
    axes.plot(x, error, 'o', color=MEASURED_COLOR, markersize=4)
    try:
        eps, k, gamma = downstream.fit_constants(x, error)
        grid = np.linspace(x.min(), x.max(), 100)
        label = f'error = {eps:.3f} - {k:.3g} exp(-{gamma:.2f} loss)'
        axes.plot(grid, eps - k * np.exp(-gamma * grid), color=LAW_COLOR, label=label)
        axes.legend(frameon=False, fontsize=7)
    except UserError:
        style: Any = {'color': MUTED_COLOR, 'fontsize': 7, 'ha': 'center'}
        axes.text(0.5, 0.02, 'too few losses for a law', transform=axes.transAxes, **style)
    axes.set_xlabel(COLUMN_LABELS.get(loss_column, loss_column))
    axes.set_title('mean error of the tasks', fontsize=8)


INITIALIZATION_COLORS = {
    'from scratch': MUTED_COLOR,
    'all weights': HELD_OUT_COLOR,
    'adapters alone': LAW_COLOR,
}
VALIDATION_PREFIX = 'validation_'
GENERAL_SCORES = ('loss', 'accuracy')  # drawn if a task has no score of its own
MAX_TASKS_IN_ONE_ROW = 3


def draw_finetuning_gains(records: Records, size_column: str, path: Path) -> list[Path]:
    """Draw the scores of runs that were trained on a task, with one panel per task.

    Args:
      records: records of a sweep; only finished runs that were trained on a task are drawn.
      size_column: the column of the size.
      path: path of the figure.

    Returns:
      The files; empty if no task has runs of two sizes.
    """
    tasks: dict[str, Records] = {}
    for record in records:
        has_task = record['status'] == 'done' and record.get('task', 'none') != 'none'
        if has_task and _is_number(record.get(size_column)):
            name = str(record.get('task_source') or record['task'])
            tasks.setdefault(name, []).append(record)
    tasks = {
        name: runs
        for name, runs in tasks.items()
        if len({record[size_column] for record in runs}) > 1
    }
    if not tasks:
        return []
    row_count = 2 if len(tasks) > MAX_TASKS_IN_ONE_ROW else 1
    column_count = -(-len(tasks) // row_count)
    size = (max(4.8, 3.2 * column_count), 3 * row_count + 0.5)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=size, layout='constrained')
        panels = list(figure.subplots(row_count, column_count, squeeze=False).flat)
        for axes, (name, runs) in zip(panels, tasks.items(), strict=False):
            _draw_finetuned_task(axes, name, runs, size_column)
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        figure.suptitle('Scores of trained tasks by model size', fontsize=10, fontweight='bold')
    return save_figure(figure, path)


def _draw_finetuned_task(axes: Axes, task: str, runs: Records, size_column: str) -> None:
    """Draw a point per run, and a line through the means over seeds."""
    column = _choose_score(runs)
    for initialization, color in INITIALIZATION_COLORS.items():
        points = [
            (float(record[size_column]), float(record[column]))
            for record in runs
            if _describe_initialization(record) == initialization
        ]
        if points:
            sizes = sorted({size for size, _ in points})
            means = [np.mean([value for x, value in points if x == size]) for size in sizes]
            axes.plot(sizes, means, color=color, linewidth=1.2, label=initialization)
            axes.plot(*zip(*points, strict=True), 'o', color=color, markersize=3)
    axes.set_xscale('log')
    axes.set_xlabel(COLUMN_LABELS.get(size_column, size_column))
    score = column.removeprefix(VALIDATION_PREFIX).replace('_', ' ')
    axes.set_title(f'{task}: {score}', fontsize=9)
    axes.legend(frameon=False, fontsize=7)


def _describe_initialization(record: dict[str, Any]) -> str:
    """Return a key of INITIALIZATION_COLORS; training a part of the weights counts as all."""
    if not record.get('init_from'):
        return 'from scratch'
    return 'adapters alone' if record.get('tune_rank') else 'all weights'


def _choose_score(runs: Records) -> str:
    """Return the first task-specific score that all runs have, else accuracy, else loss."""
    names = [
        name.removeprefix(VALIDATION_PREFIX)
        for name in runs[0]
        if name.startswith(VALIDATION_PREFIX)
        and not name.startswith(f'{VALIDATION_PREFIX}examples')
        and all(_is_number(record.get(name)) for record in runs)
    ]
    specific = [name for name in names if name not in GENERAL_SCORES]
    general = [name for name in reversed(GENERAL_SCORES) if name in names]
    return VALIDATION_PREFIX + (specific or general)[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
