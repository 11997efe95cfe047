"""What do a trunk and its branches save? Every horizon cools down from one run at a constant rate, and not from step 0.

Separate runs take the sum of their horizons. The trunk takes the longest one up to its cooldown, and a branch its own
cooldown only; design.cooldowns makes the trials, and the steps are counted off these.
"""

from collections.abc import Mapping
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import design, planner
from gpt_jax.scaling.plan.planner import Shape
from gpt_jax.scaling.plan.trials import FEWEST_STEPS

WARMUP = 0.02  # of the longest horizon, and at most
WARMUP_SHORTEST = 0.1  # of the shortest


def cooldowns(
    given: tuple[float, ...], shape: Shape, *, batch: int | None, warmup: int | None, rate: float | None,
    hardware: Mapping[str, Any], price: float | None,
) -> dict[str, Any]:  # fmt: skip
    """The trunk-and-branches plan for horizons in tokens.

    Args:
      batch: in sequences; None: DeepSeek-AI 2024's for the FLOPs of the longest horizon; so with `rate`.
      warmup: in steps; None: WARMUP of the longest horizon, at most WARMUP_SHORTEST of the shortest.
      hardware: peak, utilization, devices, as planner.plan has them. price: of one device for an hour, or None.

    Returns:
      A JSON-able dict: 'name', 'shape' with its counts, 'batch', 'warmup_steps', 'learning_rate', 'trunk_steps',
      'branches' (horizon, name, steps, branch_step, own_steps, own_tokens), 'planned' and 'separate' (steps, tokens,
      flops, flops_with_attention, hours, cost), 'share' (planned over separate), 'trial' and the 'trials'.

    Raises:
      UserError: a horizon has no room for its cooldown, or two are the same run.
    """
    horizons = sorted(round(one) for one in given)
    per_token = planner.flops_per_token(shape)
    flops = per_token['6N'] * horizons[-1]
    batch = batch or planner.batch_for(flops, shape.context)
    per_step = batch * shape.context
    rate = float(f'{rate or planner.rate_for(flops):.3g}')
    steps = [round(horizon / per_step) for horizon in horizons]
    labels = [design.label(horizon) for horizon in horizons]
    if steps[0] < FEWEST_STEPS:
        raise UserError(
            f'--cooldowns: {horizons[0]:,} tokens are {steps[0]} steps of {per_step:,}; longer horizons, or a smaller '
            '--batch'
        )
    if len(set(steps)) < len(steps) or len(set(labels)) < len(labels):
        raise UserError(f'--cooldowns: two horizons are the same number of steps of {per_step:,} tokens; leave one out')
    warmup = warmup or max(1, round(min(WARMUP * steps[-1], WARMUP_SHORTEST * steps[0])))
    trial = {
        'name': f'{shape.layers}x{shape.width}', 'model.layers': shape.layers, 'model.width': shape.width,
        'model.heads': shape.heads, 'optimizer.learning_rate': rate,
    }  # fmt: skip
    try:
        trials = design.cooldowns(trial, horizons, tokens_per_step=per_step, warmup_steps=warmup)
    except UserError as error:
        raise UserError(f'--cooldowns: {error}; longer horizons, or a smaller --batch or --warmup') from None
    branches = [_branch(one, horizon, per_step) for one, horizon in zip(trials[1:], horizons, strict=True)]
    planned = trials[0]['train.steps'] + sum(one['own_steps'] for one in branches)

    def costs(total: int) -> dict[str, Any]:
        tokens = total * per_step
        hours = tokens * per_token['with_attention'] / planner.hours_to_flops(1, **hardware)
        return {
            'steps': total,
            'tokens': tokens,
            'flops': float(tokens * per_token['6N']),
            'flops_with_attention': float(tokens * per_token['with_attention']),
            'hours': hours,
            'cost': hours * hardware['devices'] * price if price else None,
        }

    return {
        'shape': shape._asdict(),
        'shape_params': planner.parameters(shape),
        'batch': batch,
        'tokens_per_step': per_step,
        'warmup_steps': warmup,
        'learning_rate': rate,
        'horizons': horizons,
        'trunk_steps': trials[0]['train.steps'],
        'branches': branches,
        'planned': costs(planned),
        'separate': costs(sum(steps)),
        'share': planned / sum(steps),
        'trial': trial,
        'trials': list(trials),
    }


def _branch(trial: design.Trial, horizon: int, per_step: int) -> dict[str, Any]:
    own = trial['train.steps'] - trial['train.branch_step']
    return {
        'horizon': horizon,
        'name': trial['name'],
        'steps': trial['train.steps'],
        'branch_step': trial['train.branch_step'],
        'own_steps': own,
        'own_tokens': own * per_step,
    }


def shape(
    layers: int | None, width: int | None, heads: int | None, params: float | None, *, count: str, context: int,
    vocab: int,
) -> Shape:  # fmt: skip
    """The shape that is said, or the one nearest to a size.

    Raises:
      UserError: neither, or both, or heads that do not divide the width.
    """
    if params is not None:
        if layers or width or heads:
            raise UserError('--params: gives a shape by itself; leave out --layers, --width and --heads')
        return planner.shape_for(params, count=count, context=context, vocab=vocab)
    if not (layers and width and heads):
        raise UserError('--cooldowns: say which model: --layers, --width and --heads, or --params')
    if width % heads:
        raise UserError(f'--heads={heads}: does not divide the width of {width}')
    return Shape(layers, width, heads, context, vocab)
