"""Config files of planned runs and sweeps, in the style of configs/, for run.py.

A file starts from `gpt_jax.base_config()`, or from `configs/NAME.py` if a base is named.
"""

import math
from pathlib import Path
from typing import Any

from gpt_jax.scaling.plan import design
from gpt_jax.scaling.plan.shapes import GPT2, Architecture, Shape

MICROBATCH_TOKENS = 16_384  # per device at a time
FIRST_KEYS = ('name', 'train.flops', 'model.layers', 'model.width', 'model.heads')


def render_run_config(
    result: dict[str, Any], name: str, base: str = '', architecture: Architecture = GPT2
) -> str:
    """Render the config of one planned run.

    Args:
      result: as `planner.plan_run` returns it.
      name: name of the run.
      base: a module of configs/, or ''.
      architecture: the architecture of the plan.
    """
    shape = Shape(**result['shape'])
    size = result['shape_params'][result['count']]
    fields = [f'{name}={value}' for name, value in architecture.scale(shape).items()]
    microbatch = ''
    if not base:
        largest = max(1, round(MICROBATCH_TOKENS / shape.context))
        microbatch = f', microbatch_size={min(largest, result["batch"])}'
    return f'''"""Planned: {result['flops']:.4g} FLOPs, {size:,} parameters ({result['count']}),
{result['shape_tokens']:,} tokens; loss {result['shape_loss']:.4f} by the law it was planned with.
"""

from ml_collections import ConfigDict

{_import_base(base)}


def get_config() -> ConfigDict:
    config = {_make_base(base)}
    config.name = {name!r}
    config.model.update({', '.join(fields)})
{_update_model(result['shape'], base)}
    # DeepSeek-AI 2024: 0.3118 C^-0.125
    config.optimizer.learning_rate = {result['learning_rate']:.3g}
    config.train.update(batch_size={result['batch']}{microbatch}, steps={result['steps']})
    return config
'''


def render_isoflop_config(result: dict[str, Any], path: str, base: str = '') -> str:
    """Render the config of an isoFLOP sweep: one row per trial, the cheapest budget first.

    Args:
      result: as `isoflop_plan.plan_isoflop` returns it.
      path: path of the config file.
      base: a module of configs/, or ''.
    """
    planned = [row for budget in result['budgets'] for row in budget['trials']]
    trials = [row['trial'] for row in planned]
    used = dict.fromkeys(key for trial in trials for key in trial)
    keys = [key for key in FIRST_KEYS if key in used]
    keys += [key for key in used if key not in FIRST_KEYS]
    rows = '\n'.join(
        f'    ({", ".join(_format_literal(trial.get(key)) for key in keys)}),' for trial in trials
    )
    has_gaps = any(key not in trial for trial in trials for key in keys)
    to_dict = '{k: v for k, v in row.items() if v is not None}' if has_gaps else 'row'
    batches = [row['batch'] for row in planned]
    return f'''"""Planned: {len(result['budgets'])} budgets of training FLOPs, {len(trials)} trials.

python run.py --config={path}

N* from: {_shorten(result['source'])}.
"""

from ml_collections import ConfigDict

{_import_base(base)}

KEYS = (
{_wrap(keys)}
)
ROWS = (  # of the keys above{'; None: not set' if has_gaps else ''}
{rows}
)


def get_config() -> ConfigDict:
    config = {_make_base(base)}
    config.name = {Path(path).stem!r}
{_update_model(result['frame'], base)}
{_update_train(result['batch'], batches, result['frame']['context'], base)}
    rows = (dict(zip(KEYS, row, strict=True)) for row in ROWS)
    config.sweep.trials = tuple({to_dict} for row in rows)
    return config
'''


def render_cooldown_config(result: dict[str, Any], path: str, base: str = '') -> str:
    """Render the config of a trunk and its branches.

    Args:
      result: as `cooldown_plan.plan_cooldowns` returns it.
      path: path of the config file.
      base: a module of configs/, or ''.
    """
    trial = '\n'.join(
        f'    {key!r}: {_format_literal(value)},' for key, value in result['trial'].items()
    )
    batch, context = result['batch'], result['shape']['context']
    branches = len(result['horizons'])
    return f'''"""Planned: a constant-rate trunk, and {branches} branches that cool down from it.

python run.py --config={path}

{100 * result['share']:.1f}% of the steps of as many runs from their first step.
"""

from ml_collections import ConfigDict

{_import_base(base)}
from gpt_jax.scaling.plan import design

TRIAL = {{
{trial}
}}
HORIZONS = (  # tokens
{_wrap(result['horizons'])}
)


def get_config() -> ConfigDict:
    config = {_make_base(base)}
    config.name = {Path(path).stem!r}
{_update_model(result['shape'], base)}
{_update_train(batch, [batch], context, base)}
    config.sweep.trials = design.make_cooldowns(
        TRIAL,
        HORIZONS,
        tokens_per_step={result['tokens_per_step']},
        warmup_steps={result['warmup_steps']},
    )
    return config
'''


def _import_base(base: str) -> str:
    return f'from configs import {base} as base' if base else 'from gpt_jax import base_config'


def _make_base(base: str) -> str:
    return 'base.get_config()' if base else 'base_config()'


def _update_model(sizes: dict[str, Any], base: str) -> str:
    """Render the context, and the vocabulary unless a named base has its own tokenizer."""
    vocab = '' if base else f', vocab_size={sizes["vocab"]}'
    return f'    config.model.update(context={sizes["context"]}{vocab})'


def _update_train(common_batch: int | None, batches: list[int], context: int, base: str) -> str:
    """Render the batch and, without a named base, a microbatch that suits an accelerator."""
    fields = [f'batch_size={common_batch}'] if common_batch else []
    if not base:
        divisor, largest = math.gcd(*batches), max(1, MICROBATCH_TOKENS // context)
        parts = range(1, min(divisor, largest) + 1)
        fields.append(f'microbatch_size={max(part for part in parts if divisor % part == 0)}')
    return f'    config.train.update({", ".join(fields)})' if fields else ''


def _format_literal(value: Any) -> str:
    """Render a Python literal; for a float, the shortest that reads back as the same number."""
    if isinstance(value, float):
        label = design.format_label(value)
        if float(label) == value and len(label) < len(repr(value)):
            return label
    return repr(value)


def _wrap(values: Any) -> str:
    return '\n'.join(
        f'    {value:_},' if isinstance(value, int) else f'    {value!r},' for value in values
    )


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f'{text[:77]}...'
