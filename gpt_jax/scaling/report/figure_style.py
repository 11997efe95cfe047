"""Shared style of the figures: colors, labels, ticks, and saving as PNG and SVG."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from gpt_jax.core import files

# Distinct in grayscale and to the color-blind.
MEASURED_COLOR, HELD_OUT_COLOR, LAW_COLOR, MUTED_COLOR = '#1f3b5c', '#c0392b', '#2e86c1', '#7f8c8d'
COLUMN_LABELS = {
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
RC_PARAMS: Any = {
    'font.size': 9.0,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'svg.fonttype': 'none',  # text stays text: it can be searched and edited
    'svg.hashsalt': 'scaling',  # equal figures give equal files
}
NARROW_INCHES = 5.0  # below this width, a figure stacks its panels and legend


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as .png and .svg; return the two paths."""
    paths = []
    for suffix, options in (('.png', {'dpi': 200}), ('.svg', {'metadata': {'Date': None}})):
        content = io.BytesIO()
        with matplotlib.rc_context(RC_PARAMS):
            figure.savefig(content, format=suffix[1:], **options)
        files.write_bytes(path.with_suffix(suffix), content.getvalue())
        paths.append(path.with_suffix(suffix))
    return paths


def format_tick(value: float) -> str:
    """Return the text of a tick: 500, 1k, 2.5k, 1M, 1.5B, 1e15."""
    if value >= 1e12:
        return f'{value:.0e}'.replace('e+', 'e')
    for limit, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:g}{unit}'
    return f'{value:g}'


def set_ticks(axis: Axis, ticks: Iterable[float], format_value: Any) -> None:
    """Set the major ticks of an axis, and remove the labels of minor ones."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
    axis.set_minor_formatter(NullFormatter())


def set_log_ticks(axes: Axes, which: str) -> None:
    """Set ticks at powers of ten, and for short ranges at their multiples by 2, 3 or 5.

    Args:
      axes: axes with a logarithmic axis whose label and limits are set.
      which: 'x' or 'y'.
    """
    low, high = axes.get_xlim() if which == 'x' else axes.get_ylim()
    steps = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 7) if steps == (1,) else 1
    ticks = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    axis = axes.xaxis if which == 'x' else axes.yaxis
    format_value = _format_power if 'FLOPs' in axis.get_label_text() else format_tick
    set_ticks(axis, [tick for tick in ticks if low <= tick <= high], format_value)


def _format_power(value: float) -> str:
    return f'{value:.0e}'.replace('e+0', 'e').replace('e+', 'e')


def set_loss_ticks(axes: Axes, max_ticks: int = 8) -> None:
    """Set ticks at round losses, including on a log axis that spans less than a decade."""
    low, high = axes.get_ylim()
    steps = (step * 10.0**power for power in range(-6, 6) for step in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= max_ticks)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    set_ticks(axes.yaxis, ticks.tolist(), '{:.4g}'.format)
