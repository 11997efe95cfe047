"""How does a scaling result look on paper? Figures as PNG and SVG, drawn without a display and without global state."""

import io
import math
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from gpt_jax import files
from gpt_jax.scaling import laws, records

MEASURED, HELD_OUT, LAW, QUIET = '#1f4e79', '#c0392b', '#2e86c1', '#7f8c8d'  # kept apart in grey and by the colour-blind
STYLE = {
    'font.size': 9.0,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'svg.fonttype': 'none',  # words stay words: they can be searched and edited
    'svg.hashsalt': 'scaling',  # the same figure is the same file
}


def scaling_curve(fit: dict[str, Any], trials: list[dict[str, Any]], path: str | os.PathLike[str]) -> list[Path]:
    """Draws loss over size: the measured runs, the law fitted without the largest, and how that forecast came out.

    Args:
      fit: what `forecast.leave_largest_out` returned, x being the records' 'parameters'.
      trials: the records of the ladder; those that are not done are not drawn.
      path: where to; the suffix is replaced by .png and .svg.

    Returns:
      The two files written.

    Raises:
      UserError: a record lacks one of the columns 'name', 'status', 'parameters', 'loss'.
    """
    done, _ = records.fittable(trials, ['parameters', 'loss'])
    x = np.array(records.column(done, 'parameters'), float)
    loss = np.array(records.column(done, 'loss'), float)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.8), layout='constrained')
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        _draw_curve(upper, fit, x, loss, [str(name) for name in records.column(done, 'name')])
        _draw_residuals(lower, fit, x, loss)
        figure.suptitle(finding(fit), fontsize=10, fontweight='bold')
        return _save(figure, Path(path))


def finding(fit: dict[str, Any]) -> str:
    """The title: what the figure shows, in one line."""
    held = fit['held_out']
    words = f'forecast {held["predicted"]:.3f}, reached {held["reached"]:.3f}'
    verdict = 'within' if held['within'] else 'outside'
    error = f'{100 * held["relative_error"]:+.1f}%'
    return f'Largest model, left out of the fit: {words}\n({error}, {verdict} the {100 * held["tolerance"]:g}% tolerance)'


def short(value: float) -> str:
    """A tick's words: 500, 1k, 2.5k, 1M, 1.5B."""
    for limit, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= limit:
            return f'{value / limit:g}{unit}'
    return f'{value:g}'


def _law(fit: dict[str, Any]) -> laws.PowerLaw:
    return laws.PowerLaw(**{name: value for name, value in fit['law'].items() if name != 'fitted_x'})


def _formula(law: laws.PowerLaw) -> str:
    # The exponent of the amplitude depends on x's unit and says nothing: the law is named by its own two numbers.
    floor = f'{law.irreducible:.3g} + ' if law.irreducible else ''
    return f'law: {floor}{law.amplitude:.3g} N$^{{-{law.exponent:.3g}}}$'


def _draw_curve(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray, names: list[str]) -> None:
    law, band, held = _law(fit), fit['band'], fit['held_out']
    grid = np.asarray(band['x'])
    used = np.isin(x, fit['law']['fitted_x'])
    largest = x == held['x']
    count = held['interval']['runs']
    axes.fill_between(
        grid, band['low'], band['high'], color=LAW, alpha=0.15, lw=0, label=f'95% bootstrap over {count} runs'
    )
    inside = grid >= min(fit['law']['fitted_x'])
    axes.plot(grid[inside], laws.predict(law, grid[inside]), color=LAW, lw=1.5, label=_formula(law))
    axes.plot(x[used], loss[used], 'o', color=MEASURED, ms=5.5, label='measured, fitted')
    if (~used & ~largest).any():
        where = ~used & ~largest
        axes.plot(x[where], loss[where], 'o', mfc='white', mec=MEASURED, ms=5.5, label='measured, below the fit')
    axes.plot(held['x'], held['predicted'], 'x', color=LAW, ms=8, mew=2, zorder=4, label='forecast')
    axes.plot(x[largest], loss[largest], 'D', color=HELD_OUT, ms=6, zorder=3, label='measured, held out')
    low, high = float(loss.min()), float(loss.max())
    if 0 < law.irreducible < low and low - law.irreducible < high - low:
        axes.axhline(law.irreducible, color=QUIET, ls=':', lw=1, label=f'irreducible loss {law.irreducible:.3f}')
    room = 0.12 * math.log(high / low)
    floor = min(low, law.irreducible if len(axes.lines) and law.irreducible > low / 2 else low)
    axes.set_yscale('log')
    axes.set_ylim(math.exp(math.log(floor) - room), math.exp(math.log(high) + room))
    _loss_ticks(axes)
    for at, value, name in zip(x, loss, names, strict=True):
        axes.annotate(name, (at, value), xytext=(0, 7), textcoords='offset points', ha='center', fontsize=7, color=QUIET)
    axes.set_ylabel('validation loss (nats/token)')
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(frameon=False, fontsize=7.5, loc='best')


def _draw_residuals(axes: Axes, fit: dict[str, Any], x: np.ndarray, loss: np.ndarray) -> None:
    percent = 100 * (loss / laws.predict(_law(fit), x) - 1)
    used, largest = np.isin(x, fit['law']['fitted_x']), x == fit['held_out']['x']
    tolerance = 100 * fit['held_out']['tolerance']
    axes.axhspan(-tolerance, tolerance, color=QUIET, alpha=0.12, lw=0)
    axes.axhline(0, color=LAW, lw=1)
    axes.plot(x[used], percent[used], 'o', color=MEASURED, ms=4.5)
    axes.plot(x[largest], percent[largest], 'D', color=HELD_OUT, ms=5)
    reach = 1.3 * max(tolerance, float(np.abs(percent[used | largest]).max()))
    axes.set_ylim(-reach, reach)
    axes.set_ylabel('measured less\nlaw (%)')
    axes.set_xlabel('non-embedding parameters')
    axes.set_xscale('log')
    axes.set_xlim(x.min() / 1.4, x.max() * 1.4)
    decades = math.log10(x.max() / x.min())
    steps = (1,) if decades > 2.5 else (1, 3) if decades > 1.2 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(0, 16) for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if x.min() / 1.4 <= tick <= x.max() * 1.4]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, lw=0.5)


def _loss_ticks(axes: Axes) -> None:
    """Round losses on a log axis that spans less than a decade, where matplotlib would label none or all."""
    low, high = axes.get_ylim()
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / step <= 9)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.yaxis.set_minor_locator(NullLocator())


def _save(figure: Figure, path: Path) -> list[Path]:
    written = []
    for suffix, options in (('.png', {'dpi': 200}), ('.svg', {'metadata': {'Date': None}})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], **options)
        files.write_bytes(path.with_suffix(suffix), content.getvalue())
        written.append(path.with_suffix(suffix))
    return written
