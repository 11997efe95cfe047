"""Best learning rate of each width, its drift, and the figure.

python experiments/lr_transfer/draw.py runs/lr_transfer_cpu/records.jsonl

Writes best_standard.jsonl, best_mup.jsonl (the best run of each width), transfer.json, transfer.png
and .svg in this folder.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gpt_jax.core import files
from gpt_jax.scaling.report.figure_style import HELD_OUT_COLOR, LAW_COLOR, RC_PARAMS, save_figure

HERE = Path(__file__).parent


def main(path: str) -> None:
    done = [record for record in files.read_jsonl(path) if record['status'] == 'done']
    result = {}
    for name in ('standard', 'mup'):
        runs = [run for run in done if run['parametrization'] == name]
        curves = {
            width: _select_curve(runs, width) for width in sorted({run['width'] for run in runs})
        }
        best = {width: _find_best_rate(*curve) for width, curve in curves.items()}
        drift = float(
            np.polyfit(np.log(list(best)), np.log([rate for rate, _ in best.values()]), 1)[0]
        )
        result[name] = {
            'best_rate': {str(width): rate for width, (rate, _) in best.items()},
            'best_loss': {str(width): min(curve[1]) for width, curve in curves.items()},
            'drift': drift,  # best rate ~ width^drift
            # The forecast for the next width, before it is run.
            'next_best_rate': {str(2 * max(best)): _extrapolate_rate(best, 2 * max(best))},
            'cost_of_base_rate': {str(width): _compute_cost(curves, width) for width in curves},
            'curves': {
                str(width): {'rate': rates, 'loss': loss} for width, (rates, loss) in curves.items()
            },
        }
        lowest = [
            min(
                (run for run in runs if run['width'] == width),
                key=lambda run: run['validation_loss'],
            )
            for width in curves
        ]
        text = ''.join(
            json.dumps(run | {'name': f'{name}-{run["width"]}'}) + '\n' for run in lowest
        )
        files.write_text(HERE / f'best_{name}.jsonl', text)
        _print_summary(name, result[name])
    files.write_json(HERE / 'transfer.json', result)
    for figure in _draw_figure(result):
        print(f'  {figure}')


def _select_curve(runs: list[dict], width: int) -> tuple[list[float], list[float]]:
    """Return (rates, validation losses) of one width, in order of the rate."""
    curve = sorted(
        (run for run in runs if run['width'] == width), key=lambda run: run['learning_rate']
    )
    return [run['learning_rate'] for run in curve], [run['validation_loss'] for run in curve]


def _find_best_rate(rates: list[float], losses: list[float]) -> tuple[float, float]:
    """Return (rate, loss) at the vertex of the parabola through the lowest loss and its neighbours.

    The parabola is in the logarithm of the rate.
    """
    lowest = int(np.clip(np.argmin(losses), 1, len(rates) - 2))
    x = np.log(rates[lowest - 1 : lowest + 2])
    a, b, c = np.polyfit(x - x[1], losses[lowest - 1 : lowest + 2], 2)
    if a <= 0:
        return rates[int(np.argmin(losses))], min(losses)
    vertex = float(np.clip(-b / (2 * a), x[0] - x[1], x[2] - x[1]))
    return float(np.exp(vertex + x[1])), float(np.polyval([a, b, c], vertex))


def _extrapolate_rate(best: dict[int, tuple[float, float]], width: int) -> float:
    """Extrapolate the best rate to another width, linearly in log rate over log width."""
    x, y = np.log(list(best)), np.log([rate for rate, _ in best.values()])
    return float(np.exp(np.polyval(np.polyfit(x, y, 1), np.log(width))))


def _compute_cost(curves: dict, width: int) -> float:
    """Return the nats that a width loses at the best rate of the smallest width."""
    rates, losses = curves[min(curves)]
    base = rates[int(np.argmin(losses))]
    losses_by_rate = dict(zip(*curves[width], strict=True))
    return losses_by_rate[base] - min(losses_by_rate.values())


def _print_summary(name: str, summary: dict) -> None:
    best = ', '.join(f'{width}: {rate:.4f}' for width, rate in summary['best_rate'].items())
    cost = ', '.join(f'{width}: {nats:.3f}' for width, nats in summary['cost_of_base_rate'].items())
    print(f'{name}: best rate by width {best}; it scales as width^{summary["drift"]:+.2f}')
    ((width, rate),) = summary['next_best_rate'].items()
    print(f'  forecast of the best rate at width {width}: {rate:.4f}')
    print(f"  nats lost at the smallest width's best rate: {cost}")


def _draw_figure(result: dict) -> list[Path]:
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(8.0, 3.7), layout='constrained')
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (name, title) in zip(
            panels, (('standard', 'standard'), ('mup', 'muP')), strict=True
        ):
            curves = result[name]['curves']
            colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.85, len(curves)))
            axes.set_xscale('log', base=2)
            for (width, curve), color in zip(curves.items(), colors, strict=True):
                axes.plot(
                    curve['rate'], curve['loss'], 'o-', ms=3, lw=1.3, color=color, label=width
                )
                lowest = int(np.argmin(curve['loss']))
                axes.plot(
                    curve['rate'][lowest],
                    curve['loss'][lowest],
                    '*',
                    ms=10,
                    color=HELD_OUT_COLOR,
                    zorder=4,
                )
            axes.set_title(
                f'{title}: best rate ~ width$^{{{result[name]["drift"]:+.2f}}}$', fontsize=10
            )
            rates = next(iter(curves.values()))['rate']
            axes.set_xticks(rates[::2], [f'{rate:g}' for rate in rates[::2]])
            axes.minorticks_off()
            axes.set_xlabel('peak learning rate')
            axes.grid(alpha=0.25, lw=0.5)
        panels[0].set_ylabel('validation loss (nats/token)')
        panels[0].plot([], [], '*', ms=8, color=HELD_OUT_COLOR, label='best')
        panels[0].legend(title='width', frameon=False, fontsize=8, title_fontsize=8)
        lows = [
            min(curve['loss'])
            for summary in result.values()
            for curve in summary['curves'].values()
        ]
        panels[0].set_ylim(min(lows) - 0.05, max(lows) + 0.9)
        figure.suptitle(
            'Does the best learning rate stay as the width grows?',
            fontsize=10,
            fontweight='bold',
            color=LAW_COLOR,
        )
        return save_figure(figure, HERE / 'transfer.png')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'records',
        nargs='?',
        default='runs/lr_transfer_cpu/records.jsonl',
        help="the sweep's records (default: %(default)s)",
    )
    main(parser.parse_args().records)
