"""What is each trial of a sweep: its shape, length and rate, and what it costs? Kept as it was, or new by rule."""

import math
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import design, past, planner, shapes
from gpt_jax.scaling.plan.design import Trial
from gpt_jax.scaling.plan.past import Past
from gpt_jax.scaling.plan.planner import Shape

FEWEST_STEPS = 10  # of a trial: half a step is what its budget is missed by
# GPT-2's 0.02 suits its width of 768; a narrower matrix needs larger weights for outputs as large.
INIT, INIT_WIDTH = 0.02, 768


class Rules(NamedTuple):
    """What a trial gets beside its shape. rate, batch: None where they go with the budget."""

    rate: float | None
    batch: int | None
    past: Past | None

    def batch_of(self, budget: float, context: int) -> int:
        return self.batch or planner.batch_for(budget, context)


def kept(given: Past, index: int, budget: float, batch: int, common: int | None, frame: shapes.Frame) -> dict[str, Any]:
    """A run that is there, as its row and its trial."""
    row, runs = given.rows[index], given.runs
    batch = int(past.number(given, index, 'batch')) if row.get('batch') else batch
    trial = past.trial(given, index, budget, batch * frame.context)
    if batch != common and 'train.batch' not in trial:
        trial = trial | {'train.batch': batch}
    layers, width, heads = (int(past.number(given, index, name)) for name in past.SHAPE)
    shape = Shape(layers, width, heads, frame.context, frame.vocab)
    return {
        'loss': float(runs.loss[index]),
        'steps': int(float(row.get('steps') or round(runs.tokens[index] / (batch * frame.context)))),
        **_numbers(trial, shape, float(runs.params[index]), int(runs.tokens[index]), batch),
        'flops': float(runs.flops[index]),
        'learning_rate': trial.get('optimizer.learning_rate'),
        'new': False,
    }


def new(
    wanted: list[Shape], budget: float, common: int | None, frame: shapes.Frame, rules: Rules
) -> list[dict[str, Any]]:
    """Trials of these shapes at the budget, as rows."""
    batch = rules.batch_of(budget, frame.context)
    rate = rules.rate or float(f'{planner.rate_for(budget):.3g}')
    rates = past.by_width(rules.past, 'optimizer.learning_rate') if rules.past and not rules.rate else None
    starts = past.by_width(rules.past, 'model.init_std') if rules.past else _init

    def rule(layers: int, width: int, heads: int) -> dict[str, Any]:
        del layers, heads
        made: dict[str, Any] = {'optimizer.learning_rate': rates(width) if rates else rate}
        if starts and starts(width):
            made['model.init_std'] = starts(width)
        return made if batch == common else made | {'train.batch': batch}

    trials = [_planned(one, rules.past) for one in design.isoflop({budget: [shape[:3] for shape in wanted]}, rule)]
    return [_row(trial, shape, budget, batch, frame) for trial, shape in zip(trials, wanted, strict=True)]


def _planned(trial: Trial, given: Past | None) -> Trial:
    """As the sweep has it, where it planned the same and has not run it yet."""
    same = ('model.layers', 'model.width', 'model.heads', 'train.flops')
    own = given.trials.get(trial['name'], {}) if given else {}
    return own if all(own.get(key) == trial[key] for key in same) else trial


def _init(width: int) -> float:
    return round(INIT * math.sqrt(INIT_WIDTH / width), 4) if width < INIT_WIDTH else 0.0


def _row(trial: Trial, shape: Shape, budget: float, batch: int, frame: shapes.Frame) -> dict[str, Any]:
    per_token = planner.flops_per_token(shape)['6N']
    steps = round(budget / (per_token * batch * frame.context))
    if steps < FEWEST_STEPS:
        raise UserError(
            f'--isoflop={budget:g}: {trial["name"]} would be {steps} steps of {batch} sequences of {frame.context:,}; '
            'a smaller --batch, or a larger budget'
        )
    tokens = steps * batch * frame.context
    return {
        'loss': None,
        'steps': steps,
        **_numbers(trial, shape, shapes.size(shape, frame), tokens, batch),
        'flops': float(per_token * tokens),
        'learning_rate': trial['optimizer.learning_rate'],
        'new': True,
    }


def _numbers(trial: Trial, shape: Shape, params: float, tokens: int, batch: int) -> dict[str, Any]:
    return {
        'name': trial['name'],
        'layers': shape.layers,
        'width': shape.width,
        'heads': shape.heads,
        'params': params,
        'tokens': tokens,
        'tokens_per_param': tokens / params,
        'batch': batch,
        'flops_with_attention': float(planner.flops_per_token(shape)['with_attention'] * tokens),
        'trial': trial,
    }


def words(rules: Rules) -> list[str]:
    """Where the new trials' numbers are from."""
    rates = past.by_width(rules.past, 'optimizer.learning_rate') if rules.past else None
    starts = past.by_width(rules.past, 'model.init_std') if rules.past else None
    rate = 'as --learning-rate says' if rules.rate else "interpolated over the runs' widths" if rates else (
        '0.3118 C^-0.125 (DeepSeek-AI 2024)')  # fmt: skip
    start = "interpolated over the runs' widths" if starts else "the base config's" if rules.past else (
        f'{INIT} x ({INIT_WIDTH} / width)^0.5 below a width of {INIT_WIDTH}')  # fmt: skip
    batch = f'{rules.batch} sequences' if rules.batch else '0.292 C^0.3271 tokens (DeepSeek-AI 2024), in eights'
    return [f'learning rate: {rate}', f'init_std: {start}', f'batch: {batch}']
