"""What did each generation's architecture gain over the one before, in compute? The multipliers, and the figure.

python experiments/generations/draw.py experiments/generations/records.jsonl

Writes generations.json and generations.png, .svg beside this file. A generation's loss is fitted over compute through
all of its runs, L(C) = E + K C^-gamma, by least squares of the relative errors; its multiplier at a loss is the compute
that the generation before needs for it, over its own. Intervals are of draws of the runs of both generations, with
replacement.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gpt_jax import files, jsonl
from gpt_jax.scaling import confidence
from gpt_jax.scaling.view.plots import HELD_OUT, LAW, MEASURED, QUIET, STYLE, save

HERE = Path(__file__).parent
NAMES = {'gpt1': 'GPT-1', 'gpt2': 'GPT-2', 'gpt3': 'GPT-3', 'today': "today's"}
COLOURS = dict(zip(NAMES, (QUIET, MEASURED, LAW, HELD_OUT), strict=True))
DRAWS = 500
EXPONENTS = np.linspace(0.02, 1.0, 197)
COUNTS = {'6N': 'flops_6N', 'with_attention': 'flops_with_attention'}  # the records' fields
Runs = tuple[np.ndarray, np.ndarray]  # FLOPs and losses


class Law(NamedTuple):
    """E + K C^-gamma."""

    E: float
    K: float
    gamma: float

    def compute(self, loss: float) -> float:
        """The FLOPs that it takes to reach a loss; infinite at E and below."""
        return (self.K / (loss - self.E)) ** (1 / self.gamma) if loss > self.E else float('inf')


def _law(flops: np.ndarray, loss: np.ndarray) -> Law:
    """For each exponent the rest is a line, whose least squares are solved at once; the best exponent is taken."""
    weight = 1 / loss**2
    x = flops[None] ** -EXPONENTS[:, None]
    mean_x, mean_y = (x * weight).sum(1) / weight.sum(), (loss * weight).sum() / weight.sum()
    centred = x - mean_x[:, None]
    slope = (weight * centred * (loss - mean_y)).sum(1) / (weight * centred**2).sum(1)
    floor = np.maximum(mean_y - slope * mean_x, 0)
    slope = np.where(floor > 0, slope, (weight * x * loss).sum(1) / (weight * x**2).sum(1))
    errors = (weight * (floor[:, None] + slope[:, None] * x - loss) ** 2).sum(1)
    best = int(np.argmin(errors))
    return Law(float(floor[best]), float(slope[best]), float(EXPONENTS[best]))


def main(path: str, count: str) -> None:
    done = [one for one in jsonl.read(path) if one['status'] == 'done']
    runs = {name: _runs(done, name, COUNTS[count]) for name in NAMES}
    fitted = {name: _law(*one) for name, one in runs.items()}
    result: dict[str, Any] = {
        'laws': {name: law._asdict() for name, law in fitted.items()},
        'mean_loss': {name: _means(*one) for name, one in runs.items()},
        'multipliers': {f'{b} over {a}': _multiplier(runs, fitted, a, b) for a, b in pairwise(NAMES)},
        'today over gpt1': _multiplier(runs, fitted, 'gpt1', 'today'),
    }
    if count == '6N':  # by which the budgets were set
        files.write_json(HERE / 'generations.json', result)
    for pair, one in (result['multipliers'] | {'today over gpt1': result['today over gpt1']}).items():
        print(f'{pair}: {one["multiplier"]:.2f} ({one["low"]:.2f} to {one["high"]:.2f}) at a loss of {one["loss"]:.3f}')
    if count == '6N':
        for figure in _draw(runs, fitted, result):
            print(f'  {figure}')


def _runs(done: list[dict[str, Any]], name: str, field: str) -> Runs:
    mine = sorted((one for one in done if one['name'].startswith(f'{name}-')), key=lambda one: one[field])
    return np.array([one[field] for one in mine]), np.array([one['validation_loss'] for one in mine])


def _means(flops: np.ndarray, loss: np.ndarray) -> dict[str, float]:
    """Over the seeds of each budget; a budget is met to the step, so runs of one are alike to a percent."""
    budgets = np.round(np.log(flops), 1)
    return {f'{flops[budgets == b].mean():.3g}': float(loss[budgets == b].mean()) for b in np.unique(budgets)}


def _multiplier(runs: dict[str, Runs], fitted: dict[str, Law], a: str, b: str) -> dict[str, Any]:
    """At the middle (in the logarithm) of the losses that both reached."""
    low = max(float(runs[name][1].min()) for name in (a, b))
    high = min(float(runs[name][1].max()) for name in (a, b))
    loss = float(np.sqrt(low * high))
    random = np.random.default_rng(0)
    drawn = []
    while len(drawn) < DRAWS:
        both = {}
        for name in (a, b):
            flops, losses = runs[name]
            picked = random.integers(len(flops), size=len(flops))
            both[name] = flops[picked], losses[picked]
        if all(np.unique(np.round(np.log(flops), 1)).size >= 4 for flops, _ in both.values()):
            law = {name: _law(*one) for name, one in both.items()}
            drawn.append(law[a].compute(loss) / law[b].compute(loss))
    band = confidence.interval(np.array(drawn), 'the runs of both generations, with replacement')
    multiplier = fitted[a].compute(loss) / fitted[b].compute(loss)
    return {'loss': loss, 'multiplier': multiplier, 'low': band.low, 'high': band.high, 'level': confidence.LEVEL,
            'resampled': band.resampled}  # fmt: skip


def _draw(runs: dict[str, Runs], fitted: dict[str, Law], result: dict[str, Any]) -> list[Path]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.8), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        left.set_xscale('log')
        left.set_yscale('log')
        for name, (flops, loss) in runs.items():
            law, grid = fitted[name], np.geomspace(flops.min(), flops.max(), 80)
            left.plot(flops, loss, 'o', ms=3.5, color=COLOURS[name])
            left.plot(grid, law.E + law.K * grid**-law.gamma, lw=1.4, color=COLOURS[name],
                      label=NAMES[name])  # fmt: skip
        every = np.concatenate([loss for _, loss in runs.values()])
        ticks = np.arange(np.ceil(every.min() * 10) / 10, every.max(), 0.2)
        left.set_yticks(ticks, [f'{tick:.1f}' for tick in ticks])
        left.yaxis.set_minor_locator(NullLocator())
        budgets = np.unique(np.concatenate([flops for flops, _ in runs.values()]).round(-10))
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xticks(_spaced(budgets), [f'{flops:.2g}'.replace('e+', 'e') for flops in _spaced(budgets)])
        left.set_xlabel('training FLOPs (6N)')
        left.set_ylabel('validation loss (nats/byte)')
        left.legend(frameon=False, fontsize=8)
        for place, (pair, one) in enumerate(result['multipliers'].items()):
            error = [[one['multiplier'] - one['low']], [one['high'] - one['multiplier']]]
            right.errorbar(place, one['multiplier'], yerr=error, fmt='o', capsize=4, color=COLOURS[pair.split()[0]])
            right.annotate(f'{one["multiplier"]:.2f}', (place, one['multiplier']), xytext=(7, 0), fontsize=8,
                           textcoords='offset points', va='center')  # fmt: skip
        right.set_yscale('log')
        right.axhline(1, color=QUIET, lw=1, ls=':')
        words = [f'{NAMES[b]}\nover\n{NAMES[a]}' for a, b in pairwise(NAMES)]
        right.set_xticks(range(len(words)), words, fontsize=8)
        right.set_xlim(-0.5, len(words) - 0.3)
        right.set_yticks((0.5, 1, 2, 4), ('0.5', '1', '2', '4'))
        right.set_ylim(0.5, 6)
        right.yaxis.set_minor_locator(NullLocator())
        right.set_ylabel('compute multiplier')
        for axes in (left, right):
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle("What each generation's architecture saves in compute", fontsize=10, fontweight='bold')
        return save(figure, HERE / 'generations.png')


def _spaced(budgets: np.ndarray) -> list[float]:
    """One of those that are alike to a tenth."""
    kept: list[float] = []
    for flops in budgets:
        if not kept or flops > 1.1 * kept[-1]:
            kept.append(float(flops))
    return kept


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'records', nargs='?', default=str(HERE / 'records.jsonl'), help='of the sweep; the default: ours'
    )
    parser.add_argument('--count', choices=COUNTS, default='6N', help='other than 6N: prints the multipliers alone')
    flags = parser.parse_args()
    main(flags.records, flags.count)
