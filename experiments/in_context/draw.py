"""How does the gain from examples look? Two panels: right answers over shots, and the gain over parameters.

python experiments/in_context/draw.py

Draws results.jsonl beside this file (measure.py writes it, and calls this) as in_context.png and .svg, and prints the
page's tables.
"""

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

from gpt_jax import jsonl
from gpt_jax.evaluate.interval import wilson
from gpt_jax.scaling.view.plots import QUIET, STYLE, save

HERE = Path(__file__).parent
Line = dict[str, Any]


def main(folder: Path = HERE) -> list[Path]:
    lines = jsonl.read(folder / 'results.jsonl')
    models = [one for one in lines if one['name'] != 'ideal']
    sizes = sorted({(one['params_non_embedding'], one['size']) for one in models})
    of = {size: [one for one in models if one['size'] == size] for _, size in sizes}
    _say(of)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.0), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _accuracy(left, of, [one for one in lines if one['name'] == 'ideal'])
        _gain(right, dict(sizes), of)
        for axes in (left, right):
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle('Larger models gain more from the examples they are shown', fontsize=10, fontweight='bold')
        return save(figure, folder / 'in_context.png')


def mean(lines: Sequence[Line], shown: str, shots: int) -> tuple[float, float, float]:
    """(mean over seeds, low, high): the interval is that of so many questions, not of seeds."""
    some = [one for one in lines if (one['shown'], one['shots']) == (shown, shots)]
    share = float(np.mean([one['exact'] for one in some]))
    count = some[0]['questions']
    found = wilson(round(share * count), count)
    return share, found.low, found.high


def shots_of(lines: Sequence[Line]) -> list[int]:
    return sorted({one['shots'] for one in lines if one['shown'] == 'own'})


def _accuracy(axes: Axes, of: dict[str, list[Line]], ideal: list[Line]) -> None:
    axes.plot(range(len(ideal)), [one['exact'] for one in ideal], ':', color=QUIET, lw=1.2)
    axes.annotate('a reader who knows all rules', (len(ideal) - 1, 1), xytext=(0, -18), textcoords='offset points',
                  ha='right', fontsize=7.5, color=QUIET)  # fmt: skip
    for place, ((size, lines), colour) in enumerate(zip(of.items(), _colours(len(of)), strict=True)):
        shots = shots_of(lines)
        share, low, high = np.array([mean(lines, 'own', count) for count in shots]).T
        x = np.arange(len(shots)) + 0.03 * (place - len(of) / 2)
        axes.errorbar(x, share, yerr=[share - low, high - share], fmt='o-', ms=3, lw=1.3, capsize=1.5, color=colour,
                      label=size)  # fmt: skip
        share, low, high = mean(lines, 'other', shots[-1])
        axes.errorbar(len(shots) + 0.12 * (place - (len(of) - 1) / 2), share, yerr=[[share - low], [high - share]],
                      fmt='x', ms=4, capsize=1.5, color=colour)  # fmt: skip
    axes.axvline(len(shots) - 0.5, color=QUIET, lw=0.6)
    axes.set_xticks(range(len(shots) + 1), [*map(str, shots), f'{shots[-1]} of an-\nother rule'])
    axes.set_xlabel('examples shown')
    axes.set_ylabel('right answers')
    axes.set_ylim(-0.02, 1.02)


def _gain(axes: Axes, sizes: dict[int, str], of: dict[str, list[Line]]) -> None:
    axes.set_xscale('log')
    means = []
    for (params, size), colour in zip(sizes.items(), _colours(len(sizes)), strict=True):
        some = [one for one in of[size] if one['shown'] == 'gain']
        for number, seed in enumerate(some):
            axes.errorbar(params, seed['gain'], yerr=[[seed['gain'] - seed['low']], [seed['high'] - seed['gain']]],
                          fmt='o', ms=4, capsize=2, color=colour, label='' if number else size)  # fmt: skip
        means.append(float(np.mean([one['gain'] for one in some])))
    axes.plot(list(sizes), means, '-', color=QUIET, lw=1.0, zorder=0)
    axes.set_xticks(list(sizes), [f'{params / 1000:.0f}k' for params in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel('non-embedding parameters')
    axes.set_ylabel('gain from 8 examples')
    axes.set_ylim(min(0.0, *means) - 0.02, 1.02)
    axes.legend(frameon=False, fontsize=8, loc='upper left', title='each seed, and the mean', title_fontsize=8)


def _colours(count: int) -> np.ndarray:
    return matplotlib.colormaps['viridis'](np.linspace(0.9, 0, count))


def _say(of: dict[str, list[Line]]) -> None:
    shots = shots_of(next(iter(of.values())))
    print('| size | ' + ' | '.join(map(str, shots)) + ' | 8 of another rule | follow it | log p/byte, 0 | 8 |')
    for size, lines in of.items():
        shares = [mean(lines, 'own', count)[0] for count in shots]
        shares += [mean(lines, way, shots[-1])[0] for way in ('other', 'other, followed')]
        nats = [_average(lines, 'own', count, lambda one: one['log_p_per_byte']) for count in (shots[0], shots[-1])]
        print(f'| {size} | ' + ' | '.join([f'{one:.3f}' for one in shares] + [f'{one:.2f}' for one in nats]) + ' |')
    rules = next(one for one in next(iter(of.values())) if 'rules' in one)['rules']
    print(f'| after {shots[-1]} | ' + ' | '.join([*rules, 'new word', 'new pair']) + ' |')
    for size, lines in of.items():
        each = [_average(lines, 'own', shots[-1], lambda one, rule=rule: one['rules'][rule]) for rule in rules]
        each += [_average(lines, 'own', shots[-1], lambda one, kind=kind: one['about'][kind])
                 for kind in ('new word', 'new pair')]  # fmt: skip
        print(f'| {size} | ' + ' | '.join(f'{one:.2f}' for one in each) + ' |')


def _average(lines: Sequence[Line], shown: str, shots: int, value: Any) -> float:
    return float(np.mean([value(one) for one in lines if (one['shown'], one['shots']) == (shown, shots)]))


if __name__ == '__main__':
    for path in main():
        print(f'  {path}')
