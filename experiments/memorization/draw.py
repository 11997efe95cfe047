"""How does memorization look? Recalled strings over repetitions and over parameters, and how sure the models are.

python experiments/memorization/draw.py

Draws results.jsonl beside this file (measure.py writes it, and calls this) as memorization.png and .svg, and prints the
page's tables.
"""

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax import jsonl
from gpt_jax.evaluate.memorization import LETTERS
from gpt_jax.scaling.view.plots import QUIET, STYLE, save

HERE = Path(__file__).parent
Line = dict[str, Any]
# Nats per byte of words of three consonants and two vowels with a space, to whom knows how they are drawn.
GUESS = (3 * math.log(len(LETTERS[0])) + 2 * math.log(len(LETTERS[1]))) / 6


def main(folder: Path = HERE) -> list[Path]:
    lines = jsonl.read(folder / 'results.jsonl')
    sizes = dict(sorted({(one['params_non_embedding'], one['size']) for one in lines}))
    of = {size: [one for one in lines if one['size'] == size and isinstance(one['group'], int)]
          for size in sizes.values()}  # fmt: skip
    _say(of, lines)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.7), layout='constrained')
        panels = figure.subplots(1, 3)
        _over_repetitions(panels[0], of, 'exact')
        panels[0].set_ylabel('strings recalled without a fault')
        _over_parameters(panels[1], sizes, of)
        _over_repetitions(panels[2], of, 'nats_per_byte')
        panels[2].axhline(GUESS, color=QUIET, lw=1, ls=':')
        panels[2].annotate('nothing\nknown of\nthe string', (0.02, GUESS), xycoords=('axes fraction', 'data'),
                           xytext=(0, -3), textcoords='offset points', va='top', fontsize=7, color=QUIET)  # fmt: skip
        panels[2].set_ylabel('second half: nats per byte')
        panels[2].set_ylim(bottom=0)
        panels[0].legend(frameon=False, fontsize=8, loc='upper left')
        for axes in panels:
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle('Larger models keep more, and after fewer repetitions', fontsize=10, fontweight='bold')
        return save(figure, folder / 'memorization.png')


def _over_repetitions(axes: Axes, of: dict[str, list[Line]], column: str) -> None:
    colours = matplotlib.colormaps['viridis'](np.linspace(0.9, 0, len(of)))
    for place, ((size, lines), colour) in enumerate(zip(of.items(), colours, strict=True)):
        mine = sorted(lines, key=lambda one: one['group'])
        x = np.arange(len(mine)) + 0.05 * (place - len(of) / 2)
        axes.plot(x, [one[column] for one in mine], 'o-', ms=3, lw=1.3, color=colour, label=size)
        if column == 'exact':
            axes.vlines(x, [one['low'] for one in mine], [one['high'] for one in mine], color=colour, lw=0.8)
    axes.set_xticks(range(len(mine)), [str(one['group']) for one in mine])
    axes.set_xlabel('repetitions in the training text')


def _over_parameters(axes: Axes, sizes: dict[int, str], of: dict[str, list[Line]]) -> None:
    counts = sorted({one['group'] for lines in of.values() for one in lines if one['group']})
    colours = matplotlib.colormaps['plasma'](np.linspace(0.85, 0, len(counts)))
    axes.set_xscale('log')
    for count, colour in zip(counts, colours, strict=True):
        mine = [one for size in sizes.values() for one in of[size] if one['group'] == count]
        axes.plot(list(sizes), [one['exact'] for one in mine], 'o-', ms=3, lw=1.3, color=colour, label=str(count))
    axes.set_xticks(list(sizes), [f'{params / 1000:.0f}k' for params in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('non-embedding parameters')
    axes.legend(frameon=False, fontsize=8, loc='upper left', title='repetitions', title_fontsize=8)


def _say(of: dict[str, list[Line]], lines: list[Line]) -> None:
    for column, form in (('exact', '.2f'), ('matched', '.1f'), ('nats_per_byte', '.2f')):
        counts = sorted(one['group'] for one in next(iter(of.values())))
        print(f'| {column} | ' + ' | '.join(map(str, counts)) + ' |')
        for size, some in of.items():
            by_count = {one['group']: one[column] for one in some}
            print(f'| {size} | ' + ' | '.join(format(by_count[count], form) for count in counts) + ' |')
    print('| windows | trained on: exact | nats/byte | held out: exact | nats/byte |')
    for size in of:
        cells = []
        for group in ('trained on', 'held out'):
            (one,) = [line for line in lines if (line['size'], line['group']) == (size, group)]
            cells += [f'{one["exact"]:.3f} ({one["low"]:.3f} to {one["high"]:.3f})', f'{one["nats_per_byte"]:.3f}']
        print(f'| {size} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    for path in main():
        print(f'  {path}')
