"""Figure of the gain from examples: accuracy by shots, and gain by parameters.

python experiments/in_context/draw.py

Draws results.jsonl of this folder, which measure.py writes before it calls this, as in_context.png
and .svg, and prints the tables of the page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpt_jax.core import files
from gpt_jax.evaluation.statistics import wilson_interval
from gpt_jax.scaling.report.figure_style import MUTED_COLOR, RC_PARAMS, save_figure

HERE = Path(__file__).parent
Record = dict[str, Any]


def main(folder: Path = HERE) -> list[Path]:
    records = files.read_jsonl(folder / 'results.jsonl')
    models = [r for r in records if r['name'] != 'ideal']
    sizes = sorted({(r['params_non_embedding'], r['size']) for r in models})
    by_size = {size: [r for r in models if r['size'] == size] for _, size in sizes}
    _print_tables(by_size)
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(8.4, 4.0), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _plot_accuracy(left, by_size, [r for r in records if r['name'] == 'ideal'])
        _plot_gain(right, dict(sizes), by_size)
        for axes in (left, right):
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle(
            'Larger models gain more from the examples they are shown',
            fontsize=10,
            fontweight='bold',
        )
        return save_figure(figure, folder / 'in_context.png')


def compute_accuracy(
    records: Sequence[Record], shown: str, shots: int
) -> tuple[float, float, float]:
    """Return (mean over seeds, low, high); the interval covers the questions, not the seeds."""
    matches = [r for r in records if (r['shown'], r['shots']) == (shown, shots)]
    share = float(np.mean([r['exact'] for r in matches]))
    count = matches[0]['questions']
    interval = wilson_interval(round(share * count), count)
    return share, interval.low, interval.high


def list_shots(records: Sequence[Record]) -> list[int]:
    return sorted({r['shots'] for r in records if r['shown'] == 'own'})


def _plot_accuracy(axes: Axes, by_size: dict[str, list[Record]], ideal: list[Record]) -> None:
    axes.plot(range(len(ideal)), [r['exact'] for r in ideal], ':', color=MUTED_COLOR, lw=1.2)
    axes.annotate(
        'a reader who knows all rules',
        (len(ideal) - 1, 1),
        xytext=(0, -18),
        textcoords='offset points',
        ha='right',
        fontsize=7.5,
        color=MUTED_COLOR,
    )
    for position, ((size, records), color) in enumerate(
        zip(by_size.items(), _make_colors(len(by_size)), strict=True)
    ):
        shots = list_shots(records)
        share, low, high = np.array([compute_accuracy(records, 'own', count) for count in shots]).T
        x = np.arange(len(shots)) + 0.03 * (position - len(by_size) / 2)
        axes.errorbar(
            x,
            share,
            yerr=[share - low, high - share],
            fmt='o-',
            ms=3,
            lw=1.3,
            capsize=1.5,
            color=color,
            label=size,
        )
        share, low, high = compute_accuracy(records, 'other', shots[-1])
        axes.errorbar(
            len(shots) + 0.12 * (position - (len(by_size) - 1) / 2),
            share,
            yerr=[[share - low], [high - share]],
            fmt='x',
            ms=4,
            capsize=1.5,
            color=color,
        )
    axes.axvline(len(shots) - 0.5, color=MUTED_COLOR, lw=0.6)
    axes.set_xticks(range(len(shots) + 1), [*map(str, shots), f'{shots[-1]} of an-\nother rule'])
    axes.set_xlabel('examples shown')
    axes.set_ylabel('right answers')
    axes.set_ylim(-0.02, 1.02)


def _plot_gain(axes: Axes, sizes: dict[int, str], by_size: dict[str, list[Record]]) -> None:
    axes.set_xscale('log')
    means = []
    for (params, size), color in zip(sizes.items(), _make_colors(len(sizes)), strict=True):
        gains = [r for r in by_size[size] if r['shown'] == 'gain']
        for number, seed in enumerate(gains):
            axes.errorbar(
                params,
                seed['gain'],
                yerr=[[seed['gain'] - seed['low']], [seed['high'] - seed['gain']]],
                fmt='o',
                ms=4,
                capsize=2,
                color=color,
                label='' if number else size,
            )
        means.append(float(np.mean([r['gain'] for r in gains])))
    axes.plot(list(sizes), means, '-', color=MUTED_COLOR, lw=1.0, zorder=0)
    axes.set_xticks(list(sizes), [f'{params / 1000:.0f}k' for params in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('non-embedding parameters')
    axes.set_ylabel('gain from 8 examples')
    axes.set_ylim(min(0.0, *means) - 0.02, 1.02)
    axes.legend(
        frameon=False,
        fontsize=8,
        loc='upper left',
        title='each seed, and the mean',
        title_fontsize=8,
    )


def _make_colors(count: int) -> np.ndarray:
    return matplotlib.colormaps['viridis'](np.linspace(0.9, 0, count))


def _print_tables(by_size: dict[str, list[Record]]) -> None:
    first = next(iter(by_size.values()))
    shots = list_shots(first)
    print(
        '| size | '
        + ' | '.join(map(str, shots))
        + ' | 8 of another rule | follows that rule | log p per byte after 0 | after 8 |'
    )
    for size, records in by_size.items():
        shares = [compute_accuracy(records, 'own', count)[0] for count in shots]
        shares += [
            compute_accuracy(records, shown, shots[-1])[0] for shown in ('other', 'other, followed')
        ]
        nats = [
            _average(records, 'own', count, lambda r: r['log_p_per_byte'])
            for count in (shots[0], shots[-1])
        ]
        print(
            f'| {size} | '
            + ' | '.join([f'{share:.3f}' for share in shares] + [f'{value:.2f}' for value in nats])
            + ' |'
        )
    rules = next(r for r in first if 'rules' in r)['rules']
    print(f'| after {shots[-1]} | ' + ' | '.join([*rules, 'new word', 'new pair']) + ' |')
    for size, records in by_size.items():
        shares = [
            _average(records, 'own', shots[-1], lambda r, rule=rule: r['rules'][rule])
            for rule in rules
        ]
        shares += [
            _average(records, 'own', shots[-1], lambda r, kind=kind: r['about'][kind])
            for kind in ('new word', 'new pair')
        ]
        print(f'| {size} | ' + ' | '.join(f'{share:.2f}' for share in shares) + ' |')


def _average(records: Sequence[Record], shown: str, shots: int, value: Any) -> float:
    return float(np.mean([value(r) for r in records if (r['shown'], r['shots']) == (shown, shots)]))


if __name__ == '__main__':
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path in main():
        print(f'  {path}')
