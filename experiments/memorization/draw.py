"""Figure of recalled strings by repetitions and parameters.

python experiments/memorization/draw.py

Draws results.jsonl of this folder, which measure.py writes before it calls this, as
memorization.png and .svg, and prints the tables of the page.
"""

import argparse
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

from gpt_jax.core import files
from gpt_jax.evaluation.memorization import CANARY_LETTERS
from gpt_jax.scaling.report.figure_style import MUTED_COLOR, RC_PARAMS, save_figure

HERE = Path(__file__).parent
Record = dict[str, Any]
# Nats per byte of a word of three consonants and two vowels and a space, under their distribution.
BASELINE = (3 * math.log(len(CANARY_LETTERS[0])) + 2 * math.log(len(CANARY_LETTERS[1]))) / 6


def main(folder: Path = HERE) -> list[Path]:
    records = files.read_jsonl(folder / 'results.jsonl')
    sizes = dict(sorted({(r['params_non_embedding'], r['size']) for r in records}))
    by_size = {
        size: [r for r in records if r['size'] == size and isinstance(r['group'], int)]
        for size in sizes.values()
    }
    _print_tables(by_size, records)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(10.0, 3.7), layout='constrained')
        panels = figure.subplots(1, 3)
        _plot_by_repetitions(panels[0], by_size, 'exact')
        panels[0].set_ylabel('strings recalled without a fault')
        _plot_by_parameters(panels[1], sizes, by_size)
        _plot_by_repetitions(panels[2], by_size, 'nats_per_byte')
        panels[2].axhline(BASELINE, color=MUTED_COLOR, lw=1, ls=':')
        panels[2].annotate(
            'nothing\nknown of\nthe string',
            (0.02, BASELINE),
            xycoords=('axes fraction', 'data'),
            xytext=(0, -3),
            textcoords='offset points',
            va='top',
            fontsize=7,
            color=MUTED_COLOR,
        )
        panels[2].set_ylabel('second half: nats per byte')
        panels[2].set_ylim(bottom=0)
        panels[0].legend(frameon=False, fontsize=8, loc='upper left')
        for axes in panels:
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle(
            'Larger models keep more, and after fewer repetitions', fontsize=10, fontweight='bold'
        )
        return save_figure(figure, folder / 'memorization.png')


def _plot_by_repetitions(axes: Axes, by_size: dict[str, list[Record]], column: str) -> None:
    colors = matplotlib.colormaps['viridis'](np.linspace(0.9, 0, len(by_size)))
    for position, ((size, records), color) in enumerate(zip(by_size.items(), colors, strict=True)):
        rows = sorted(records, key=lambda record: record['group'])
        x = np.arange(len(rows)) + 0.05 * (position - len(by_size) / 2)
        axes.plot(x, [row[column] for row in rows], 'o-', ms=3, lw=1.3, color=color, label=size)
        if column == 'exact':
            axes.vlines(
                x, [row['low'] for row in rows], [row['high'] for row in rows], color=color, lw=0.8
            )
    axes.set_xticks(range(len(rows)), [str(row['group']) for row in rows])
    axes.set_xlabel('repetitions in the training text')


def _plot_by_parameters(
    axes: Axes, sizes: dict[int, str], by_size: dict[str, list[Record]]
) -> None:
    counts = sorted({r['group'] for records in by_size.values() for r in records if r['group']})
    colors = matplotlib.colormaps['plasma'](np.linspace(0.85, 0, len(counts)))
    axes.set_xscale('log')
    for count, color in zip(counts, colors, strict=True):
        rows = [r for size in sizes.values() for r in by_size[size] if r['group'] == count]
        axes.plot(
            list(sizes),
            [row['exact'] for row in rows],
            'o-',
            ms=3,
            lw=1.3,
            color=color,
            label=str(count),
        )
    axes.set_xticks(list(sizes), [f'{params / 1000:.0f}k' for params in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('non-embedding parameters')
    axes.legend(frameon=False, fontsize=8, loc='upper left', title='repetitions', title_fontsize=8)


def _print_tables(by_size: dict[str, list[Record]], records: list[Record]) -> None:
    for column, form in (('exact', '.2f'), ('matched', '.1f'), ('nats_per_byte', '.2f')):
        counts = sorted(record['group'] for record in next(iter(by_size.values())))
        print(f'| {column} | ' + ' | '.join(map(str, counts)) + ' |')
        for size, rows in by_size.items():
            by_count = {row['group']: row[column] for row in rows}
            print(
                f'| {size} | '
                + ' | '.join(format(by_count[count], form) for count in counts)
                + ' |'
            )
    print('| windows | trained on: exact | nats/byte | held out: exact | nats/byte |')
    for size in by_size:
        cells = []
        for group in ('trained on', 'held out'):
            (row,) = [r for r in records if (r['size'], r['group']) == (size, group)]
            cells += [
                f'{row["exact"]:.3f} ({row["low"]:.3f} to {row["high"]:.3f})',
                f'{row["nats_per_byte"]:.3f}',
            ]
        print(f'| {size} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path in main():
        print(f'  {path}')
