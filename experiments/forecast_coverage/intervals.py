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
from gpt_jax.scaling import (
    bootstrap,
    comparison,
    compute_optimal,
    forecast,
    ladder_forecast,
    law_posterior,
    outliers,
    parametric_fit,
    posterior_split,
    refits,
)
from gpt_jax.scaling.approaches import compare_approaches
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
    made = worlds.DESIGNS[design]
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    more = {'unique_tokens': made.target_unique} if made.target_unique else {}
    try:
        fitted = forecast.fit_forecaster(
            read_draw(draw, folder), 'auto', draws=DRAWS, seed=replicate
        )
        loss, low, high = fitted.predict(*made.target, **more)
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
            np.append(made.params, made.target[0]),
            np.append(draw.columns['loss'], draw.reached),
            band_points=2,
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
    """Fit Chinchilla's law, as `gpt-jax fit`: its constants, and N* by approaches 3 and 2.

    The constants are scored only if that law is the truth; N* is at ten times the compute.
    """
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    flops, optimum = find_optimum(design, truth)
    approaches = ('3', *(['2'] if 'budget' in draw.columns else []))
    names = list(worlds.CHINCHILLA) if truth == 'chinchilla' else []
    try:
        runs, delta, _ = outliers.clean_runs('chinchilla', read_draw(draw, folder))
        data = parametric_fit.to_log_data(runs)
        law = parametric_fit.fit_parametric_law('chinchilla', data, delta=delta, tries=STARTS)
        drawn = refits.draw_refits(runs, law, DRAWS, replicate)
        results, _ = compare_approaches(
            runs, law, drawn.constants, drawn.words, (flops,), approaches, replicate
        )
    except UserError as reason:
        quantities = [*names, *(f'N* by approach {number}' for number in approaches)]
        return dict.fromkeys(quantities, str(reason))
    outcome: Outcome = {}
    for name in names:
        low, high, note = None, None, drawn.words
        if drawn.constants:
            values = [constants[name] for constants in drawn.constants]
            ends = bootstrap.compute_interval(values, drawn.words)
            low, high = ends.low, ends.high
        centre = law.constants[name]
        outcome[name] = _make_interval(low, high, centre, worlds.CHINCHILLA[name], note)
    for number in approaches:
        found = (results[number].get('at') or [{}])[0]
        outcome[f'N* by approach {number}'] = _make_interval(
            found.get('params_low'),
            found.get('params_high'),
            found.get('params', math.nan),
            optimum,
            results[number].get('note') or drawn.words,
        )
    return outcome


def measure_optimum(design: str, truth: str, noise: float, replicate: int, folder: Path) -> Outcome:
    """Return N* at ten times the compute by the posterior, as `gpt-jax fit` with --law=auto."""
    name = 'N* by auto'
    draw = worlds.draw_runs(design, truth, noise=noise, replicate=replicate)
    flops, optimum = find_optimum(design, truth)
    tail = (1 - bootstrap.CONFIDENCE_LEVEL) / 2
    try:
        runs, *_ = outliers.clean_runs('chinchilla', read_draw(draw, folder))
        posterior = law_posterior.fit_posterior(
            parametric_fit.to_log_data(runs), runs.get_checkpoint_clusters()
        )
    except UserError as reason:
        return {name: str(reason)}
    drawn = posterior_split.draw_optima(
        posterior, compute_optimal.fit_cost(runs), [flops], seed=replicate
    )
    low, high = np.quantile(drawn.params[:, 0], [tail, 1 - tail])
    return {name: _make_interval(low, high, float(drawn.median[0]), optimum)}


def find_optimum(design: str, truth: str) -> tuple[float, float]:
    """Return the compute of the forecast and the size that is best for it."""
    flops = worlds.DESIGNS[design].flops
    return flops, worlds.find_optimal_params(truth, flops)


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
    'optimum': measure_optimum,
    'multiplier': measure_multiplier,
}


def list_designs(measure: str) -> list[str]:
    """Return the designs that a measure is for."""
    ladders = [name for name, design in worlds.DESIGNS.items() if design.over == 'N']
    if measure == 'next rung':
        return ladders
    if measure in ('constants', 'optimum'):
        return [name for name in worlds.DESIGNS if name not in ladders]
    if measure == 'multiplier':
        return ['six', 'twelve', 'isoflop', 'seeds', 'ladder6', 'ladder8']
    return list(worlds.DESIGNS)
