"""The trials of an isoFLOP sweep as rows of numbers: those already run, and new ones by rule."""

import math
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import design, planner, previous_runs
from gpt_jax.scaling.plan.design import Trial
from gpt_jax.scaling.plan.previous_runs import PreviousRuns
from gpt_jax.scaling.plan.shapes import Architecture, Shape, ShapeFamily

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
        batch = int(previous_runs.get_number(previous, index, 'batch'))
    tokens_per_step = batch * family.context
    trial = previous_runs.rebuild_trial(previous, index, budget, tokens_per_step)
    if batch != common_batch and 'train.batch_size' not in trial:
        trial = trial | {'train.batch_size': batch}
    layers, width, heads = (
        int(previous_runs.get_number(previous, index, key)) for key in previous_runs.SHAPE
    )
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
        rate_of_width = previous_runs.interpolate_by_width(
            rules.previous, 'optimizer.learning_rate'
        )
    init_std_of_width = (
        previous_runs.interpolate_by_width(rules.previous, 'model.init_std')
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
    elif previous and previous_runs.interpolate_by_width(previous, 'optimizer.learning_rate'):
        rate = interpolated
    init_std = f'{INIT_STD} x ({INIT_WIDTH} / width)^0.5 below a width of {INIT_WIDTH}'
    if previous:
        by_width = previous_runs.interpolate_by_width(previous, 'model.init_std')
        init_std = interpolated if by_width else "the base config's"
    batch = '0.292 C^0.3271 tokens (DeepSeek-AI 2024), in multiples of 8 sequences'
    if rules.batch:
        batch = f'{rules.batch} sequences'
    return [f'learning rate: {rate}', f'init_std: {init_std}', f'batch: {batch}']
