"""Plan of a trunk and its cooldown branches: one constant-rate run shared by several horizons.

Separate runs cost the sum of their horizons. The trunk costs the longest horizon up to its
cooldown, and a branch only its own cooldown (Hägele et al. 2024). `design.make_cooldowns` makes the
trials; the steps are counted from them.
"""

from collections.abc import Mapping
from typing import Any

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import design, planner
from gpt_jax.scaling.plan.shapes import GPT2, Architecture, Shape, find_shape
from gpt_jax.scaling.plan.trial_rows import MIN_STEPS

WARMUP_SHARE = 0.02  # of the longest horizon
MAX_WARMUP_SHARE = 0.1  # of the shortest horizon


def plan_cooldowns(
    horizons: tuple[float, ...],
    shape: Shape,
    *,
    batch: int | None,
    warmup: int | None,
    rate: float | None,
    hardware: Mapping[str, Any],
    price: float | None,
    architecture: Architecture = GPT2,
) -> dict[str, Any]:
    """Plan a trunk and its branches for horizons in tokens.

    Args:
      horizons: token counts at which branches end.
      shape: shape of the model.
      batch: sequences per step; None: by DeepSeek-AI 2024, for the FLOPs of the longest horizon.
      warmup: warmup steps; None: WARMUP_SHARE of the longest horizon, at most MAX_WARMUP_SHARE of
        the shortest.
      rate: peak learning rate; None: by the same source as `batch`.
      hardware: peak, utilization and devices, as in `planner.plan_run`.
      price: price of one device for an hour, or None.
      architecture: everything that the shape does not define.

    Returns:
      A JSON-able dict: 'shape', 'shape_params' (by convention), 'batch', 'tokens_per_step',
      'warmup_steps', 'learning_rate', 'horizons', 'trunk_steps', 'branches' (horizon, name, steps,
      branch_step, own_steps, own_tokens), 'planned' and 'separate' (steps, tokens, flops,
      flops_with_attention, hours, cost), 'share' (planned over separate), 'trial' and 'trials'.

    Raises:
      UserError: a horizon is too short for its cooldown, or two horizons give the same run.
    """
    tokens = sorted(round(horizon) for horizon in horizons)
    flops_per_token = architecture.flops_per_token(shape)
    flops = flops_per_token['6N'] * tokens[-1]
    batch = batch or planner.suggest_batch_size(flops, shape.context)
    tokens_per_step = batch * shape.context
    rate = float(f'{rate or planner.suggest_learning_rate(flops):.3g}')
    steps = [round(horizon / tokens_per_step) for horizon in tokens]
    _check_horizons(tokens, steps, tokens_per_step)
    if not warmup:
        warmup = max(1, round(min(WARMUP_SHARE * steps[-1], MAX_WARMUP_SHARE * steps[0])))
    scaled = architecture.scale(shape)
    trial = {
        'name': f'{shape.layers}x{shape.width}',
        **{f'model.{name}': value for name, value in scaled.items()},
        'optimizer.learning_rate': rate,
    }
    try:
        trials = design.make_cooldowns(
            trial, tokens, tokens_per_step=tokens_per_step, warmup_steps=warmup
        )
    except UserError as error:
        raise UserError(
            f'--cooldowns: {error}; give longer horizons, or a smaller --batch or --warmup'
        ) from None
    branches = [
        _describe_branch(branch, horizon, tokens_per_step)
        for branch, horizon in zip(trials[1:], tokens, strict=True)
    ]
    planned_steps = trials[0]['train.steps'] + sum(branch['own_steps'] for branch in branches)

    def compute_costs(total_steps: int) -> dict[str, Any]:
        total = total_steps * tokens_per_step
        flops_with_attention = total * flops_per_token['with_attention']
        hours = flops_with_attention / planner.convert_hours_to_flops(1, **hardware)
        return {
            'steps': total_steps,
            'tokens': total,
            'flops': float(total * flops_per_token['6N']),
            'flops_with_attention': float(flops_with_attention),
            'hours': hours,
            'cost': hours * hardware['devices'] * price if price else None,
        }

    return {
        'shape': shape._asdict(),
        'shape_params': architecture.count_parameters(shape),
        'batch': batch,
        'tokens_per_step': tokens_per_step,
        'warmup_steps': warmup,
        'learning_rate': rate,
        'horizons': tokens,
        'trunk_steps': trials[0]['train.steps'],
        'branches': branches,
        'planned': compute_costs(planned_steps),
        'separate': compute_costs(sum(steps)),
        'share': planned_steps / sum(steps),
        'trial': trial,
        'trials': list(trials),
    }


def _check_horizons(tokens: list[int], steps: list[int], tokens_per_step: int) -> None:
    if steps[0] < MIN_STEPS:
        raise UserError(
            f'--cooldowns: {tokens[0]:,} tokens are {steps[0]} steps of {tokens_per_step:,}; give '
            'longer horizons, or a smaller --batch'
        )
    labels = [design.format_label(horizon) for horizon in tokens]
    if len(set(steps)) < len(steps) or len(set(labels)) < len(labels):
        raise UserError(
            f'--cooldowns: two horizons are the same number of steps of {tokens_per_step:,} '
            'tokens; leave one out'
        )


def _describe_branch(trial: design.Trial, horizon: int, tokens_per_step: int) -> dict[str, Any]:
    own_steps = trial['train.steps'] - trial['train.branch_step']
    return {
        'horizon': horizon,
        'name': trial['name'],
        'steps': trial['train.steps'],
        'branch_step': trial['train.branch_step'],
        'own_steps': own_steps,
        'own_tokens': own_steps * tokens_per_step,
    }


def choose_shape(
    layers: int | None,
    width: int | None,
    heads: int | None,
    params: float | None,
    *,
    count: str,
    context: int,
    vocab: int,
    architecture: Architecture = GPT2,
) -> Shape:
    """Return the shape with these sizes, or the one nearest to `params`.

    Raises:
      UserError: neither or both are given, or `heads` does not divide `width`.
    """
    if params is not None:
        if layers or width or heads:
            raise UserError(
                '--params: must not be combined with --layers, --width or --heads; it chooses them'
            )
        return find_shape(
            params, count=count, context=context, vocab=vocab, architecture=architecture
        )
    if not (layers and width and heads):
        raise UserError(
            '--cooldowns: needs a model; give --layers, --width and --heads, or --params'
        )
    if width % heads and not architecture.raw_model['head_dim']:
        raise UserError(f'--heads: must divide the width {width}, got {heads}')
    return Shape(layers, width, heads, context, vocab)
