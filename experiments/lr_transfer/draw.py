"""Does the best learning rate stay as the width grows? The best rate of each width, its drift, and the figure.

python experiments/lr_transfer/draw.py runs/lr_transfer_cpu/records.jsonl

Writes best_standard.jsonl, best_mup.jsonl (the best run of each width), transfer.json and transfer.png, .svg beside
this file.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gpt_jax import files, jsonl
from gpt_jax.scaling.view.plots import HELD_OUT, LAW, STYLE, save

HERE = Path(__file__).parent


def main(path: str) -> None:
    done = [one for one in jsonl.read(path) if one['status'] == 'done']
    result = {}
    for name in ('standard', 'mup'):
        mine = [one for one in done if one['parametrization'] == name]
        curves = {width: _curve(mine, width) for width in sorted({one['width'] for one in mine})}
        best = {width: _best(*curve) for width, curve in curves.items()}
        drift = float(np.polyfit(np.log(list(best)), np.log([rate for rate, _ in best.values()]), 1)[0])
        result[name] = {
            'best_rate': {str(width): rate for width, (rate, _) in best.items()},
            'best_loss': {str(width): min(curve[1]) for width, curve in curves.items()},
            'drift': drift,  # best rate ~ width^drift
            'next_best_rate': {str(2 * max(best)): _line(best, 2 * max(best))},  # before that width is run
            'cost_of_base_rate': {str(width): _cost(curves, width) for width in curves},
            'curves': {str(width): {'rate': rates, 'loss': loss} for width, (rates, loss) in curves.items()},
        }
        lowest = [min((one for one in mine if one['width'] == width), key=lambda one: one['validation_loss'])
                  for width in curves]  # fmt: skip
        text = ''.join(json.dumps(one | {'name': f'{name}-{one["width"]}'}) + '\n' for one in lowest)
        files.write_text(HERE / f'best_{name}.jsonl', text)
        _say(name, result[name])
    files.write_json(HERE / 'transfer.json', result)
    for figure in _draw(result):
        print(f'  {figure}')


def _curve(runs: list[dict], width: int) -> tuple[list[float], list[float]]:
    """(rates, validation losses) of one width, by rate."""
    mine = sorted((one for one in runs if one['width'] == width), key=lambda one: one['learning_rate'])
    return [one['learning_rate'] for one in mine], [one['validation_loss'] for one in mine]


def _best(rates: list[float], losses: list[float]) -> tuple[float, float]:
    """(rate, loss) at the vertex of the parabola in log rate through the lowest loss and its neighbours."""
    lowest = int(np.clip(np.argmin(losses), 1, len(rates) - 2))
    x = np.log(rates[lowest - 1 : lowest + 2])
    a, b, c = np.polyfit(x - x[1], losses[lowest - 1 : lowest + 2], 2)
    if a <= 0:
        return rates[int(np.argmin(losses))], min(losses)
    vertex = float(np.clip(-b / (2 * a), x[0] - x[1], x[2] - x[1]))
    return float(np.exp(vertex + x[1])), float(np.polyval([a, b, c], vertex))


def _line(best: dict[int, tuple[float, float]], width: int) -> float:
    """The best rate at another width, by the line through log best rate over log width."""
    x, y = np.log(list(best)), np.log([rate for rate, _ in best.values()])
    return float(np.exp(np.polyval(np.polyfit(x, y, 1), np.log(width))))


def _cost(curves: dict, width: int) -> float:
    """Nats that a width loses when it is trained at the best of the rates of the smallest width."""
    rates, losses = curves[min(curves)]
    base = rates[int(np.argmin(losses))]
    here = dict(zip(*curves[width], strict=True))
    return here[base] - min(here.values())


def _say(name: str, one: dict) -> None:
    best = ', '.join(f'{width}: {rate:.4f}' for width, rate in one['best_rate'].items())
    cost = ', '.join(f'{width}: {nats:.3f}' for width, nats in one['cost_of_base_rate'].items())
    print(f'{name}: best rate by width {best}; it goes as width^{one["drift"]:+.2f}')
    ((width, rate),) = one['next_best_rate'].items()
    print(f'  so the best rate at width {width} should be {rate:.4f}')
    print(f"  nats lost at the smallest width's best rate: {cost}")


def _draw(result: dict) -> list[Path]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.7), layout='constrained')
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (name, title) in zip(panels, (('standard', 'standard'), ('mup', 'muP')), strict=True):
            curves = result[name]['curves']
            colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.85, len(curves)))
            axes.set_xscale('log', base=2)
            for (width, curve), colour in zip(curves.items(), colours, strict=True):
                axes.plot(curve['rate'], curve['loss'], 'o-', ms=3, lw=1.3, color=colour, label=width)
                lowest = int(np.argmin(curve['loss']))
                axes.plot(curve['rate'][lowest], curve['loss'][lowest], '*', ms=10, color=HELD_OUT, zorder=4)
            axes.set_title(f'{title}: best rate ~ width$^{{{result[name]["drift"]:+.2f}}}$', fontsize=10)
            rates = next(iter(curves.values()))['rate']
            axes.set_xticks(rates[::2], [f'{rate:g}' for rate in rates[::2]])
            axes.minorticks_off()
            axes.set_xlabel('peak learning rate')
            axes.grid(alpha=0.25, lw=0.5)
        panels[0].set_ylabel('validation loss (nats/token)')
        panels[0].plot([], [], '*', ms=8, color=HELD_OUT, label='best')
        panels[0].legend(title='width', frameon=False, fontsize=8, title_fontsize=8)
        lows = [min(curve['loss']) for one in result.values() for curve in one['curves'].values()]
        panels[0].set_ylim(min(lows) - 0.05, max(lows) + 0.9)
        figure.suptitle(
            'Does the best learning rate stay as the width grows?', fontsize=10, fontweight='bold', color=LAW
        )
        return save(figure, HERE / 'transfer.png')


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else 'runs/lr_transfer_cpu/records.jsonl')
