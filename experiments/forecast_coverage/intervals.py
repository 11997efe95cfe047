"""The 95% intervals that gpt_jax gives for a draw, by the functions behind its commands.

Each measure returns, by quantity, an Interval with the true value, or a text that says why there is
none.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.forecast_coverage import worlds
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, comparison, forecast, ladder_forecast
from gpt_jax.scaling.runs import Runs, read_runs

DRAWS, STARTS = 200, 12  # of a fit's bootstrap and of its search
NOT_GIVEN = 'no interval in the result'


class Interval(NamedTuple):
    """An interval, its centre and the true value."""

    low: float
    high: float
    centre: float
    truth: float


Outcome = dict[str, Interval | str]


def write_table(columns: dict[str, np.ndarray], path: Path) -> Path:
    """Write a draw as CSV."""
    rows = [
        ','.join(columns),
        *(','.join(f'{x:.10g}' for x in row) for row in zip(*columns.values(), strict=True)),
    ]
    path.write_text('\n'.join(rows) + '\n')
    return path


def read_draw(draw: worlds.Draw, folder: Path) -> Runs:
    """Return the runs of a draw as a command reads them."""
    return read_runs(str(write_table(draw.columns, folder / 'runs.csv')))


def measure_forecast(
    design: str, truth: str, noise: float, replicate: int, folder: Path
) -> Outcome:
    """Forecast one run at ten times the compute, as `gpt-jax forecast` without rollouts."""
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    try:
        fitted = forecast.fit_forecaster(
            read_draw(draw, folder), 'auto', draws=DRAWS, seed=replicate
        )
        loss, low, high = fitted.predict(*worlds.DESIGNS[design].target)
    except UserError as reason:
        return {'forecast': str(reason)}
    return {'forecast': Interval(low, high, loss, draw.reached)}


def measure_next_rung(
    design: str, truth: str, noise: float, replicate: int, folder: Path
) -> Outcome:
    """Forecast the next rung of a ladder from the others, as fit.json of a sweep."""
    del folder
    made = worlds.DESIGNS[design]
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    try:
        result = ladder_forecast.leave_largest_out(
            np.append(made.params, made.target[0]), np.append(draw.columns['loss'], draw.reached)
        )['held_out']
    except UserError as reason:
        return {'next rung': str(reason)}
    ends = result['interval']
    if ends['note']:
        return {'next rung': ends['note']}
    return {
        'next rung': _make_interval(ends['low'], ends['high'], result['predicted'], draw.reached)
    }


def measure_constants(
    design: str, truth: str, noise: float, replicate: int, folder: Path
) -> Outcome:
    """Fit Chinchilla's law: its constants, if it is the truth, and N* at ten times the compute."""
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    flops = worlds.DESIGNS[design].flops
    optimum = worlds.find_optimal_params(truth, flops)
    approaches = ['3', *(['2'] if 'budget' in draw.columns else [])]
    names = list(worlds.CHINCHILLA) if truth == 'chinchilla' else []
    quantities = [*names, *(f'N* by approach {number}' for number in approaches), 'N* by auto']
    try:
        result = analysis.analyze_parametric(
            read_draw(draw, folder),
            law='auto',
            draws=DRAWS,
            seed=replicate,
            at_flops=(flops,),
            which=tuple(approaches),
            starts=STARTS,
        )
    except UserError as reason:
        return dict.fromkeys(quantities, str(reason))
    outcome: Outcome = {}
    for name in names:
        ends, centre = result['intervals'].get(name) or {}, result['fit']['constants'][name]
        outcome[name] = _make_interval(
            ends.get('low'), ends.get('high'), centre, worlds.CHINCHILLA[name], ends.get('note')
        )
    for number in [*approaches, 'auto']:
        approach = result['approaches'][number]
        found = (approach.get('at') or [{}])[0]
        name = 'N* by auto' if number == 'auto' else f'N* by approach {number}'
        outcome[name] = _make_interval(
            found.get('params_low'),
            found.get('params_high'),
            found.get('params', math.nan),
            optimum,
            approach.get('note'),
        )
    return outcome


def measure_multiplier(
    design: str, truth: str, noise: float, replicate: int, folder: Path
) -> Outcome:
    """Compare two recipes, of which one needs a third less compute, over the losses of both."""
    name = 'compute multiplier'
    runs = [
        read_draw(
            worlds.draw_runs(design, truth, noise=noise, replicate=replicate, saving=saving), folder
        )
        for saving in (1.0, worlds.SAVING)
    ]
    try:
        result = comparison.compare_recipes(runs, draws=DRAWS, seed=replicate)
    except UserError as reason:
        return {name: str(reason)}
    low, high, centre = (
        result['recipes'][1]['overall'][key] for key in ('low', 'high', 'multiplier')
    )
    return {name: _make_interval(low, high, centre, worlds.SAVING, result['no_interval'])}


def _make_interval(
    low: Any, high: Any, centre: float, truth: float, note: Any = ''
) -> Interval | str:
    ends = [low, high]
    if any(end is None or not math.isfinite(end) for end in ends):
        return str(note or NOT_GIVEN)
    return Interval(float(low), float(high), float(centre), truth)


MEASURES = {
    'forecast': measure_forecast,
    'next rung': measure_next_rung,
    'constants': measure_constants,
    'multiplier': measure_multiplier,
}


def list_designs(measure: str) -> list[str]:
    """Return the designs that a measure is for."""
    ladders = [name for name, design in worlds.DESIGNS.items() if design.over == 'N']
    if measure == 'next rung':
        return ladders
    if measure == 'constants':
        return [name for name in worlds.DESIGNS if name not in ladders]
    if measure == 'multiplier':
        return ['six', 'twelve', 'isoflop', 'seeds', 'ladder6', 'ladder8']
    return list(worlds.DESIGNS)
