"""Whose shape has a model that is tuned on a task? That of the weights it begins with, and their tokenizer."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax import files, pretrained
from gpt_jax.data.tokenizer import BYTES_CONTENT
from gpt_jax.data.tokens import TOKENIZER
from gpt_jax.modes.same_model import FREE

Config = dict[str, Any]


def adopt(config: Config, say: Callable[[str], None]) -> Config:
    """The config with the model and the tokenizer of `init_from`, where it is a task's; else as it is.

    How the model is computed and what is dropped stays the config's.

    Raises:
      UserError: there is no such model.
    """
    if not config['init_from'] or config['task']['kind'] == 'none':
        return config
    found = pretrained.find(config['init_from'], asked='config.init_from', say=say)
    shape = {field: value for field, value in dataclasses.asdict(found.model).items() if field not in FREE}
    config = copy.deepcopy(config)
    config['model'] |= {field: list(value) if isinstance(value, tuple) else value for field, value in shape.items()}
    # Room for the marks between a task's texts, which the weights may not have.
    config['model']['vocab_size'] = 0
    config['data']['tokenizer'] = found.spec
    return config
