"""Compute multipliers between the generations' architectures, and the figure.

python experiments/generations/draw.py experiments/generations/records.jsonl

Writes generations.json, generations.png and .svg in this folder. The loss of a generation is fitted
to all of its runs as L(C) = E + K C^-gamma, by least squares of the relative errors. Its multiplier
at a loss is the compute that the previous generation needs for that loss, divided by its own.
Intervals are bootstraps over the runs of both generations.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gpt_jax.core import files
from gpt_jax.scaling import bootstrap
from gpt_jax.scaling.report.figure_style import (
    HELD_OUT_COLOR,
    LAW_COLOR,
    MEASURED_COLOR,
    MUTED_COLOR,
    RC_PARAMS,
    save_figure,
)

HERE = Path(__file__).parent
NAMES = {'gpt1': 'GPT-1', 'gpt2': 'GPT-2', 'gpt3': 'GPT-3', 'today': "today's"}
COLORS = dict(zip(NAMES, (MUTED_COLOR, MEASURED_COLOR, LAW_COLOR, HELD_OUT_COLOR), strict=True))
DRAWS = 500
EXPONENTS = np.linspace(0.02, 1.0, 197)
COUNTS = {'6N': 'flops_6N', 'with_attention': 'flops_with_attention'}  # the records' fields
Runs = tuple[np.ndarray, np.ndarray]  # FLOPs and losses


class Law(NamedTuple):
    """Loss over compute, E + K C^-gamma."""

    E: float
    K: float
    gamma: float

    def invert(self, loss: float) -> float:
        """Return the FLOPs needed to reach a loss; infinite at E and below."""
        return (self.K / (loss - self.E)) ** (1 / self.gamma) if loss > self.E else float('inf')


def _fit_law(flops: np.ndarray, loss: np.ndarray) -> Law:
    """Fit a law by linear least squares at each of EXPONENTS, and return the best."""
    weight = 1 / loss**2
    x = flops[None] ** -EXPONENTS[:, None]
    mean_x, mean_y = (x * weight).sum(1) / weight.sum(), (loss * weight).sum() / weight.sum()
    centered = x - mean_x[:, None]
    slope = (weight * centered * (loss - mean_y)).sum(1) / (weight * centered**2).sum(1)
    irreducible = np.maximum(mean_y - slope * mean_x, 0)
    slope = np.where(irreducible > 0, slope, (weight * x * loss).sum(1) / (weight * x**2).sum(1))
    errors = (weight * (irreducible[:, None] + slope[:, None] * x - loss) ** 2).sum(1)
    best = int(np.argmin(errors))
    return Law(float(irreducible[best]), float(slope[best]), float(EXPONENTS[best]))


def main(path: str, count: str) -> None:
    done = [record for record in files.read_jsonl(path) if record['status'] == 'done']
    runs = {name: _select_runs(done, name, COUNTS[count]) for name in NAMES}
    laws = {name: _fit_law(*points) for name, points in runs.items()}
    result: dict[str, Any] = {
        'laws': {name: law._asdict() for name, law in laws.items()},
        'mean_loss': {name: _compute_means(*points) for name, points in runs.items()},
        'multipliers': {
            f'{b} over {a}': _compute_multiplier(runs, laws, a, b) for a, b in pairwise(NAMES)
        },
        'today over gpt1': _compute_multiplier(runs, laws, 'gpt1', 'today'),
    }
    if count == '6N':  # the count of the budgets
        files.write_json(HERE / 'generations.json', result)
    pairs = result['multipliers'] | {'today over gpt1': result['today over gpt1']}
    for pair, gain in pairs.items():
        interval = f'{gain["low"]:.2f} to {gain["high"]:.2f}'
        print(f'{pair}: {gain["multiplier"]:.2f} ({interval}) at a loss of {gain["loss"]:.3f}')
    if count == '6N':
        for figure in _draw_figure(runs, laws, result):
            print(f'  {figure}')


def _select_runs(done: list[dict[str, Any]], name: str, field: str) -> Runs:
    records = [record for record in done if record['name'].startswith(f'{name}-')]
    records = sorted(records, key=lambda record: record[field])
    losses = np.array([record['validation_loss'] for record in records])
    return np.array([record[field] for record in records]), losses


def _compute_means(flops: np.ndarray, loss: np.ndarray) -> dict[str, float]:
    """Average over the seeds of each budget; runs of one budget differ by less than a percent."""
    budgets = np.round(np.log(flops), 1)
    return {
        f'{flops[budgets == b].mean():.3g}': float(loss[budgets == b].mean())
        for b in np.unique(budgets)
    }


def _compute_multiplier(
    runs: dict[str, Runs], laws: dict[str, Law], a: str, b: str
) -> dict[str, Any]:
    """Return b's multiplier over a at the geometric mean of the range of losses of both."""
    low = max(float(runs[name][1].min()) for name in (a, b))
    high = min(float(runs[name][1].max()) for name in (a, b))
    loss = float(np.sqrt(low * high))
    random = np.random.default_rng(0)
    samples = []
    while len(samples) < DRAWS:
        resampled = {}
        for name in (a, b):
            flops, losses = runs[name]
            index = random.integers(len(flops), size=len(flops))
            resampled[name] = flops[index], losses[index]
        if all(np.unique(np.round(np.log(flops), 1)).size >= 4 for flops, _ in resampled.values()):
            law = {name: _fit_law(*points) for name, points in resampled.items()}
            samples.append(law[a].invert(loss) / law[b].invert(loss))
    band = bootstrap.compute_interval(
        np.array(samples), 'the runs of both generations, with replacement'
    )
    multiplier = laws[a].invert(loss) / laws[b].invert(loss)
    return {
        'loss': loss,
        'multiplier': multiplier,
        'low': band.low,
        'high': band.high,
        'level': bootstrap.CONFIDENCE_LEVEL,
        'resampled': band.resampled,
    }


def _draw_figure(runs: dict[str, Runs], laws: dict[str, Law], result: dict[str, Any]) -> list[Path]:
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(8.0, 3.8), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        left.set_xscale('log')
        left.set_yscale('log')
        for name, (flops, loss) in runs.items():
            law, grid = laws[name], np.geomspace(flops.min(), flops.max(), 80)
            left.plot(flops, loss, 'o', ms=3.5, color=COLORS[name])
            left.plot(
                grid,
                law.E + law.K * grid**-law.gamma,
                lw=1.4,
                color=COLORS[name],
                label=NAMES[name],
            )
        losses = np.concatenate([loss for _, loss in runs.values()])
        ticks = np.arange(np.ceil(losses.min() * 10) / 10, losses.max(), 0.2)
        left.set_yticks(ticks, [f'{tick:.1f}' for tick in ticks])
        left.yaxis.set_minor_locator(NullLocator())
        budgets = np.unique(np.concatenate([flops for flops, _ in runs.values()]).round(-10))
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xticks(
            _merge_budgets(budgets),
            [f'{flops:.2g}'.replace('e+', 'e') for flops in _merge_budgets(budgets)],
        )
        left.set_xlabel('training FLOPs (6N)')
        left.set_ylabel('validation loss (nats/byte)')
        left.legend(frameon=False, fontsize=8)
        for position, (pair, gain) in enumerate(result['multipliers'].items()):
            error = [[gain['multiplier'] - gain['low']], [gain['high'] - gain['multiplier']]]
            right.errorbar(
                position,
                gain['multiplier'],
                yerr=error,
                fmt='o',
                capsize=4,
                color=COLORS[pair.split()[0]],
            )
            right.annotate(
                f'{gain["multiplier"]:.2f}',
                (position, gain['multiplier']),
                xytext=(7, 0),
                fontsize=8,
                textcoords='offset points',
                va='center',
            )
        right.set_yscale('log')
        right.axhline(1, color=MUTED_COLOR, lw=1, ls=':')
        labels = [f'{NAMES[b]}\nover\n{NAMES[a]}' for a, b in pairwise(NAMES)]
        right.set_xticks(range(len(labels)), labels, fontsize=8)
        right.set_xlim(-0.5, len(labels) - 0.3)
        right.set_yticks((0.5, 1, 2, 4), ('0.5', '1', '2', '4'))
        right.set_ylim(0.5, 6)
        right.yaxis.set_minor_locator(NullLocator())
        right.set_ylabel('compute multiplier')
        for axes in (left, right):
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle(
            "What each generation's architecture saves in compute", fontsize=10, fontweight='bold'
        )
        return save_figure(figure, HERE / 'generations.png')


def _merge_budgets(budgets: np.ndarray) -> list[float]:
    """Return one of every group of budgets that differ by less than a tenth."""
    merged: list[float] = []
    for flops in budgets:
        if not merged or flops > 1.1 * merged[-1]:
            merged.append(float(flops))
    return merged


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'records',
        nargs='?',
        default=str(HERE / 'records.jsonl'),
        help="the sweep's records; default: those of this folder",
    )
    parser.add_argument(
        '--count',
        choices=COUNTS,
        default='6N',
        help='count of FLOPs; other than 6N: only print the multipliers',
    )
    flags = parser.parse_args()
    main(flags.records, flags.count)
