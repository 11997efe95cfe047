"""Figure of a backtest: the errors of past forecasts, by extrapolation, law and baseline."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    LAW_COLOR,
    MEASURED_COLOR,
    MUTED_COLOR,
    RC_PARAMS,
    save_figure,
)
from gpt_jax.scaling.report.fit_figures import ReportFigure
from gpt_jax.scaling.rollouts import BASELINES, FACTORS, Rollout

COLORS = (MEASURED_COLOR, HELD_OUT_COLOR, LAW_COLOR, '#8e44ad', '#e67e22', '#27ae60')
SPREAD = 0.7  # width of the rollouts of one factor, in steps between factors
SHOWN = 0.98  # share of the errors within the range of the axis, which a wild one would take


def make_rollouts_figure(rollouts: Sequence[Rollout], *, narrow: bool = False) -> ReportFigure:
    """Return the figure: a panel per law and baseline, with errors and 95% intervals.

    Args:
      rollouts: of `rollouts.run_backtest`.
      narrow: make the figure for narrow screens, with stacked panels.
    """
    laws = list(dict.fromkeys(rollout.law for rollout in rollouts))
    factors = [factor for factor in FACTORS if any(r.factor == factor for r in rollouts)]
    size = (3.8, 1.7 * len(laws) + 0.6) if narrow else (max(5.6, 2.1 * len(laws)), 3.2)
    shape = (len(laws), 1) if narrow else (1, len(laws))
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=size, layout='constrained')
        panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
        for index, (axes, law) in enumerate(zip(panels, laws, strict=True)):
            color = MUTED_COLOR if law in BASELINES else COLORS[index % len(COLORS)]
            _draw_law(axes, [r for r in rollouts if r.law == law], factors, color)
            axes.set_title(law, fontsize=9, color=color, fontweight='bold')
        errors = [100 * (r.predicted / r.reached - 1) for r in rollouts]
        reach = 1.15 * float(np.quantile(np.abs(errors), SHOWN))
        panels[0].set_ylim(-max(reach, 0.5), max(reach, 0.5))
        panels[0].set_xticks(range(len(factors)), [f'{factor}x' for factor in factors])
        figure.supxlabel('compute of the run over that of the largest fitted run', fontsize=8.5)
        figure.supylabel('forecast over measured loss - 1 (%)', fontsize=8.5)
        figure.suptitle(
            'What forecasts from the smaller runs would have been', fontsize=10, fontweight='bold'
        )
    return ReportFigure('rollouts', figure, [])


def _draw_law(axes: Axes, rollouts: Sequence[Rollout], factors: Sequence[int], color: str) -> None:
    """Draw the errors and intervals of one law, and how many intervals hold at each factor."""
    axes.axhline(0, color='black', lw=0.7)
    for place, factor in enumerate(factors):
        group = [rollout for rollout in rollouts if rollout.factor == factor]
        if not group:
            continue
        offsets = np.linspace(-0.5, 0.5, len(group) + 2)[1:-1] * SPREAD
        reached, predicted, low, high = np.array(
            [(r.reached, r.predicted, r.low, r.high) for r in group]
        ).T
        axes.vlines(
            place + offsets,
            100 * (low / reached - 1),
            100 * (high / reached - 1),
            color=color,
            alpha=0.35,
            lw=1.0,
        )
        axes.plot(place + offsets, 100 * (predicted / reached - 1), '.', color=color, ms=3)
        if np.isfinite(low).any():
            inside = int(((low <= reached) & (reached <= high)).sum())
            axes.annotate(
                f'{inside}/{len(group)}',
                (place, 0.985),
                xycoords=('data', 'axes fraction'),
                ha='center',
                va='top',
                fontsize=7,
                color=color,
                bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8, 'pad': 0.8},
            )
    axes.grid(alpha=0.25, lw=0.5, axis='y')


def draw_rollouts(rollouts: Sequence[Rollout], folder: str) -> list[Path]:
    """Draw the figure into a folder; return the files."""
    drawing = make_rollouts_figure(rollouts)
    return save_figure(drawing.figure, Path(folder) / f'{drawing.name}.png')
