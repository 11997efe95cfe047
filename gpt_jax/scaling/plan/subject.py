"""Which run is it that a config file describes, as a law sees it? Its parameters and tokens, without training it.

This floor knows no model: the counts are those of the GPT-2 decoder in closed form (planner.py), and a config of
another architecture is refused.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax import identity
from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import planner

# What the closed form counts: any other value changes it.
COUNTED = {'kv_heads': 0, 'head_dim': 0, 'mlp_width': 0, 'block': 'pre_norm', 'norm': 'layer', 'final_norm': True,
           'position': 'learned', 'qk_norm': False, 'attention_sink': False, 'feedforward': 'mlp', 'bias': True,
           'tied_head': True}  # fmt: skip
BYTES = 256


class Subject(NamedTuple):
    """A run that is not made yet. config_hash: of its config, as the run's summary will carry it."""

    name: str
    params: float
    tokens: float
    config_hash: str


def of_config(path: str, *, count: str, trial: str = '') -> Subject:
    """Reads configs/NAME.py and counts.

    Args:
      count: a convention of planner.parameters; '' is total.
      trial: of the sweep, where the config is one.

    Raises:
      UserError: no such file, an architecture or vocabulary that this floor cannot count, or no such trial.
    """
    config = _load(path)
    config = _trial(config, trial, path)
    model, train = config['model'], config['train']
    for name, wanted in COUNTED.items():
        if model[name] != wanted:
            raise UserError(f'{path}: model.{name} is {model[name]!r}, which is not counted here; give --params')
    vocab = model['vocab_size'] or (BYTES if config['data']['tokenizer'] == 'bytes' else 0)
    if not vocab:
        raise UserError(f'{path}: the vocabulary of {config["data"]["tokenizer"]} is not known yet; give --params')
    shape = planner.Shape(model['layers'], model['width'], model['heads'], model['context'], vocab)
    step = train['batch'] * model['context']
    budgeted = round(train['flops'] / (planner.flops_per_token(shape)['6N'] * step))
    steps = train['steps'] or -(-train['tokens'] // step) or max(1, budgeted)
    counts = planner.parameters(shape)
    if (count or 'total') not in counts:
        raise UserError(f'--count={count}: one of {", ".join(counts)}')
    return Subject(config['name'], counts[count or 'total'], steps * step, identity.config_hash(config))


def _load(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise UserError(f'--config={path}: no such file')
    spec = importlib.util.spec_from_file_location('_subject', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return dict(module.get_config().to_dict())
    except Exception as error:  # whatever a config file may do wrong
        raise UserError(f'--config={path}: {type(error).__name__}: {error}') from error


def _trial(config: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    trials = {one['name']: one for one in config['sweep']['trials']}
    if not trials and not name:
        return config
    if name not in trials:
        known = ', '.join(list(trials)[:8]) + (', ...' if len(trials) > 8 else '')
        raise UserError(f'--trial={name}: no such trial of {path}; the trials are {known or "none: no sweep"}')
    for key, value in trials[name].items():
        section, _, field = key.rpartition('.')
        (config[section] if section else config)[field] = value
    return config
