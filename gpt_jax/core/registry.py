"""Lookup of functions by registered name or by dotted path 'package.module:name'.

A dotted path lets a config use a function that is not part of this library, for example
`model.norm=my_lab.norms:power_norm`.
"""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import UserError

T = TypeVar('T')


def resolve(word: str, registry: Mapping[str, T], field: str) -> T:
    """Return the function that a config value names.

    Args:
      word: a key of `registry`, or 'package.module:name', which is imported.
      registry: the registered functions by name.
      field: the config field ('model.norm') or the flag ('--launch'), for error messages.

    Raises:
      UserError: the name is not registered, or the dotted path cannot be imported.
    """
    if word in registry:
        return registry[word]
    field = field if field.startswith('--') else f'config.{field}'
    module_name, colon, name = word.partition(':')
    if not colon:
        raise UserError(
            f'{field}: must be one of {", ".join(registry)} or a dotted path '
            f"'package.module:name', got {word!r}{nearest(word, registry)}"
        )
    try:
        target: Any = importlib.import_module(module_name)
        for part in name.split('.'):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'{field}: cannot import {word!r} ({error})') from None
    return target
