"""Which runs make a sweep? Every function returns trials, as config.sweep.trials wants them: a name and config keys."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpt_jax.errors import UserError

Trial = dict[str, Any]
Trials = tuple[Trial, ...]
Size = tuple[int, int, int]  # layers, width, heads
Rule = Callable[[int, int, int], Mapping[str, Any]]  # what else follows from a size: its rate, its initialization


def ladder(sizes: Iterable[Size], rule: Rule | None = None) -> Trials:
    """One trial per size, named LAYERSxWIDTH, in the order given."""
    return tuple(_sized(size, rule) for size in sizes)


def isoflop(budgets: Mapping[float, Iterable[Size]], rule: Rule | None = None) -> Trials:
    """Every size at its budgets of training FLOPs (6 per parameter, positions apart, and token), the cheapest first."""
    return tuple(
        one | {'name': f'{label(budget)}-{one["name"]}', 'train.flops': float(budget), 'train.tokens': 0}
        for budget in sorted(budgets)
        for one in ladder(budgets[budget], rule)
    )


def grid(axes: Mapping[str, Sequence[Any]], trials: Trials = ()) -> Trials:
    """Every combination of the values of config keys, on each of `trials` where there are some.

    A name is the trial's own and then a word for each axis: '2x64-seed1', 'mup-rate0.003'.
    """
    made = []
    for trial in trials or ({},):
        for values in itertools.product(*axes.values()):
            parts = [_word(key, value) for key, value in zip(axes, values, strict=True)]
            name = '-'.join([trial['name'], *parts] if trial else parts)
            made.append(trial | {'name': name} | dict(zip(axes, values, strict=True)))
    return tuple(made)


def variants(recipes: Mapping[str, Mapping[str, Any]], trials: Trials) -> Trials:
    """Every trial under every recipe, a recipe being a name and config keys: 'gpt2-2x64'."""
    return tuple(
        trial | {'name': f'{name}-{trial["name"]}'} | dict(keys) for name, keys in recipes.items() for trial in trials
    )


def cooldowns(
    trial: Trial, horizons: Iterable[int], *, tokens_per_step: int, warmup_steps: int, fraction: float = 0.2
) -> Trials:
    """A trunk at a constant rate, and from it one branch for each horizon that cools down over its last `fraction`.

    A branch ends with the same parameters, to the bit, as a run with that horizon and schedule from its first step
    (Hagele et al. 2024), and costs only its own end.

    Args:
      trial: what trunk and branches share; its name begins theirs.
      horizons: tokens at which branches end.
      warmup_steps: of the trunk, and so of all.

    Raises:
      UserError: a horizon that ends before its cooldown could begin after the warmup.
    """
    steps = {horizon: round(horizon / tokens_per_step) for horizon in sorted(horizons)}
    starts = {horizon: warmup_steps + int((1 - fraction) * (end - warmup_steps)) for horizon, end in steps.items()}
    for horizon, end in steps.items():
        if not warmup_steps < starts[horizon] < end:
            raise UserError(f'cooldown: {horizon:,} tokens are {end} steps: too few for {warmup_steps} of warmup')
    if not steps:
        raise UserError('cooldown: no horizons')
    last = max(starts.values())
    trunk = f'{trial["name"]}-trunk'
    made = [
        trial | {
            'name': trunk, 'optimizer.schedule': 'constant', 'optimizer.warmup_fraction': warmup_steps / last,
            'train.steps': last, 'train.keep_steps': tuple(sorted(set(starts.values()))),
        }
    ]  # fmt: skip
    for horizon, end in steps.items():
        made.append(
            trial | {
                'name': f'{trial["name"]}-{label(horizon)}', 'optimizer.schedule': 'wsd',
                'optimizer.warmup_fraction': warmup_steps / end, 'optimizer.cooldown_fraction': fraction,
                'train.steps': end, 'train.branch_from': trunk, 'train.branch_step': starts[horizon],
            }
        )  # fmt: skip
    return tuple(made)


def label(number: float) -> str:
    """A number as a part of a name: 250000 is '2.5e5', 4e12 is '4e12'."""
    mantissa, _, exponent = f'{number:.3e}'.partition('e')
    return f'{mantissa.rstrip("0").rstrip(".")}e{int(exponent)}'


def _sized(size: Size, rule: Rule | None) -> Trial:
    layers, width, heads = size
    named = {'name': f'{layers}x{width}', 'model.layers': layers, 'model.width': width, 'model.heads': heads}
    return named | dict(rule(layers, width, heads) if rule else {})


def _word(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    named = {'optimizer.learning_rate': 'rate'}.get(key, key.rpartition('.')[2])
    return named + (f'{value:g}'.replace('+', '') if isinstance(value, float) else str(value))
