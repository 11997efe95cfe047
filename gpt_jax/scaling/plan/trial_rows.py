"""The trials of an isoFLOP sweep as rows of numbers: those already run, and new ones by rule."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows
from gpt_jax.scaling.plan import design, planner
from gpt_jax.scaling.plan.design import Trial
from gpt_jax.scaling.plan.shapes import Architecture, Shape, ShapeFamily
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


def read_previous_runs(
    path: str, columns: dict[str, str], count: str, loss_unit: str = ''
) -> PreviousRuns:
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
    runs = read_runs(path, columns=columns, count=count, loss_unit=loss_unit)
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


MIN_STEPS = 10  # of a trial: rounding to whole steps misses its budget by up to half a step
# GPT-2's 0.02 suits its width of 768; a narrower matrix needs larger weights for equal outputs.
INIT_STD, INIT_WIDTH = 0.02, 768


class TrialRules(NamedTuple):
    """How a new trial is trained.

    Attributes:
      rate: peak learning rate; None: it depends on the budget.
      batch: sequences per step; None: it depends on the budget.
      previous: existing runs of the sweep, whose rules new trials continue; or None.
    """

    rate: float | None
    batch: int | None
    previous: PreviousRuns | None

    def batch_size(self, budget: float, context: int) -> int:
        return self.batch or planner.suggest_batch_size(budget, context)


def make_existing_row(
    previous: PreviousRuns,
    index: int,
    budget: float,
    batch: int,
    common_batch: int | None,
    family: ShapeFamily,
) -> dict[str, Any]:
    """Make the row of an existing run, with its trial.

    Args:
      previous: the runs.
      index: index of the run.
      budget: its training FLOPs.
      batch: sequences per step, if its record does not say.
      common_batch: the batch of the config, which the trial overrides if its own differs.
      family: what its shape shares with the others.
    """
    record, runs = previous.rows[index], previous.runs
    if record.get('batch'):
        batch = int(get_number(previous, index, 'batch'))
    tokens_per_step = batch * family.context
    trial = rebuild_trial(previous, index, budget, tokens_per_step)
    if batch != common_batch and 'train.batch_size' not in trial:
        trial = trial | {'train.batch_size': batch}
    layers, width, heads = (int(get_number(previous, index, key)) for key in SHAPE)
    shape = Shape(layers, width, heads, family.context, family.vocab)
    params, tokens = float(runs.params[index]), int(runs.tokens[index])
    return {
        'loss': float(runs.loss[index]),
        'steps': int(float(record.get('steps') or round(runs.tokens[index] / tokens_per_step))),
        **_describe_trial(trial, shape, params, tokens, batch, family.architecture),
        'flops': float(runs.flops[index]),
        'learning_rate': trial.get('optimizer.learning_rate'),
        'new': False,
    }


def make_new_rows(
    shapes: list[Shape],
    budget: float,
    common_batch: int | None,
    family: ShapeFamily,
    rules: TrialRules,
) -> list[dict[str, Any]]:
    """Make the rows of new trials with these shapes at the budget.

    Raises:
      UserError: a trial would have fewer than MIN_STEPS steps.
    """
    batch = rules.batch_size(budget, family.context)
    rate = rules.rate or float(f'{planner.suggest_learning_rate(budget):.3g}')
    rate_of_width = None
    if rules.previous and not rules.rate:
        rate_of_width = interpolate_by_width(rules.previous, 'optimizer.learning_rate')
    init_std_of_width = (
        interpolate_by_width(rules.previous, 'model.init_std')
        if rules.previous
        else _default_init_std
    )

    def set_training_fields(layers: int, width: int, heads: int) -> dict[str, Any]:
        shape = Shape(layers, width, heads, family.context, family.vocab)
        scaled = family.architecture.scale(shape)
        fields: dict[str, Any] = {f'model.{name}': value for name, value in scaled.items()}
        fields['optimizer.learning_rate'] = rate_of_width(width) if rate_of_width else rate
        if init_std_of_width and (init_std := init_std_of_width(width)):
            fields['model.init_std'] = init_std
        return fields if batch == common_batch else fields | {'train.batch_size': batch}

    planned = design.make_isoflop({budget: [shape[:3] for shape in shapes]}, set_training_fields)
    trials = [_restore_planned(trial, rules.previous) for trial in planned]
    return [
        _make_new_row(trial, shape, budget, batch, family)
        for trial, shape in zip(trials, shapes, strict=True)
    ]


def _restore_planned(trial: Trial, previous: PreviousRuns | None) -> Trial:
    """Return the sweep's own trial if it planned the same one and has not run it yet."""
    keys = ('model.layers', 'model.width', 'model.heads', 'train.flops')
    planned = previous.trials.get(trial['name'], {}) if previous else {}
    return planned if all(planned.get(key) == trial[key] for key in keys) else trial


def _default_init_std(width: int) -> float:
    """Return the init_std of a narrow model; 0.0 if that of the config is right."""
    return round(INIT_STD * math.sqrt(INIT_WIDTH / width), 4) if width < INIT_WIDTH else 0.0


def _make_new_row(
    trial: Trial, shape: Shape, budget: float, batch: int, family: ShapeFamily
) -> dict[str, Any]:
    flops_per_token = family.architecture.flops_per_token(shape)['6N']
    steps = round(budget / (flops_per_token * batch * family.context))
    if steps < MIN_STEPS:
        raise UserError(
            f'--isoflop={budget:g}: {trial["name"]} would be {steps} steps of {batch} sequences '
            f'of {family.context:,}; give a smaller --batch, or a larger budget'
        )
    tokens = steps * batch * family.context
    params = family.count_size(shape)
    return {
        'loss': None,
        'steps': steps,
        **_describe_trial(trial, shape, params, tokens, batch, family.architecture),
        'flops': float(flops_per_token * tokens),
        'learning_rate': trial['optimizer.learning_rate'],
        'new': True,
    }


def _describe_trial(
    trial: Trial, shape: Shape, params: float, tokens: int, batch: int, architecture: Architecture
) -> dict[str, Any]:
    flops_per_token = architecture.flops_per_token(shape)['with_attention']
    return {
        'name': trial['name'],
        'layers': shape.layers,
        'width': shape.width,
        'heads': shape.heads,
        'params': params,
        'tokens': tokens,
        'tokens_per_param': tokens / params,
        'batch': batch,
        'flops_with_attention': float(flops_per_token * tokens),
        'trial': trial,
    }


def describe_rules(rules: TrialRules) -> list[str]:
    """Describe where the learning rate, init_std and batch of new trials come from, a line each."""
    previous, interpolated = rules.previous, "interpolated over the runs' widths"
    rate = '0.3118 C^-0.125 (DeepSeek-AI 2024)'
    if rules.rate:
        rate = 'from --learning_rate'
    elif previous and interpolate_by_width(previous, 'optimizer.learning_rate'):
        rate = interpolated
    init_std = f'{INIT_STD} x ({INIT_WIDTH} / width)^0.5 below a width of {INIT_WIDTH}'
    if previous:
        by_width = interpolate_by_width(previous, 'model.init_std')
        init_std = interpolated if by_width else "the base config's"
    batch = '0.292 C^0.3271 tokens (DeepSeek-AI 2024), in multiples of 8 sequences'
    if rules.batch:
        batch = f'{rules.batch} sequences'
    return [f'learning rate: {rate}', f'init_std: {init_std}', f'batch: {batch}']
