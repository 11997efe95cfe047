"""How was the sweep made that these runs are of? Its trials, rates and shapes, so that a plan goes on as it began."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.scaling import rows as table_rows
from gpt_jax.scaling import runs as table
from gpt_jax.scaling.plan.design import Trial
from gpt_jax.scaling.runs import Runs

SHAPE = ('layers', 'width', 'heads')
# The keys of a trial that follow from the width, and the column of a record that says the same.
BY_WIDTH = {'optimizer.learning_rate': 'learning_rate', 'model.init_std': 'init_std'}


class Past(NamedTuple):
    """The runs, all that their file says of each, and the trials of the sweep's config.json beside it, by name."""

    file: str
    runs: Runs
    rows: list[dict[str, Any]]
    trials: dict[str, Trial]


def read(path: str, columns: dict[str, str], count: str) -> Past:
    """Reads the runs; of our own records N is without positions, and C is 6ND of these: what train.flops counts.

    Raises:
      UserError: as runs.read.
    """
    rows = table_rows.read(path, columns=columns)
    if not count and any('params_without_positions' in row for row in rows):
        count = 'without_positions'
    if any('flops_6N' in row for row in rows) and not any('flops' in row for row in rows):
        columns = columns | {'flops_6N': 'flops'}
    given = table.read(path, columns=columns, count=count)
    return Past(path, given, [rows[number - 1] for number in given.rows], _trials(Path(path).with_name('config.json')))


def _trials(path: Path) -> dict[str, Trial]:
    sweep = (files.read_json(path) if path.exists() else {}).get('sweep', {})
    return {one['name']: one for one in sweep.get('trials', ())}


def number(past: Past, index: int, name: str) -> float:
    """A numeric column of one run.

    Raises:
      UserError: the run lacks it.
    """
    value = past.rows[index].get(name)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(
            f'{past.file}: {past.runs.names[index]}: {name} is {"missing" if value in (None, "") else value}; to keep '
            f'the run in the sweep it takes name, {", ".join(SHAPE)}; --columns THEIRS={name} names another column'
        ) from None


def own(past: Past, name: str) -> int | None:
    """The value of a column that all runs share; None where they do not, or do not say."""
    values = {row.get(name) for row in past.rows}
    return int(float(values.pop())) if len(values) == 1 and not values & {None, ''} else None  # type: ignore[arg-type]


def head_dim(past: Past) -> int | None:
    """The width of a head that most runs have."""
    if not all(row.get('width') and row.get('heads') for row in past.rows):
        return None
    dims = [int(number(past, i, 'width') // number(past, i, 'heads')) for i in range(len(past.rows))]
    return max(sorted(set(dims)), key=dims.count) if dims else None


def trial(past: Past, index: int, budget: float, tokens_per_step: int) -> Trial:
    """The trial of a run to the letter where the sweep's config is there; else rebuilt from its record.

    Raises:
      UserError: the record has not what it takes.
    """
    name = past.rows[index].get('name')
    if name in past.trials:
        return past.trials[name]
    if not name:
        raise UserError(f'{past.file}: row {past.runs.rows[index]}: no name; a run that is kept in a sweep needs one')
    layers, width, heads = (int(number(past, index, column)) for column in SHAPE)
    made: Trial = {'name': name, 'model.layers': layers, 'model.width': width, 'model.heads': heads}
    made |= {key: number(past, index, column) for key, column in BY_WIDTH.items() if past.rows[index].get(column)}
    if past.rows[index].get('seed'):
        made['seed'] = int(number(past, index, 'seed'))
    return made | _length(past, index, budget, tokens_per_step)


def _length(past: Past, index: int, budget: float, tokens_per_step: int) -> Trial:
    """By FLOPs where that gives the run's own steps, else by these."""
    steps = round(past.runs.tokens[index] / tokens_per_step)
    if round(budget / past.runs.flops[index] * steps) == steps:
        return {'train.flops': float(budget), 'train.tokens': 0}
    return {'train.steps': steps}


def by_width(past: Past, key: str) -> Callable[[int], float] | None:
    """A trial's value as the sweep has it by width: log-log between the widths, on along the last two beyond them.

    A rate is never above the sweep's highest: rules have ceilings. None where the runs do not say.
    """
    best: dict[float, tuple[float, float]] = {}
    for index, row in enumerate(past.rows):
        value = past.trials.get(row.get('name', ''), {}).get(key) or row.get(BY_WIDTH[key])
        if not value or not row.get('width'):
            continue
        width, loss = number(past, index, 'width'), float(past.runs.loss[index])
        if width not in best or loss < best[width][0]:  # of several rates at one width, the better run's
            best[width] = loss, float(value)
    if not best:
        return None
    x = np.log(sorted(best))
    y = np.log([best[width][1] for width in sorted(best)])
    ceiling = float(y.max()) if key == 'optimizer.learning_rate' else math.inf
    return lambda width: float(f'{math.exp(min(_along(math.log(width), x, y), ceiling)):.3g}')


def _along(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    for edge, inner in ((0, 1), (-1, -2)):
        if len(xs) > 1 and (x < xs[0] if edge == 0 else x > xs[-1]):
            return float(ys[edge] + (x - xs[edge]) * (ys[inner] - ys[edge]) / (xs[inner] - xs[edge]))
    return float(np.interp(x, xs, ys))
