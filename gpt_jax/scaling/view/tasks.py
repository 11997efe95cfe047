"""What do tasks gain from size? Of a sweep whose runs were asked (config.suite): scores, losses, and the law of error.

An accuracy may leap where the loss of the same answers falls evenly (Schaeffer et al. 2023), so both are drawn.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.errors import UserError
from gpt_jax.scaling import downstream, records
from gpt_jax.scaling.view.plots import LABELS, LAW, MEASURED, QUIET, STYLE, save

COLUMN = re.compile(r'suite_(?P<task>.+)_(?P<score>accuracy|exact|loss|chance)')
COLORS = ('#1f3b5c', '#c0392b', '#27ae60', '#e67e22', '#8e44ad', '#16a085', '#7f8c8d', '#b7950b')
MARKS = 'os^Dvp*X'


def figure(done: list[dict[str, Any]], size: str, loss: str, path: Path) -> list[Path]:
    """Draws the tasks of the records; returns the files, none where the runs were not asked.

    Args:
      size, loss: the columns of the records' size and validation loss.
    """
    kept, _ = records.fittable(done, [size, loss])
    scores = _scores(kept)
    if not scores or len({one[size] for one in kept}) < 2:
        return []
    kept.sort(key=lambda one: float(one[size]))
    x = np.array(records.column(kept, size), float)
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(9.6, 3.5), layout='constrained')
        right, lost, law = made.subplots(1, 3)
        for number, (task, names) in enumerate(scores.items()):
            color, mark = COLORS[number % len(COLORS)], MARKS[number % len(MARKS)]
            style: Any = {'color': color, 'marker': mark, 'markersize': 4, 'linewidth': 1, 'label': task}
            share = names.get('accuracy', names.get('exact'))
            if share:
                right.plot(x, [one[share] for one in kept], **style)
            if 'chance' in names:
                right.axhline(kept[0][names['chance']], color=color, linewidth=0.7, linestyle=':')
            if 'loss' in names:
                first = kept[0][names['loss']]
                lost.plot(x, [one[names['loss']] / first for one in kept], **style)
        _dress(right, 'share that is right (dotted: by chance)', size)
        _dress(lost, "loss of the answers, over the smallest model's", size)
        right.legend(frameon=False, fontsize=7)
        _law(law, kept, loss)
        made.suptitle('What tasks gain from size', fontsize=10, fontweight='bold')
    return save(made, path)


def _scores(kept: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Columns by task and score, of those that all records have."""
    found: dict[str, dict[str, str]] = {}
    for name in kept[0] if kept else ():
        match = COLUMN.fullmatch(name)
        if match and all(isinstance(one.get(name), int | float) for one in kept):
            found.setdefault(match['task'], {})[match['score']] = name
    return found


def _dress(axes: Axes, label: str, size: str) -> None:
    axes.set_xscale('log')
    axes.set_xlabel(LABELS.get(size, size))
    axes.set_title(label, fontsize=8)


def _law(axes: Axes, kept: list[dict[str, Any]], loss: str) -> None:
    there = [one for one in kept if isinstance(one.get('downstream_error'), int | float)]
    x = np.array([one[loss] for one in there], float)
    error = np.array([one['downstream_error'] for one in there], float)
    axes.plot(x, error, 'o', color=MEASURED, markersize=4)
    try:
        eps, k, gamma = downstream.constants(x, error)
        along = np.linspace(x.min(), x.max(), 100)
        label = f'error = {eps:.3f} - {k:.3g} exp(-{gamma:.2f} loss)'
        axes.plot(along, eps - k * np.exp(-gamma * along), color=LAW, label=label)
        axes.legend(frameon=False, fontsize=7)
    except UserError:
        axes.text(0.5, 0.02, 'too few losses for a law', color=QUIET, fontsize=7, ha='center', transform=axes.transAxes)
    axes.set_xlabel(LABELS.get(loss, loss))
    axes.set_title('mean error of the tasks', fontsize=8)
