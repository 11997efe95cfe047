"""How does a planned sweep read as a config file? Values, in the style of configs/; run.py runs it."""

import math
from pathlib import Path
from typing import Any

from gpt_jax.scaling.plan import design

MICRO = 16_384  # tokens of a device at a time
FIRST = ('name', 'train.flops', 'model.layers', 'model.width', 'model.heads')


def isoflop(result: dict[str, Any], path: str, base: str) -> str:
    """The config of what sweeps.isoflop returned: one row per trial, the cheapest budget first."""
    trials = [row['trial'] for one in result['budgets'] for row in one['trials']]
    there = dict.fromkeys(key for trial in trials for key in trial)
    keys = [*(key for key in FIRST if key in there), *(key for key in there if key not in FIRST)]
    rows = '\n'.join(f'    ({", ".join(_literal(trial.get(key)) for key in keys)}),' for trial in trials)
    absent = any(key not in trial for trial in trials for key in keys)
    pairs = 'zip(KEYS, row, strict=True)'
    made = f'{{k: v for k, v in {pairs} if v is not None}}' if absent else f'dict({pairs})'
    batches = [row['batch'] for one in result['budgets'] for row in one['trials']]
    budgets = len(result['budgets'])
    return f'''"""Planned: {budgets} budgets of training FLOPs, {len(trials)} trials, each of exactly its own.

python run.py --config={path}

N* from: {_short(result['source'])}.
"""

from ml_collections import ConfigDict

from configs import {base}{'' if base == 'base' else ' as base'}

KEYS = (
{_wrapped(keys)}
)
ROWS = (  # of the keys above{'; None: not set' if absent else ''}
{rows}
)


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = {Path(path).stem!r}
{_model(result['frame'], base)}
{_batch(result['batch'], batches, result['frame']['context'], base)}
    config.sweep.trials = tuple({made} for row in ROWS)
    return config
'''


def cooldowns(result: dict[str, Any], path: str, base: str) -> str:
    """The config of what trunks.cooldowns returned."""
    keys = '\n'.join(f'    {key!r}: {_literal(value)},' for key, value in result['trial'].items())
    return f'''"""Planned: one trunk at a constant rate, and {len(result['horizons'])} branches that cool down from it.

python run.py --config={path}

{100 * result['share']:.1f}% of the steps of as many runs from their first step.
"""

from ml_collections import ConfigDict

from configs import {base}{'' if base == 'base' else ' as base'}
from gpt_jax.scaling.plan import design

TRIAL = {{
{keys}
}}
HORIZONS = (  # tokens
{_wrapped(result['horizons'])}
)


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = {Path(path).stem!r}
{_model(result['shape'], base)}
{_batch(result['batch'], [result['batch']], result['shape']['context'], base)}
    length = {{'tokens_per_step': {result['tokens_per_step']}, 'warmup_steps': {result['warmup_steps']}}}
    config.sweep.trials = design.cooldowns(TRIAL, HORIZONS, **length)
    return config
'''


def _model(about: dict[str, Any], base: str) -> str:
    """A base of one's own knows its tokenizer, and so its vocabulary."""
    vocab = f', vocab_size={about["vocab"]}' if base == 'base' else ''
    return f'    config.model.update(context={about["context"]}{vocab})'


def _batch(common: int | None, batches: list[int], context: int, base: str) -> str:
    """The batch, and for the plain base as much of it at a time as suits an accelerator."""
    words = [f'batch={common}'] if common else []
    if base == 'base':
        every, most = math.gcd(*batches), max(1, MICRO // context)
        words.append(f'microbatch={max(part for part in range(1, min(every, most) + 1) if every % part == 0)}')
    return f'    config.train.update({", ".join(words)})' if words else ''


def _literal(value: Any) -> str:
    """A number as short as it can be read back."""
    if isinstance(value, float) and float(design.label(value)) == value and len(design.label(value)) < len(repr(value)):
        return design.label(value)
    return repr(value)


def _wrapped(values: Any) -> str:
    return '\n'.join(f'    {value:_},' if isinstance(value, int) else f'    {value!r},' for value in values)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f'{text[:97]}...'
