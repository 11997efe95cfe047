"""How does a scaling result look on paper? Figures as PNG and SVG, drawn without a display and without global state."""

import io
import math
import os
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from gpt_jax import files
from gpt_jax.scaling import forecast, laws, records

# Apart in grey print and to the colour-blind.
MEASURED, HELD_OUT, LAW, QUIET = '#1f3b5c', '#c0392b', '#2e86c1', '#7f8c8d'
LABELS = {
    'params_non_embedding': 'non-embedding parameters',
    'params_total': 'parameters, embeddings included',
    'params': 'parameters',
    'tokens': 'training tokens',
    'flops': 'training FLOPs',
    'flops_with_attention': 'training FLOPs (6N + attention)',
    'loss': 'loss (nats/token)',
    'validation_loss': 'validation loss (nats/token)',
    'bits_per_byte': 'validation loss (bits/byte)',
}
STYLE: Any = {
    'font.size': 9.0,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'svg.fonttype': 'none',  # words stay words: they can be searched and edited
    'svg.hashsalt': 'scaling',  # the same figure is the same file
}
NARROW = 5.0  # inches: a figure for a phone has its legend and panels below, not beside
MARGIN = 1.5  # the x axis goes so far, as a factor, beyond the runs


def scaling_curve(fit: dict[str, Any], trials: list[dict[str, Any]], path: str | os.PathLike[str]) -> list[Path]:
    """Draws loss over size: the measured runs, the law fitted without the largest, and how that forecast came out.

    Args:
      fit: what `forecast.leave_largest_out` returned, and 'x_column' and 'loss_column', the columns it was given.
      trials: the records of the ladder; those that are not done are not drawn.
      path: where to; the suffix is replaced by .png and .svg.

    Returns:
      The two files written.

    Raises:
      UserError: a record lacks 'name', 'status' or one of the two columns.
    """
    return save(ladder(fit, trials, (5.6, 4.8)), Path(path))


def ladder(fit: dict[str, Any], trials: list[dict[str, Any]], size: tuple[float, float]) -> Figure:
    """What `scaling_curve` draws, not yet written; `size` is width and height in inches, below NARROW for a phone."""
    names = fit['x_column'], fit['loss_column']
    done, _ = records.fittable(trials, list(names))
    x, loss = (np.array(records.column(done, name), float) for name in names)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout='constrained')
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_law(upper, fit)
        _draw_runs(upper, fit, x, loss, [str(name) for name in records.column(done, 'name')])
        _limit(upper, fit, loss)
        _draw_residuals(lower, fit, x, loss)
        upper.set_ylabel(LABELS.get(names[1], names[1]))
        lower.set_xlabel(LABELS.get(names[0], names[0]))
        _ticks_of_size(lower, x)
        figure.align_ylabels()
        title = finding(fit)
        if size[0] < NARROW:
            lower.set_xlim(left=x.min() / 3)  # the first name stands left of its point
            figure.legend(*upper.get_legend_handles_labels(), frameon=False, fontsize=7, loc='outside lower center')
            title = textwrap.fill(title, 44)
        else:
            upper.legend(frameon=False, fontsize=7.5, loc='upper right')
        figure.suptitle(title, fontsize=10 if size[0] > NARROW else 8.5, fontweight='bold')
    return figure


def finding(fit: dict[str, Any]) -> str:
    """The title: what the figure shows."""
    held = fit['held_out']
    words = f'forecast {held["predicted"]:.3f}, reached {held["reached"]:.3f}'
    verdict = 'within' if held['within'] else 'outside'
    error = round(100 * held['relative_error'], 1)
    side = '' if error == 0 else ' too low' if error < 0 else ' too high'
    outcome = f'{abs(error):.1f}%{side}, {verdict} the {100 * held["tolerance"]:g}% tolerance'
    largest = 'model' if forecast.letter(fit) == 'N' else 'run'
    return f'Largest {largest}, left out of the fit: {words}\n({outcome})'


def short(value: float) -> str:
    """A tick's words: 500, 1k, 2.5k, 1M, 1.5B, 1e15."""
    if value >= 1e12:
        return f'{value:.0e}'.replace('e+', 'e')
    for limit, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:g}{unit}'
    return f'{value:g}'


def _draw_law(axes: Axes, fit: dict[str, Any]) -> None:
    law, band, held, letter = laws.from_dict(fit['law']), fit['band'], fit['held_out'], forecast.letter(fit)
    grid = np.asarray(band['x'])
    inside = grid >= min(fit['law']['fitted_x']) * (1 - 1e-9)
    about = held['interval']
    if about['note']:  # a band over too few runs would be read as one that means something
        axes.plot([], [], ' ', label=f'no band: {about["runs"]} runs are too few')
    else:
        label = f'{100 * about["level"]:g}% bootstrap over {about["runs"]} runs'
        low, high = np.array(band['low'])[inside], np.array(band['high'])[inside]
        axes.fill_between(grid[inside], low, high, color=LAW, alpha=0.18, lw=0, label=label)
    other = laws.from_dict(fit['both']['power'])
    axes.plot(
        grid,
        laws.predict(other, grid),
        '--',
        color=QUIET,
        lw=1,
        label=f'all but the largest: {_words(other, letter)}',
    )
    axes.plot(
        grid[inside],
        laws.predict(law, grid[inside]),
        color=LAW,
        lw=1.6,
        label=f'law: {_words(law, letter)}',
    )
    axes.plot(held['x'], held['predicted'], 'x', color=LAW, ms=8, mew=2, zorder=4, label='forecast')


def _words(law: laws.PowerLaw, letter: str) -> str:
    head, tail = laws.formula(law, letter).split('^')
    return f'{head}$^{{{tail}}}$'


def _draw_runs(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray, names: list[str]) -> None:
    used, largest = np.isin(x, fit['law']['fitted_x']), x == fit['held_out']['x']
    axes.plot(x[largest], loss[largest], 'D', color=HELD_OUT, ms=5.5, label='measured, left out')
    axes.plot(x[used], loss[used], 'o', color=MEASURED, ms=5.5, label='measured, in the fit of the law')
    rest = ~used & ~largest
    if rest.any():
        axes.plot(x[rest], loss[rest], 'o', mfc='white', mec=MEASURED, ms=5.5, label='measured, too small for it')
    shade: dict[str, Any] = {'facecolor': 'white', 'alpha': 0.7, 'linewidth': 0, 'pad': 0.5}
    # Left of and below a point lies what a falling curve leaves free; below the largest stands its forecast.
    below: Any = {'xytext': (-5, -5), 'ha': 'right', 'va': 'top'}
    above: Any = {'xytext': (0, 6), 'ha': 'center', 'va': 'bottom'}
    for at in np.unique(x):
        here = x == at
        where, value = (above, loss[here].max()) if at == fit['held_out']['x'] else (below, loss[here].min())
        axes.annotate(_shared([name for name, one in zip(names, here, strict=True) if one]), (at, value),
                      textcoords='offset points', fontsize=7, color=QUIET, bbox=shade, parse_math=False,
                      **where)  # fmt: skip


def _shared(names: list[str]) -> str:
    """What the names of a size's runs begin with alike: 2x64 for 2x64-seed0 and 2x64-seed1."""
    stem = names[0].rpartition('-')[0]
    alike = len(names) > 1 and stem and all(one.startswith(stem) for one in names)
    name = stem if alike else names[0]
    return ''.join(letter if letter.isprintable() else '?' for letter in name)


def _limit(axes: Axes, fit: dict[str, Any], loss: np.ndarray) -> None:
    """The range of the losses, with the irreducible one where it is near enough not to squeeze them."""
    low, high = float(min(loss.min(), fit['held_out']['predicted'])), float(loss.max())
    floor = fit['law']['irreducible']
    if 0 < low - floor < 0.25 * (high - low) and floor > 0:
        axes.axhline(floor, color=QUIET, ls=':', lw=1.2, label=f'irreducible loss {floor:.3f}')
        low = floor
    room = 0.1 * math.log(high / low) if high > low else 0.1
    axes.set_yscale('log')
    axes.set_ylim(low * math.exp(-1.4 * room), high * math.exp(room))
    _ticks_of_loss(axes)
    axes.grid(alpha=0.25, lw=0.5)


def _draw_residuals(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray) -> None:
    percent = 100 * (loss / laws.predict(laws.from_dict(fit['law']), x) - 1)
    used, largest = np.isin(x, fit['law']['fitted_x']), x == fit['held_out']['x']
    tolerance = 100 * fit['held_out']['tolerance']
    axes.axhspan(-tolerance, tolerance, color=QUIET, alpha=0.12, lw=0)
    axes.axhline(0, color=LAW, lw=1)
    axes.plot(x[used], percent[used], 'o', color=MEASURED, ms=4.5)
    axes.plot(x[largest], percent[largest], 'D', color=HELD_OUT, ms=5)
    reach = 1.35 * max(tolerance, float(np.abs(percent[used | largest]).max()))
    axes.set_ylim(-reach, reach)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:+g}'.replace('-', '−') if value else '0'))
    axes.set_ylabel('measured\nover law (%)')
    axes.grid(alpha=0.25, lw=0.5)


def _ticks_of_size(axes: Axes, x: np.ndarray) -> None:
    low, high = x.min() / MARGIN, x.max() * MARGIN
    axes.set_xscale('log')
    axes.set_xlim(low, high)
    steps = (1,) if high / low > 1e4 else (1, 3) if high / low > 50 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks_of_loss(axes: Axes) -> None:
    """Round losses on a log axis that spans less than a decade, where matplotlib would label none or all."""
    low, high = axes.get_ylim()
    steps = (step * 10.0**power for power in range(-6, 6) for step in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= 9)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.4g}'))
    axes.yaxis.set_minor_locator(NullLocator())


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes the figure as .png and .svg; returns the two files."""
    written = []
    for suffix, options in (('.png', {'dpi': 200}), ('.svg', {'metadata': {'Date': None}})):
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(content, format=suffix[1:], **options)
        files.write_bytes(path.with_suffix(suffix), content.getvalue())
        written.append(path.with_suffix(suffix))
    return written
