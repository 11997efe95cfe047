"""Existing runs of a sweep with their trials and shapes, for a plan that continues it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows
from gpt_jax.scaling.plan.design import Trial
from gpt_jax.scaling.runs import Runs, read_runs

SHAPE = ('layers', 'width', 'heads')
# The keys of a trial that depend on the width, and the record's column with the same value.
COLUMN_BY_KEY = {'optimizer.learning_rate': 'learning_rate', 'model.init_std': 'init_std'}


class PreviousRuns(NamedTuple):
    """Runs, their whole records, and the trials of the sweep's config.json in the same folder.

    Attributes:
      file: the path of the records.
      runs: the runs that can be fitted.
      rows: the record of each run, [runs].
      trials: the sweep's trials by name; empty without config.json.
    """

    file: str
    runs: Runs
    rows: list[dict[str, Any]]
    trials: dict[str, Trial]


def read_previous_runs(path: str, columns: dict[str, str], count: str) -> PreviousRuns:
    """Read the runs; for gpt_jax records, N is without positions and C is 6ND, as in train.flops.

    Raises:
      UserError: as in `runs.read_runs`.
    """
    table = rows.read_rows(path, columns=columns)
    if not count and any('params_without_positions' in row for row in table):
        count = 'without_positions'
    has_flops = any('flops' in row for row in table)
    if any('flops_6N' in row for row in table) and not has_flops:
        columns = columns | {'flops_6N': 'flops'}
    runs = read_runs(path, columns=columns, count=count)
    records = [table[number - 1] for number in runs.rows]
    return PreviousRuns(path, runs, records, _read_trials(Path(path).with_name('config.json')))


def _read_trials(path: Path) -> dict[str, Trial]:
    sweep = (files.read_json(path) if path.exists() else {}).get('sweep', {})
    return {trial['name']: trial for trial in sweep.get('trials', ())}


def get_number(previous: PreviousRuns, index: int, name: str) -> float:
    """Return a numeric column of one run.

    Raises:
      UserError: the run lacks this column.
    """
    value = previous.rows[index].get(name)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        state = 'missing' if value in (None, '') else value
        raise UserError(
            f'{previous.file}: {previous.runs.names[index]}: {name} is {state}; to continue the '
            f'sweep with this run, it needs name, {", ".join(SHAPE)}; --columns THEIRS={name} '
            'renames another column'
        ) from None


def get_shared_value(previous: PreviousRuns, name: str) -> int | None:
    """Return the value of a column that all runs share; None if they differ or lack it."""
    values = {row.get(name) for row in previous.rows}
    if len(values) != 1 or values & {None, ''}:
        return None
    return int(float(values.pop()))  # type: ignore[arg-type]


def find_head_dim(previous: PreviousRuns) -> int | None:
    """Return the most frequent ratio of width to heads."""
    if not all(row.get('width') and row.get('heads') for row in previous.rows):
        return None
    dims = [
        int(get_number(previous, i, 'width') // get_number(previous, i, 'heads'))
        for i in range(len(previous.rows))
    ]
    return max(sorted(set(dims)), key=dims.count) if dims else None


def rebuild_trial(previous: PreviousRuns, index: int, budget: float, tokens_per_step: int) -> Trial:
    """Return a run's own trial if the sweep's config has it, else rebuild it from its record.

    Raises:
      UserError: the record lacks a column that is needed.
    """
    record = previous.rows[index]
    name = record.get('name')
    if name in previous.trials:
        return previous.trials[name]
    if not name:
        raise UserError(
            f'{previous.file}: row {previous.runs.rows[index]}: no name; a run needs one to '
            'continue its sweep'
        )
    layers, width, heads = (int(get_number(previous, index, column)) for column in SHAPE)
    trial: Trial = {
        'name': name,
        'model.layers': layers,
        'model.width': width,
        'model.heads': heads,
    }
    for key, column in COLUMN_BY_KEY.items():
        if record.get(column):
            trial[key] = get_number(previous, index, column)
    if record.get('seed'):
        trial['seed'] = int(get_number(previous, index, 'seed'))
    return trial | _rebuild_length(previous, index, budget, tokens_per_step)


def _rebuild_length(
    previous: PreviousRuns, index: int, budget: float, tokens_per_step: int
) -> Trial:
    """Return the length in FLOPs if these give the run's own number of steps, else in steps."""
    steps = round(previous.runs.tokens[index] / tokens_per_step)
    if round(budget / previous.runs.flops[index] * steps) == steps:
        return {'train.flops': float(budget), 'train.tokens': 0}
    return {'train.steps': steps}


def interpolate_by_width(previous: PreviousRuns, key: str) -> Callable[[int], float] | None:
    """Return a trial's value as a function of width, log-log interpolated through the runs.

    Beyond the widths of the runs, it extrapolates from the last two. Of several values at one
    width, that of the run with the lowest loss is used. A learning rate never exceeds the highest
    of the sweep, because rules for learning rates have ceilings.

    Args:
      previous: the runs.
      key: key of a trial, in COLUMN_BY_KEY.

    Returns:
      The function; None if the runs do not have the value.
    """
    best: dict[float, tuple[float, float]] = {}  # (loss, value) by width
    for index, row in enumerate(previous.rows):
        trial = previous.trials.get(row.get('name', ''), {})
        value = trial.get(key) or row.get(COLUMN_BY_KEY[key])
        if not value or not row.get('width'):
            continue
        width, loss = get_number(previous, index, 'width'), float(previous.runs.loss[index])
        if width not in best or loss < best[width][0]:
            best[width] = loss, float(value)
    if not best:
        return None
    x = np.log(sorted(best))
    y = np.log([best[width][1] for width in sorted(best)])
    ceiling = float(y.max()) if key == 'optimizer.learning_rate' else math.inf
    return lambda width: float(f'{math.exp(min(_interpolate(math.log(width), x, y), ceiling)):.3g}')


def _interpolate(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """Interpolate linearly, and extrapolate through the two points at the end."""
    for edge, inner in ((0, 1), (-1, -2)):
        if len(xs) > 1 and (x < xs[0] if edge == 0 else x > xs[-1]):
            rise, run = ys[inner] - ys[edge], xs[inner] - xs[edge]
            return float(ys[edge] + (x - xs[edge]) * rise / run)
    return float(np.interp(x, xs, ys))
