"""Whose shape has a model that is tuned on a task? That of the weights it begins with, and their tokenizer."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from gpt_jax import pretrained
from gpt_jax.data.encoded import vocab_size
from gpt_jax.modes.same_model import FREE

Config = dict[str, Any]


def adopt(config: Config, say: Callable[[str], None]) -> Config:
    """The config with the model and the tokenizer of `init_from`, where it is a task's; else as it is.

    How the model is computed and what is dropped stays the config's, and its context where it is the shorter.

    Raises:
      UserError: there is no such model.
    """
    if not config['init_from'] or config['task']['kind'] == 'none':
        return config
    found = pretrained.find(config['init_from'], asked='config.init_from', say=say)
    shape = {field: value for field, value in dataclasses.asdict(found.model).items() if field not in FREE}
    # Room for the marks between a task's texts, which the weights may not have.
    shape['vocab_size'] = max(found.model.vocab_size, vocab_size(config['task']['kind'], found.tokenizer))
    shape['context'] = min(found.model.context, config['model']['context'])
    if shape['context'] < config['model']['context']:
        say(f'{config["name"]}: the weights have a context of {shape["context"]}, and so has this run')
    config = copy.deepcopy(config)
    config['model'] |= {field: list(value) if isinstance(value, tuple) else value for field, value in shape.items()}
    config['data']['tokenizer'] = found.spec
    return config
