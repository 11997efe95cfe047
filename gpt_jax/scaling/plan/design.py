"""Trials of a sweep: size ladders, isoFLOP grids, grids of config keys and cooldown branches.

Every function returns trials for `config.sweep.trials`: dicts of a name and config keys.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpt_jax.core.config import count_cooldown_steps
from gpt_jax.core.errors import UserError

Trial = dict[str, Any]
Trials = tuple[Trial, ...]
Size = tuple[int, int, int]  # layers, width, heads
# Config keys that depend on the size, such as its learning rate and initialization.
SizeRule = Callable[[int, int, int], Mapping[str, Any]]


def make_ladder(sizes: Iterable[Size], rule: SizeRule | None = None) -> Trials:
    """Make one trial per size, named LAYERSxWIDTH, in the order given."""
    return tuple(_make_sized(size, rule) for size in sizes)


def make_isoflop(budgets: Mapping[float, Iterable[Size]], rule: SizeRule | None = None) -> Trials:
    """Make a trial of every size at each of its budgets, the cheapest budget first.

    Args:
      budgets: sizes by training FLOPs (6 per token and parameter, without positions).
      rule: config keys that depend on the size.
    """
    return tuple(
        trial
        | {
            'name': f'{format_label(budget)}-{trial["name"]}',
            'train.flops': float(budget),
            'train.tokens': 0,
        }
        for budget in sorted(budgets)
        for trial in make_ladder(budgets[budget], rule)
    )


def make_grid(axes: Mapping[str, Sequence[Any]], trials: Trials = ()) -> Trials:
    """Make a trial of every combination of config values, for each of `trials` if there are any.

    A name is the trial's own name and a word for each axis: '2x64-seed1', 'mup-rate0.003'.
    """
    combined = []
    for trial in trials or ({},):
        for values in itertools.product(*axes.values()):
            fields = dict(zip(axes, values, strict=True))
            words = [_format_value(key, value) for key, value in fields.items()]
            name = '-'.join([trial['name'], *words] if trial else words)
            combined.append(trial | {'name': name} | fields)
    return tuple(combined)


def make_variants(recipes: Mapping[str, Mapping[str, Any]], trials: Trials) -> Trials:
    """Make every trial with every recipe (config keys by name), named 'RECIPE-TRIAL'."""
    return tuple(
        trial | {'name': f'{name}-{trial["name"]}'} | dict(recipe)
        for name, recipe in recipes.items()
        for trial in trials
    )


def make_cooldowns(
    trial: Trial,
    horizons: Iterable[int],
    *,
    tokens_per_step: int,
    warmup_steps: int,
    fraction: float = 0.2,
) -> Trials:
    """Make a trunk at a constant rate, and a branch per horizon that cools down at its end.

    A branch ends with the same parameters, bit for bit, as a separate run with that horizon and
    schedule (Hägele et al. 2024), and costs only its own cooldown.

    Args:
      trial: the fields that trunk and branches share; its name is the prefix of theirs.
      horizons: token counts at which branches end.
      tokens_per_step: tokens per step of trunk and branches.
      warmup_steps: warmup steps of the trunk, and so of all branches.
      fraction: share of a branch's steps, at its end, that cool down.

    Raises:
      UserError: a horizon is too short for the warmup and a cooldown, or there is no horizon.
    """
    ends = {horizon: round(horizon / tokens_per_step) for horizon in sorted(horizons)}
    starts = {horizon: end - count_cooldown_steps(fraction, end) for horizon, end in ends.items()}
    for horizon, end in ends.items():
        if not warmup_steps < starts[horizon] < end:
            raise UserError(
                f'cooldown: {horizon:,} tokens are {end} steps, too few for {warmup_steps} steps '
                'of warmup'
            )
    if not ends:
        raise UserError('cooldown: no horizons')
    trunk_steps = max(starts.values())
    trunk = trial | {
        'name': f'{trial["name"]}-trunk',
        'optimizer.schedule': 'constant',
        'optimizer.warmup_fraction': warmup_steps / trunk_steps,
        'train.steps': trunk_steps,
        'train.keep_steps': tuple(sorted(set(starts.values()))),
    }
    branches = [
        trial
        | {
            'name': f'{trial["name"]}-{format_label(horizon)}',
            'optimizer.schedule': 'wsd',
            'optimizer.warmup_fraction': warmup_steps / end,
            'optimizer.cooldown_fraction': fraction,
            'train.steps': end,
            'train.branch_from': trunk['name'],
            'train.branch_step': starts[horizon],
        }
        for horizon, end in ends.items()
    ]
    return (trunk, *branches)


def format_label(number: float) -> str:
    """Format a number as part of a name: 250000 is '2.5e5', 4e12 is '4e12'."""
    mantissa, _, exponent = f'{number:.3e}'.partition('e')
    return f'{mantissa.rstrip("0").rstrip(".")}e{int(exponent)}'


def _make_sized(size: Size, rule: SizeRule | None) -> Trial:
    layers, width, heads = size
    trial = {
        'name': f'{layers}x{width}',
        'model.layers': layers,
        'model.width': width,
        'model.heads': heads,
    }
    return trial | dict(rule(layers, width, heads) if rule else {})


def _format_value(key: str, value: Any) -> str:
    """Format a config value as part of a trial's name: 'seed1', 'rate0.003'."""
    if isinstance(value, str):
        return value
    word = {'optimizer.learning_rate': 'rate'}.get(key, key.rpartition('.')[2])
    return word + (f'{value:g}'.replace('+', '') if isinstance(value, float) else str(value))
