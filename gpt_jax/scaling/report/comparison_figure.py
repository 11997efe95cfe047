"""Figure of a comparison of recipes: their frontiers, the multipliers, and which is the best."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_jax.scaling.recipe_files import COST_UNITS
from gpt_jax.scaling.report.figure_style import (
    RC_PARAMS,
    save_figure,
    set_log_ticks,
    set_loss_ticks,
    set_ticks,
)

# Okabe and Ito's colors, which the color-blind can tell apart; the base is dark.
COLORS = ('#1f3b5c', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f8c8d')
FINE_TICKS = (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2)
COARSE_TICKS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
FINE_RANGE = 3.0  # of the axis, up to which ticks are fine


def draw_comparison(result: dict[str, Any], folder: str) -> list[Path]:
    """Draw a result of compare_recipes with `files` and `conventions` into a folder.

    Returns:
      The files.
    """
    with matplotlib.rc_context(RC_PARAMS):
        has_ranking = len(result['recipes']) > 2 and not result['no_interval']
        figure = Figure(figsize=(8.6, 4.6 if has_ranking else 3.8), layout='constrained')
        grid = figure.add_gridspec(
            2 if has_ranking else 1, 2, height_ratios=[3, 1][: 1 + has_ranking]
        )
        _draw_frontiers(figure.add_subplot(grid[:, 0]), result)
        _draw_multipliers(figure.add_subplot(grid[0, 1]), result)
        if has_ranking:
            _draw_chances(figure.add_subplot(grid[1, 1]), result)
    return save_figure(figure, Path(folder) / 'compare.png')


def _label(result: dict[str, Any], index: int) -> str:
    return f'{result["recipes"][index]["name"]}  {Path(result["files"][index]).stem}'


def _draw_frontiers(axes: Axes, result: dict[str, Any]) -> None:
    axes.set_xscale('log')
    axes.set_yscale('log')
    for index, recipe in enumerate(result['recipes']):
        color, frontier = COLORS[index % len(COLORS)], recipe['frontier']
        axes.plot(
            recipe['runs']['cost'], recipe['runs']['loss'], 'o', color=color, ms=3, alpha=0.35
        )
        if not result['no_interval']:
            band = frontier['low'], frontier['high']
            axes.fill_between(frontier['cost'], *band, color=color, alpha=0.18, lw=0)
        axes.plot(
            frontier['cost'], frontier['loss'], color=color, lw=1.8, label=_label(result, index)
        )
    axes.set_xlabel(f'training {COST_UNITS[result["by"]]}')
    axes.set_ylabel(f'loss ({result["conventions"]["loss"]})')
    _draw_arrow(axes, result)
    set_log_ticks(axes, 'x')
    set_loss_ticks(axes)
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title('Loss of each recipe: runs, and the best size', fontsize=9.5, loc='left')


def _draw_arrow(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the horizontal distance between the base and the best other recipe."""
    names = [name for name in result['ranking'] if name != 'A']
    recipe = next(one for one in result['recipes'] if one['name'] == names[0])
    if recipe['warning']:
        return
    along = recipe['along']
    middle = len(along['loss']) // 2
    loss = along['loss'][middle]
    ends = [
        float(np.exp(np.interp(-loss, -np.array(own['loss']), np.log(own['cost']))))
        for own in (result['recipes'][0]['frontier'], recipe['frontier'])
    ]
    is_cheaper = ends[1] < ends[0]
    axes.annotate(
        '', (ends[1], loss), (ends[0], loss), arrowprops={'arrowstyle': '->', 'color': '#222222'}
    )
    axes.annotate(
        f'{along["multiplier"][middle]:.3g}x',
        (ends[1], loss),
        (-4 if is_cheaper else 4, 0),
        textcoords='offset points',
        ha='right' if is_cheaper else 'left',
        va='center',
        fontsize=10,
        fontweight='bold',
    )


def _draw_multipliers(axes: Axes, result: dict[str, Any]) -> None:
    axes.set_yscale('log')
    axes.axhline(1, color=COLORS[0], lw=1.2, ls=':')
    for index, recipe in enumerate(result['recipes'][1:], 1):
        color, along = COLORS[index % len(COLORS)], recipe['along']
        if not result['no_interval']:
            axes.fill_between(
                along['loss'], along['low'], along['high'], color=color, alpha=0.18, lw=0
            )
        axes.plot(along['loss'], along['multiplier'], color=color, lw=1.8)
        axes.annotate(
            recipe['name'],
            (along['loss'][0], along['multiplier'][0]),
            (4, 0),
            textcoords='offset points',
            va='center',
            color=color,
            fontweight='bold',
        )
    axes.invert_xaxis()
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.02) / 1.03, min(high, 200) * 1.03)
    low, high = axes.get_ylim()
    ticks = FINE_TICKS if high / low < FINE_RANGE else COARSE_TICKS
    shown = [tick for tick in ticks if low <= tick <= high]
    set_ticks(axes.yaxis, shown, '{:g}x'.format)
    axes.minorticks_off()
    axes.set_xlabel('loss, falling')
    axes.set_ylabel(f'{COST_UNITS[result["by"]]} of A over those of the recipe')
    axes.grid(alpha=0.25, lw=0.5)
    title = 'Compute multiplier over A' if result['by'] == 'flops' else 'Speed-up over A'
    if not result['no_interval']:
        title += f' ({100 * result["level"]:g}% interval)'
    axes.set_title(title, fontsize=9.5, loc='left')


def _draw_chances(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the probability of each recipe to be the best as stacked bars."""
    unit = COST_UNITS[result['by']]
    points = [
        (f'at {result["at_cost"][-1]["cost"]:.2g} {unit}', result['at_cost'][-1]),
        (f'at loss {result["at_loss"][-1]["loss"]:.3g}', result['at_loss'][-1]),
    ]
    for height, (_, point) in enumerate(points):
        left = 0.0
        for index, row in enumerate(point['recipes']):
            chance = row['p_best']
            axes.barh(height, chance, left=left, color=COLORS[index % len(COLORS)], height=0.6)
            if chance > 0.06:
                text = f'{row["name"]} {chance:.2f}'
                axes.text(left + chance / 2, height, text, ha='center', va='center', color='white')
            left += chance
    axes.set_yticks(range(len(points)), [label for label, _ in points])
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    for side in ('bottom', 'left'):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title('Probability to be the best', fontsize=9.5, loc='left')
