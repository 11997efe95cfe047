"""Figures of a fit over parameters and tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gpt_jax.scaling import parametric_fit
from gpt_jax.scaling.loss_units import label_unit
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    LAW_COLOR,
    MEASURED_COLOR,
    MUTED_COLOR,
    NARROW_INCHES,
    RC_PARAMS,
    format_tick,
    save_figure,
    set_log_ticks,
    set_loss_ticks,
)

APPROACH_STYLES = {  # color and name
    '1': ('#27ae60', 'envelope'),
    '2': ('#e67e22', 'isoFLOP'),
    '3': (LAW_COLOR, 'parametric'),
    'auto': ('#8e44ad', 'auto'),
}
COUNT_LABELS = {'as given': 'parameters'}
FLOPS_LABELS = {'column': 'training FLOPs', '6ND': 'training FLOPs (6ND)'}


class RunPoints(NamedTuple):
    """Positions of runs in a figure.

    Attributes:
      axes: the axes with the points.
      runs: indices into the result's residuals, [points].
      x, y: data coordinates in the axes, [points].
    """

    axes: Axes
    runs: np.ndarray
    x: np.ndarray
    y: np.ndarray


class ReportFigure(NamedTuple):
    """A figure, its name, and the positions of its runs."""

    name: str
    figure: Figure
    points: list[RunPoints]


DrawFn = Callable[[Figure, dict[str, Any]], list[RunPoints]]


def draw_fit_figures(result: dict[str, Any], folder: str) -> list[Path]:
    """Draw a result of analyze_parametric into a folder; return the files."""
    paths = []
    for drawing in make_fit_figures(result):
        paths += save_figure(drawing.figure, Path(folder) / f'{drawing.name}.png')
    return paths


def make_fit_figures(result: dict[str, Any], *, narrow: bool = False) -> list[ReportFigure]:
    """Return the figures whose numbers the result has.

    Args:
      result: the result of analyze_parametric, analyze_power_law or describe_runs.
      narrow: make the figures for narrow screens, with stacked panels.
    """
    splits = result.get('approaches', {})
    # Name, function, condition, and sizes in inches of the wide and the narrow figure.
    specs: tuple[tuple[str, DrawFn, bool, tuple[float, float], tuple[float, float]], ...] = (
        ('loss_over_compute', _draw_loss_over_compute, True, (5.6, 4.2), (3.8, 3.9)),
        ('isoflop', _draw_isoflop, 'minima' in splits.get('2', {}), (5.6, 4.4), (3.8, 4.4)),
        (
            'optimal_split',
            _draw_optimal_split,
            any(not split['note'] for split in splits.values()),
            (7.2, 3.6),
            (3.8, 6.2),
        ),
        ('residuals', _draw_residuals, 'fit' in result, (8.0, 3.0), (3.8, 7.0)),
    )
    return [
        _make_figure(draw, result, name, narrow_size if narrow else wide_size)
        for name, draw, has_numbers, wide_size, narrow_size in specs
        if has_numbers
    ]


def _make_figure(
    draw: DrawFn, result: dict[str, Any], name: str, size: tuple[float, float]
) -> ReportFigure:
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=size, layout='constrained')
        return ReportFigure(name, figure, draw(figure, result))


def _make_panels(figure: Figure, count: int, **options: Any) -> np.ndarray:
    """Make axes side by side, or stacked in a narrow figure."""
    shape = (count, 1) if _is_narrow(figure) else (1, count)
    return figure.subplots(*shape, **options)


def _is_narrow(figure: Figure) -> bool:
    return figure.get_figwidth() < NARROW_INCHES


def _get_columns(result: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.array(values)
        for name, values in result['residuals'].items()
        if name not in ('name', 'curves')
    }


def _get_labels(result: dict[str, Any]) -> tuple[str, str]:
    """Return the labels of parameters and FLOPs, with their conventions."""
    count, flops = result['data']['count'], result['data']['flops']
    return (
        COUNT_LABELS.get(count, f'parameters ({count.replace("_", " ")})'),
        FLOPS_LABELS.get(flops, f'training FLOPs ({flops.replace("_", " ")})'),
    )


def _get_loss_label(result: dict[str, Any]) -> str:
    return f'loss ({label_unit(result["data"]["loss_unit"])})'


def _set_title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, fontweight='bold')


def _draw_loss_over_compute(figure: Figure, result: dict[str, Any]) -> list[RunPoints]:
    axes, data = figure.subplots(), _get_columns(result)
    count_label, flops_label = _get_labels(result)
    axes.set_xscale('log')
    axes.set_yscale('log')
    sizes = np.log10(data['params'])
    dots = axes.scatter(data['flops'], data['loss'], c=sizes, cmap='viridis', s=14, zorder=3)
    position = {'location': 'bottom', 'aspect': 40} if _is_narrow(figure) else {'pad': 0.01}
    bar = figure.colorbar(dots, ax=axes, **position)
    formatter = FuncFormatter(lambda value, _: format_tick(float(f'{10**value:.2g}')))
    bar.ax.xaxis.set_major_formatter(formatter)
    bar.ax.yaxis.set_major_formatter(formatter)
    bar.set_label(count_label)
    envelope = sorted(result['envelope'], key=lambda run: data['flops'][run])
    flops, loss = data['flops'][envelope], data['loss'][envelope]
    axes.plot(flops, loss, color=MEASURED_COLOR, lw=1.1, zorder=2, label='envelope of the runs')
    split = result.get('approaches', {}).get('3')
    if split and not split['note']:
        grid = np.geomspace(data['flops'].min(), data['flops'].max() * 10, 100)
        n = split['n_coefficient'] * grid ** split['a']
        d = split['d_coefficient'] * grid ** split['b']
        predicted = parametric_fit.ParametricLaw(**result['fit']).predict(n, d)
        axes.plot(grid, predicted, color=HELD_OUT_COLOR, lw=1.5, label='law at the optimal split')
    _draw_curves(axes, result, data, dots.to_rgba(sizes))
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(flops_label)
    axes.set_ylabel(_get_loss_label(result))
    set_log_ticks(axes, 'x')
    set_loss_ticks(axes)
    axes.grid(alpha=0.25, lw=0.5)
    law = f' and the law {result["fit"]["law"]}' if 'fit' in result else ''
    _set_title(axes, f'{len(data["loss"])} runs{law}')
    return [RunPoints(axes, np.arange(len(sizes)), data['flops'], data['loss'])]


def _draw_curves(
    axes: Axes, result: dict[str, Any], data: dict[str, np.ndarray], colors: np.ndarray
) -> None:
    """Draw training curves at each run's FLOPs per token, cut off far above all points."""
    low, high = data['loss'].min(), data['loss'].max()
    top = high * max(1.1, (high / low) ** 0.5)
    visible_flops = []
    for run, curve in enumerate(result['residuals']['curves']):
        if curve:
            tokens, loss = np.array(curve).T
            flops = tokens * data['flops'][run] / data['tokens'][run]
            axes.plot(flops, loss, color=colors[run], lw=0.6, alpha=0.6, zorder=1)
            visible_flops += flops[loss <= top].tolist()
    if visible_flops:
        axes.set_ylim(top=top)
        axes.set_xlim(left=min(*visible_flops, data['flops'].min()) / 1.3)


def _draw_isoflop(figure: Figure, result: dict[str, Any]) -> list[RunPoints]:
    axes = figure.subplots()
    shown: list[int] = []
    minima, points = result['approaches']['2']['minima'], result['approaches']['2']['points']
    params, losses = np.array(points['params']), np.array(points['loss'])
    colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(minima)))
    axes.set_xscale('log')
    for minimum, color in zip(minima, colors, strict=True):
        used, others = minimum['used'], minimum['others']
        shown += [*used, *others]
        axes.plot(params[used], losses[used], 'o', color=color, ms=4.5)
        axes.plot(params[others], losses[others], 'o', mfc='white', mec=color, ms=4.5)
        x = np.linspace(np.log(params[used]).min(), np.log(params[used]).max(), 60)
        fitted = np.exp(np.polynomial.Polynomial(minimum['curve'])(x - minimum['centre']))
        axes.plot(np.exp(x), fitted, color=color, lw=1.2, label=f'{minimum["flops"]:.1e}')
        if not minimum['note']:
            axes.plot(minimum['params'], minimum['loss'], '*', color=HELD_OUT_COLOR, ms=9, zorder=4)
    axes.plot([], [], '*', color=HELD_OUT_COLOR, ms=8, label='minimum')
    axes.plot([], [], 'o', mfc='white', mec=MUTED_COLOR, ms=4.5, label='outside the window')
    axes.set_xlabel(_get_labels(result)[0])
    axes.set_ylabel(_get_loss_label(result))
    set_log_ticks(axes, 'x')
    axes.grid(alpha=0.25, lw=0.5)
    position: dict[str, Any] = {'loc': 'outside right center'}
    if _is_narrow(figure):
        position = {'loc': 'outside lower center', 'ncols': 3}
    figure.legend(frameon=False, fontsize=7.5, title='FLOPs', title_fontsize=8, **position)
    interpolated = ', interpolated between runs' if points['between_runs'] else ''
    _set_title(axes, f'isoFLOP curves and their minima{interpolated}')
    if interpolated:
        return []  # the points are not runs
    return [RunPoints(axes, np.array(shown, int), params[shown], losses[shown])]


def _draw_optimal_split(figure: Figure, result: dict[str, Any]) -> list[RunPoints]:
    data, runs = _get_columns(result), np.arange(len(result['residuals']['flops']))
    count_label, flops_label = _get_labels(result)
    points = []
    for axes, column, variable, label in zip(
        _make_panels(figure, 2),
        ('params', 'tokens'),
        'nd',
        (f'N*: {count_label}', 'D*: tokens'),
        strict=True,
    ):
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.plot(data['flops'], data[column], '.', color=MUTED_COLOR, ms=3, alpha=0.5)
        _draw_splits(axes, result['approaches'], data['flops'], variable)
        axes.set_xlabel(flops_label)
        axes.set_ylabel(label)
        set_log_ticks(axes, 'x')
        set_log_ticks(axes, 'y')
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(frameon=False, fontsize=7.5)
        points.append(RunPoints(axes, runs, data['flops'], data[column]))
    figure.suptitle('Compute-optimal split', fontsize=10, fontweight='bold')
    return points


def _draw_splits(axes: Axes, approaches: dict[str, Any], flops: np.ndarray, variable: str) -> None:
    """Draw N* or D* over compute by every approach.

    Args:
      axes: the axes to draw into.
      approaches: the approaches of the result.
      flops: FLOPs of the runs.
      variable: 'n' or 'd'.
    """
    grid = np.geomspace(flops.min(), flops.max() * 10, 60)
    for number, split in approaches.items():
        if split['note']:
            continue
        color, name = APPROACH_STYLES[number]
        exponent = split['a' if variable == 'n' else 'b']
        title = name if number == name else f'{number} {name}'
        label = f'{title}: C$^{{{exponent:.3f}}}$'
        optimum = split[f'{variable}_coefficient'] * grid**exponent
        axes.plot(grid, optimum, color=color, lw=1.5, label=label)
        _draw_band(axes, split, variable, color)
    if '2' in approaches and not approaches['2']['note']:
        color = APPROACH_STYLES['2'][0]
        for minimum in approaches['2']['minima']:
            value = minimum['params' if variable == 'n' else 'tokens']
            fill = 'white' if minimum['note'] else color
            axes.plot(minimum['flops'], value, 'o', mfc=fill, mec=color, ms=5)


def _draw_band(axes: Axes, split: dict[str, Any], variable: str, color: str) -> None:
    """Draw the 95% band over compute."""
    band = split.get('band')
    if not band:
        return
    low, high = np.array(band['params_low']), np.array(band['params_high'])
    flops = np.array(band['flops'])
    if variable == 'd':
        k, p = split['cost']['k'], split['cost']['p']  # C = k N^p D
        low, high = flops / (k * high**p), flops / (k * low**p)
    axes.fill_between(flops, low, high, color=color, alpha=0.15, lw=0)


def _draw_residuals(figure: Figure, result: dict[str, Any]) -> list[RunPoints]:
    data = _get_columns(result)
    data['ratio'] = data['tokens'] / data['params']
    percent = 100 * np.expm1(data['log_residual'])
    labels = {
        'params': _get_labels(result)[0],
        'tokens': 'training tokens',
        'ratio': 'tokens per parameter',
    }
    panels = _make_panels(figure, len(labels), sharey=True)
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        axes.set_xscale('log')
        if result['seed_noise']:
            sigma = 100 * result['seed_noise']['log_loss_sd']
            noise_label = '1 seed sigma' if name == 'params' else None
            axes.axhspan(-sigma, sigma, color=MUTED_COLOR, alpha=0.2, lw=0, label=noise_label)
        axes.axhline(0, color=LAW_COLOR, lw=1)
        axes.plot(data[name], percent, 'o', color=MEASURED_COLOR, ms=3, alpha=0.7)
        axes.set_xlabel(label)
        set_log_ticks(axes, 'x')
        axes.grid(alpha=0.25, lw=0.5)
    labelled = len(panels) // 2 if _is_narrow(figure) else 0
    panels[labelled].set_ylabel('measured over law (%)')
    if result['seed_noise']:
        panels[0].legend(frameon=False, fontsize=7.5)
    figure.suptitle('Residuals of the law', fontsize=10, fontweight='bold')
    runs = np.arange(len(percent))
    return [
        RunPoints(axes, runs, data[name], percent)
        for axes, name in zip(panels, labels, strict=True)
    ]
