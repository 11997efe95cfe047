"""Does training move activations equally far whatever the model's size? The coordinate check of Yang et al. 2022.

Under a parametrization that carries rates from one size to another, a few steps move every activation by an amount that
does not depend on width (or depth): the slope of log movement over log size is 0. Where it is above 0 the rate that
suited the small model is too high for the large one.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gpt_jax.scaling.view.plots import HELD_OUT, LAW, QUIET, STYLE, save

TOLERANCE = 0.25  # a slope this near to 0 passes; standard's are 0.5 to 1 (tests/modes/test_coordinates.py)


def check(sizes: list[int], moved: list[dict[str, float]], over: str, *, judged: bool) -> dict[str, Any]:
    """Slopes and a verdict.

    Args:
      sizes: widths or depths, ascending.
      moved: for each of them, how far each activation moved; those that all sizes have are judged.
      over: 'width' or 'layers'.
      judged: whether the parametrization promises anything over it.

    Returns:
      over, sizes, moved (a list per activation), slopes (per activation), worst (its name), tolerance, passed, and
      verdict: 'pass', 'FAIL' or 'not judged'.
    """
    names = [name for name in moved[0] if all(name in one for one in moved)]
    values = {name: [one[name] for one in moved] for name in names}
    x = np.log(np.array(sizes, float))
    slopes = {name: float(np.polyfit(x, np.log(np.array(value)), 1)[0]) for name, value in values.items()}
    worst = max(slopes, key=lambda name: abs(slopes[name]))
    passed = abs(slopes[worst]) <= TOLERANCE
    return {
        'over': over, 'sizes': sizes, 'moved': values, 'slopes': slopes, 'worst': worst, 'tolerance': TOLERANCE,
        'passed': passed, 'verdict': 'not judged' if not judged else 'pass' if passed else 'FAIL',
    }  # fmt: skip


def lines(result: dict[str, Any], parametrization: str) -> list[str]:
    """The table and the verdict."""
    width = max(map(len, result['slopes']))
    head = f'{"moved by training":{width}s}  ' + ''.join(f'{size:>10,}' for size in result['sizes']) + '     slope'
    rows = [
        f'{name:{width}s}  ' + ''.join(f'{value:10.4f}' for value in values) + f'{result["slopes"][name]:+10.2f}'
        for name, values in result['moved'].items()
    ]
    slope = result['slopes'][result['worst']]
    return [
        head, *rows,
        f'{result["verdict"]}: over {result["over"]}, {parametrization} moves {result["worst"]} by a power of '
        f'{slope:+.2f}; at most {result["tolerance"]:g} either way passes',
    ]  # fmt: skip


def plot(results: list[dict[str, Any]], parametrization: str, path: Path) -> list[Path]:
    """One panel per check: a line per activation. PNG and SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(results), 3.8), layout='constrained')
        for axes, result in zip(np.atleast_1d(figure.subplots(1, len(results))), results, strict=True):
            axes.set_xscale('log', base=2)
            axes.set_yscale('log', base=2)
            for name, values in result['moved'].items():
                far = abs(result['slopes'][name]) > result['tolerance']
                axes.plot(result['sizes'], values, 'o-', ms=3, lw=1.2, color=HELD_OUT if far else LAW, alpha=0.8)
                axes.annotate(name, (result['sizes'][-1], values[-1]), xytext=(4, 0), textcoords='offset points',
                              fontsize=6, va='center', color=QUIET)  # fmt: skip
            axes.margins(x=0.3)
            axes.set_xticks(result['sizes'], [f'{size:,}' for size in result['sizes']])
            axes.minorticks_off()
            axes.set_xlabel(result['over'])
            axes.set_ylabel('movement (root mean square)')
            slope = result['slopes'][result['worst']]
            axes.set_title(f'{result["verdict"]}: slopes up to {slope:+.2f}', fontsize=9)
            axes.grid(alpha=0.25, lw=0.5)
        figure.suptitle(f'Coordinate check: {parametrization}', fontsize=10, fontweight='bold')
        return save(figure, path)
