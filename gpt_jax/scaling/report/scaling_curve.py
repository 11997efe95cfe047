"""Figure of a law over one variable: runs, law, forecast of the largest run, residuals."""

import math
import os
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gpt_jax.scaling import ladder_forecast, power_law, rows
from gpt_jax.scaling.report.figure_style import (
    COLUMN_LABELS,
    HELD_OUT_COLOR,
    LAW_COLOR,
    MEASURED_COLOR,
    MUTED_COLOR,
    NARROW_INCHES,
    RC_PARAMS,
    format_tick,
    save_figure,
    set_loss_ticks,
    set_ticks,
)

CURVE_POINTS = 64
MARGIN = 1.5  # factor by which the x axis extends beyond the runs


def draw_scaling_curve(
    fit: dict[str, Any], trials: list[dict[str, Any]], path: str | os.PathLike[str]
) -> list[Path]:
    """Draw loss over size: the runs, the law without the largest, and its forecast of the largest.

    Args:
      fit: the result of `ladder_forecast.leave_largest_out`, with the names of its columns added as
        'x_column' and 'loss_column'.
      trials: the records of the ladder; unfinished ones are not drawn.
      path: path of the figure; its suffix is replaced by .png and .svg.

    Returns:
      The two files.

    Raises:
      UserError: a record lacks 'name', 'status' or one of the two columns.
    """
    return save_figure(make_scaling_curve(fit, trials, (5.6, 4.8)), Path(path))


def make_scaling_curve(
    fit: dict[str, Any], trials: list[dict[str, Any]], size: tuple[float, float]
) -> Figure:
    """Return the figure of `draw_scaling_curve`.

    Args:
      fit, trials: as in `draw_scaling_curve`.
      size: width and height in inches; narrow below NARROW_INCHES.
    """
    x_column, loss_column = fit['x_column'], fit['loss_column']
    finished, _ = rows.split_fittable(trials, [x_column, loss_column])
    x, loss = (np.array(rows.get_column(finished, name), float) for name in (x_column, loss_column))
    is_narrow = size[0] < NARROW_INCHES
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=size, layout='constrained')
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_law(upper, fit)
        _draw_runs(upper, fit, x, loss)
        _annotate_runs(upper, fit, x, loss, list(map(str, rows.get_column(finished, 'name'))))
        _set_loss_axis(upper, fit, loss)
        _draw_residuals(lower, fit, x, loss)
        upper.set_ylabel(COLUMN_LABELS.get(loss_column, loss_column))
        lower.set_xlabel(COLUMN_LABELS.get(x_column, x_column))
        _set_size_axis(lower, x)
        figure.align_ylabels()
        title = make_forecast_title(fit)
        if is_narrow:
            lower.set_xlim(left=x.min() / 3)  # the first name is left of its point
            figure.legend(
                *upper.get_legend_handles_labels(),
                frameon=False,
                fontsize=7,
                loc='outside lower center',
            )
            title = textwrap.fill(title, 44)
        else:
            upper.legend(frameon=False, fontsize=7.5, loc='upper right')
        figure.suptitle(title, fontsize=8.5 if is_narrow else 10, fontweight='bold')
    return figure


def make_forecast_title(fit: dict[str, Any]) -> str:
    """Return the title of the figure: how the forecast of the largest run came out."""
    held_out = fit['held_out']
    losses = f'forecast {held_out["predicted"]:.3f}, reached {held_out["reached"]:.3f}'
    error = round(100 * held_out['relative_error'], 1)
    side = '' if error == 0 else ' too low' if error < 0 else ' too high'
    verdict = 'within' if held_out['within'] else 'outside'
    tolerance = f'{verdict} the {100 * held_out["tolerance"]:g}% tolerance'
    largest = 'model' if ladder_forecast.variable_letter(fit) == 'N' else 'run'
    return (
        f'Largest {largest}, left out of the fit: {losses}\n({abs(error):.1f}%{side}, {tolerance})'
    )


def _draw_law(axes: Axes, fit: dict[str, Any]) -> None:
    letter = ladder_forecast.variable_letter(fit)
    grid = np.geomspace(min(fit['x']), fit['held_out']['x'], CURVE_POINTS)
    inside = grid >= min(fit['law']['fitted_x']) * (1 - 1e-9)
    _draw_band(axes, fit)
    power = power_law.law_from_dict(fit['both']['power'])
    label = f'all but the largest: {_format_law(power, letter)}'
    predicted = power_law.predict_loss(power, grid)
    axes.plot(grid, predicted, '--', color=MUTED_COLOR, lw=1, label=label)
    law = power_law.law_from_dict(fit['law'])
    predicted = power_law.predict_loss(law, grid[inside])
    label = f'law: {_format_law(law, letter)}'
    axes.plot(grid[inside], predicted, color=LAW_COLOR, lw=1.6, label=label)
    x, predicted = fit['held_out']['x'], fit['held_out']['predicted']
    axes.plot(x, predicted, 'x', color=LAW_COLOR, ms=8, mew=2, zorder=4, label='forecast')


def _draw_band(axes: Axes, fit: dict[str, Any]) -> None:
    """Draw the interval of a run along x; none for too few runs."""
    band, interval = fit['band'], fit['held_out']['interval']
    if interval['note']:
        axes.plot([], [], ' ', label='no band: too few sizes')
        return
    x, low, high = (np.asarray(band[name]) for name in ('x', 'low', 'high'))
    shown = x >= min(fit['law']['fitted_x']) * (1 - 1e-9)
    label = f'{100 * interval["level"]:g}% interval of a run'
    axes.fill_between(
        x[shown], low[shown], high[shown], color=LAW_COLOR, alpha=0.18, lw=0, label=label
    )


def _format_law(law: power_law.PowerLaw, letter: str) -> str:
    head, exponent = power_law.format_law(law, letter).split('^')
    return f'{head}$^{{{exponent}}}$'


def _draw_runs(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray) -> None:
    used, largest = np.isin(x, fit['law']['fitted_x']), x == fit['held_out']['x']
    rest = ~used & ~largest
    style: Any = {'color': HELD_OUT_COLOR, 'ms': 5.5, 'label': 'measured, left out'}
    axes.plot(x[largest], loss[largest], 'D', **style)
    style = {'color': MEASURED_COLOR, 'ms': 5.5, 'label': 'measured, in the fit of the law'}
    axes.plot(x[used], loss[used], 'o', **style)
    if rest.any():
        style = {'mfc': 'white', 'mec': MEASURED_COLOR, 'ms': 5.5}
        axes.plot(x[rest], loss[rest], 'o', label='measured, too small for the fit', **style)


def _annotate_runs(
    axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray, names: list[str]
) -> None:
    box: dict[str, Any] = {'facecolor': 'white', 'alpha': 0.7, 'linewidth': 0, 'pad': 0.5}
    # A falling curve leaves room at the lower left of a point; the forecast is below the largest.
    below: Any = {'xytext': (-5, -5), 'ha': 'right', 'va': 'top'}
    above: Any = {'xytext': (0, 6), 'ha': 'center', 'va': 'bottom'}
    for size in np.unique(x):
        is_size = x == size
        is_largest = size == fit['held_out']['x']
        axes.annotate(
            _common_name([name for name, matches in zip(names, is_size, strict=True) if matches]),
            (size, loss[is_size].max() if is_largest else loss[is_size].min()),
            textcoords='offset points',
            fontsize=7,
            color=MUTED_COLOR,
            bbox=box,
            parse_math=False,
            **(above if is_largest else below),
        )


def _common_name(names: list[str]) -> str:
    """Return the common stem of runs of one size: 2x64 for 2x64-seed0 and 2x64-seed1."""
    stem = names[0].rpartition('-')[0]
    is_shared = len(names) > 1 and stem and all(name.startswith(stem) for name in names)
    name = stem if is_shared else names[0]
    return ''.join(letter if letter.isprintable() else '?' for letter in name)


def _set_loss_axis(axes: Axes, fit: dict[str, Any], loss: np.ndarray) -> None:
    """Show the range of the losses, with the irreducible loss if it is close to that range."""
    low, high = float(min(loss.min(), fit['held_out']['predicted'])), float(loss.max())
    irreducible = fit['law']['irreducible']
    if irreducible > 0 and 0 < low - irreducible < 0.25 * (high - low):
        held = {'N': ' at these tokens', 'D': ' at this size'}
        label = f'floor{held.get(ladder_forecast.variable_letter(fit), "")}: {irreducible:.3f}'
        axes.axhline(irreducible, color=MUTED_COLOR, ls=':', lw=1.2, label=label)
        low = irreducible
    margin = 0.1 * math.log(high / low) if high > low else 0.1
    axes.set_yscale('log')
    axes.set_ylim(low * math.exp(-1.4 * margin), high * math.exp(margin))
    set_loss_ticks(axes, max_ticks=9)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25, lw=0.5)


def _draw_residuals(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray) -> None:
    percent = 100 * (loss / power_law.predict_loss(power_law.law_from_dict(fit['law']), x) - 1)
    used, largest = np.isin(x, fit['law']['fitted_x']), x == fit['held_out']['x']
    tolerance = 100 * fit['held_out']['tolerance']
    axes.axhspan(-tolerance, tolerance, color=MUTED_COLOR, alpha=0.12, lw=0)
    axes.axhline(0, color=LAW_COLOR, lw=1)
    axes.plot(x[used], percent[used], 'o', color=MEASURED_COLOR, ms=4.5)
    axes.plot(x[largest], percent[largest], 'D', color=HELD_OUT_COLOR, ms=5)
    limit = 1.35 * max(tolerance, float(np.abs(percent[used | largest]).max()))
    axes.set_ylim(-limit, limit)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f'{value:+g}'.replace('-', '−') if value else '0')
    )
    axes.set_ylabel('measured\nover law (%)')
    axes.grid(alpha=0.25, lw=0.5)


def _set_size_axis(axes: Axes, x: np.ndarray) -> None:
    low, high = x.min() / MARGIN, x.max() * MARGIN
    axes.set_xscale('log')
    axes.set_xlim(low, high)
    steps = (1,) if high / low > 1e4 else (1, 3) if high / low > 50 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    set_ticks(axes.xaxis, [tick for tick in ticks if low <= tick <= high], format_tick)
