"""How does a comparison of two recipes look? Both envelopes with their laws, and the multiplier over the loss."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gpt_jax.scaling.view.figures import Points, figure, loss_ticks, ticks
from gpt_jax.scaling.view.plots import HELD_OUT, LAW, MEASURED, QUIET, save


def compare(result: dict[str, Any], folder: str) -> list[Path]:
    """Draws what comparison.compare returned: both envelopes with their laws, and the multiplier over the loss."""
    return save(figure(_comparison, result, 'compare', (7.6, 3.6)).figure, Path(folder) / 'compare.png')


def _comparison(drawn: Figure, result: dict[str, Any]) -> list[Points]:
    left, right = drawn.subplots(1, 2)
    left.set_xscale('log')
    left.set_yscale('log')
    for name, colour in (('A', MEASURED), ('B', HELD_OUT)):
        points, law = result['envelopes'][name], result['laws'][name]
        flops = np.array(points['flops'])
        grid = np.geomspace(flops.min(), flops.max(), 80)
        left.plot(flops, points['loss'], 'o', color=colour, ms=4)
        left.plot(grid, law['E'] + law['K'] * grid ** -law['gamma'], color=colour, lw=1.4,
                  label=f'{name}: C$^{{-{law["gamma"]:.3f}}}$')  # fmt: skip
    left.set_xlabel('training FLOPs')
    left.set_ylabel('loss (nats/token)')
    ticks(left, 'x')
    loss_ticks(left)
    left.legend(frameon=False, fontsize=8)
    right.fill_between(result['loss'], result['low'], result['high'], color=LAW, alpha=0.18, lw=0)
    right.plot(result['loss'], result['multiplier'], color=LAW, lw=1.6)
    right.axhline(1, color=QUIET, lw=1, ls=':')
    right.invert_xaxis()
    right.set_xlabel('loss (nats/token), falling')
    right.set_ylabel('compute of A over compute of B')
    for axes in (left, right):
        axes.grid(alpha=0.25, lw=0.5)
    drawn.suptitle('How much compute B saves', fontsize=10, fontweight='bold')
    return []
