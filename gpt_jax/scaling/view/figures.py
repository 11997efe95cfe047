"""How does a fit over parameters and tokens look? Its figures, as PNG and SVG: curves, splits, residuals."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from gpt_jax.scaling import surface
from gpt_jax.scaling.view.plots import HELD_OUT, LAW, MEASURED, NARROW, QUIET, STYLE, save, short

APPROACHES = {'1': ('#27ae60', 'envelope'), '2': ('#e67e22', 'isoFLOP'), '3': (LAW, 'parametric')}


class Points(NamedTuple):
    """Where runs stand in a figure: `runs`, indices into the result's residuals, at (x, y) of `axes`; all [points]."""

    axes: Axes
    runs: np.ndarray
    x: np.ndarray
    y: np.ndarray


class Drawn(NamedTuple):
    name: str
    figure: Figure
    points: list[Points]


def fit(result: dict[str, Any], folder: str) -> list[Path]:
    """Draws what analysis.fit returned into `folder`; returns the files."""
    return [path for one in drawn(result) for path in save(one.figure, Path(folder) / f'{one.name}.png')]


def drawn(result: dict[str, Any], *, narrow: bool = False) -> list[Drawn]:
    """The figures that what analysis.fit, power or measured returned has the numbers for.

    Args:
      narrow: for a phone: panels below and not beside each other.
    """
    made = [figure(_loss_over_compute, result, 'loss_over_compute', (3.8, 3.9) if narrow else (5.6, 4.2))]
    if 'minima' in result.get('approaches', {}).get('2', {}):
        made.append(figure(_isoflop, result, 'isoflop', (3.8, 4.4) if narrow else (5.6, 4.4)))
    if any(not one['note'] for one in result.get('approaches', {}).values()):
        made.append(figure(_splits, result, 'optimal_split', (3.8, 6.2) if narrow else (7.2, 3.6)))
    if 'fit' in result:
        made.append(figure(_residuals, result, 'residuals', (3.8, 7.0) if narrow else (8.0, 3.0)))
    return made


def figure(draw: Any, result: dict[str, Any], name: str, size: tuple[float, float]) -> Drawn:
    """One figure of `size` in inches, by the function that draws it and says where its runs are."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=size, layout='constrained')
        return Drawn(name, made, draw(made, result))


def _panels(figure: Figure, count: int, **options: Any) -> np.ndarray:
    """So many axes beside each other; below each other where the figure is narrow."""
    return figure.subplots(*((count, 1) if _is_narrow(figure) else (1, count)), **options)


def _is_narrow(figure: Figure) -> bool:
    return figure.get_figwidth() < NARROW


def _columns(result: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in result['residuals'].items() if name not in ('name', 'curves')}


def _law(result: dict[str, Any]) -> surface.Surface:
    return surface.Surface(**result['fit'])


def ticks(axes: Axes, which: str) -> None:
    """Ticks at powers of ten, or their 1, 2 and 5 where the range is short, in words a person reads."""
    low, high = axes.get_xlim() if which == 'x' else axes.get_ylim()
    steps = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 7) if steps == (1,) else 1
    places = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    axis = axes.xaxis if which == 'x' else axes.yaxis
    axis.set_major_locator(FixedLocator([place for place in places if low <= place <= high]))
    words = _power if 'FLOPs' in axis.get_label_text() else short
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    return f'{value:.0e}'.replace('e+0', 'e').replace('e+', 'e')


def loss_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    choices = [step * 10.0**power for power in range(-4, 3) for step in (1, 2, 5)]
    step = next(step for step in choices if (high - low) / step <= 8)
    places = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    axes.yaxis.set_major_locator(FixedLocator(places.tolist()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.4g}'))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _about(result: dict[str, Any]) -> tuple[str, str]:
    about = result['data']
    count = {'as given': 'parameters'}.get(about['count'], f'parameters ({about["count"].replace("_", " ")})')
    flops = {'column': 'training FLOPs', '6ND': 'training FLOPs (6ND)'}.get(
        about['flops'], f'training FLOPs ({about["flops"].replace("_", " ")})'
    )
    return count, flops


def _loss_over_compute(figure: Figure, result: dict[str, Any]) -> list[Points]:
    axes, data = figure.subplots(), _columns(result)
    count, flops = _about(result)
    axes.set_xscale('log')
    axes.set_yscale('log')
    sizes = np.log10(data['params'])
    dots = axes.scatter(data['flops'], data['loss'], c=sizes, cmap='viridis', s=14, zorder=3)
    below = {'location': 'bottom', 'aspect': 40} if _is_narrow(figure) else {'pad': 0.01}
    bar = figure.colorbar(dots, ax=axes, **below)
    bar.ax.xaxis.set_major_formatter(words := FuncFormatter(lambda value, _: short(float(f'{10**value:.2g}'))))
    bar.ax.yaxis.set_major_formatter(words)
    bar.set_label(count)
    best = sorted(result['envelope'], key=lambda i: data['flops'][i])
    axes.plot(data['flops'][best], data['loss'][best], color=MEASURED, lw=1.1, zorder=2, label='envelope of the runs')
    split = result.get('approaches', {}).get('3')
    if split and not split['note']:
        grid = np.geomspace(data['flops'].min(), data['flops'].max() * 10, 100)
        n, d = split['n_coefficient'] * grid ** split['a'], split['d_coefficient'] * grid ** split['b']
        axes.plot(grid, _law(result).predict(n, d), color=HELD_OUT, lw=1.5, label='law at the optimal split')
    _draw_curves(axes, result, data, dots.to_rgba(sizes))
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(flops)
    axes.set_ylabel('loss (nats/token)')
    ticks(axes, 'x')
    loss_ticks(axes)
    axes.grid(alpha=0.25, lw=0.5)
    law = f' and the law {result["fit"]["law"]}' if 'fit' in result else ''
    axes.set_title(f'{len(data["loss"])} runs{law}', fontsize=10, fontweight='bold')
    return [Points(axes, np.arange(len(sizes)), data['flops'], data['loss'])]


def _draw_curves(axes: Axes, result: dict[str, Any], data: dict[str, np.ndarray], colours: np.ndarray) -> None:
    """Each run on its way to its point, at its own FLOPs per token; what lies far above all points is cut off."""
    low, high = data['loss'].min(), data['loss'].max()
    top = high * max(1.1, (high / low) ** 0.5)
    begins = []
    for index, curve in enumerate(result['residuals']['curves']):
        if curve:
            tokens, loss = np.array(curve).T
            flops = tokens * data['flops'][index] / data['tokens'][index]
            axes.plot(flops, loss, color=colours[index], lw=0.6, alpha=0.6, zorder=1)
            begins += flops[loss <= top].tolist()
    if begins:
        axes.set_ylim(top=top)
        axes.set_xlim(left=min(*begins, data['flops'].min()) / 1.3)


def _isoflop(figure: Figure, result: dict[str, Any]) -> list[Points]:
    axes, shown = figure.subplots(), []
    minima, points = result['approaches']['2']['minima'], result['approaches']['2']['points']
    data = {name: np.array(points[name]) for name in ('params', 'loss')}
    colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(minima)))
    axes.set_xscale('log')
    for one, colour in zip(minima, colours, strict=True):
        used, others = one['used'], one['others']
        shown += [*used, *others]
        axes.plot(data['params'][used], data['loss'][used], 'o', color=colour, ms=4.5)
        axes.plot(data['params'][others], data['loss'][others], 'o', mfc='white', mec=colour, ms=4.5)
        x = np.linspace(np.log(data['params'][used]).min(), np.log(data['params'][used]).max(), 60)
        b0, b1, b2 = one['curve']
        z = x - one['centre']
        axes.plot(np.exp(x), np.exp(b0 + b1 * z + b2 * z * z), color=colour, lw=1.2, label=f'{one["flops"]:.1e}')
        if not one['note']:
            axes.plot(one['params'], one['loss'], '*', color=HELD_OUT, ms=9, zorder=4)
    axes.plot([], [], '*', color=HELD_OUT, ms=8, label='minimum')
    axes.plot([], [], 'o', mfc='white', mec=QUIET, ms=4.5, label='outside the window')
    axes.set_xlabel(_about(result)[0])
    axes.set_ylabel('loss (nats/token)')
    ticks(axes, 'x')
    axes.grid(alpha=0.25, lw=0.5)
    below: dict[str, Any] = {'loc': 'outside lower center', 'ncols': 3}
    figure.legend(frameon=False, fontsize=7.5, title='FLOPs', title_fontsize=8,
                  **(below if _is_narrow(figure) else {'loc': 'outside right center'}))  # fmt: skip
    read = ', read between runs' if points['between_runs'] else ''
    axes.set_title(f'isoFLOP curves and their minima{read}', fontsize=10, fontweight='bold')
    if points['between_runs']:
        return []  # no point is a run
    return [Points(axes, np.array(shown, int), data['params'][shown], data['loss'][shown])]


def _splits(figure: Figure, result: dict[str, Any]) -> list[Points]:
    left, right = _panels(figure, 2)
    data = _columns(result)
    grid = np.geomspace(data['flops'].min(), data['flops'].max() * 10, 60)
    for axes, power, label in ((left, 'n', 'N*: ' + _about(result)[0]), (right, 'd', 'D*: tokens')):
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.plot(data['flops'], data['params' if power == 'n' else 'tokens'], '.', color=QUIET, ms=3, alpha=0.5)
        for number, one in result['approaches'].items():
            if one['note']:
                continue
            colour, name = APPROACHES[number]
            exponent = one['a' if power == 'n' else 'b']
            axes.plot(grid, one[f'{power}_coefficient'] * grid**exponent, color=colour, lw=1.5,
                      label=f'{number} {name}: C$^{{{exponent:.3f}}}$')  # fmt: skip
            _band(axes, one, power, colour)
        if '2' in result['approaches'] and not result['approaches']['2']['note']:
            for one in result['approaches']['2']['minima']:
                value = one['params' if power == 'n' else 'tokens']
                filled = APPROACHES['2'][0] if not one['note'] else 'white'
                axes.plot(one['flops'], value, 'o', mfc=filled, mec=APPROACHES['2'][0], ms=5)
        axes.set_xlabel(_about(result)[1])
        axes.set_ylabel(label)
        ticks(axes, 'x')
        ticks(axes, 'y')
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False, fontsize=7.5)
    figure.suptitle('How compute is best split', fontsize=10, fontweight='bold')
    every = np.arange(len(data['flops']))
    return [Points(axes, every, data['flops'], data[name]) for axes, name in ((left, 'params'), (right, 'tokens'))]


def _band(axes: Axes, one: dict[str, Any], power: str, colour: str) -> None:
    """The 95% band along compute."""
    band = one.get('band')
    if not band:
        return
    low, high = np.array(band['params_low']), np.array(band['params_high'])
    flops = np.array(band['flops'])
    if power == 'd':
        cost = one['cost']
        low, high = flops / (cost['k'] * high ** cost['p']), flops / (cost['k'] * low ** cost['p'])
    axes.fill_between(flops, low, high, color=colour, alpha=0.15, lw=0)


def _residuals(figure: Figure, result: dict[str, Any]) -> list[Points]:
    data = _columns(result)
    percent = 100 * np.expm1(data['log_residual'])
    panels = (('params', _about(result)[0]), ('tokens', 'training tokens'), ('ratio', 'tokens per parameter'))
    data['ratio'] = data['tokens'] / data['params']
    axes = _panels(figure, 3, sharey=True)
    for panel, (name, label) in zip(axes, panels, strict=True):
        panel.set_xscale('log')
        if result['seed_noise']:
            sd = 100 * result['seed_noise']['log_loss_sd']
            panel.axhspan(-sd, sd, color=QUIET, alpha=0.2, lw=0, label='1 seed sigma' if name == 'params' else None)
        panel.axhline(0, color=LAW, lw=1)
        panel.plot(data[name], percent, 'o', color=MEASURED, ms=3, alpha=0.7)
        panel.set_xlabel(label)
        ticks(panel, 'x')
        panel.grid(alpha=0.25, lw=0.5)
    axes[len(axes) // 2 if _is_narrow(figure) else 0].set_ylabel('measured over law (%)')
    if result['seed_noise']:
        axes[0].legend(frameon=False, fontsize=7.5)
    figure.suptitle('What the law leaves', fontsize=10, fontweight='bold')
    every = np.arange(len(percent))
    return [Points(panel, every, data[name], percent) for panel, (name, _) in zip(axes, panels, strict=True)]
