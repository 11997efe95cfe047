"""How does a mapping become a checked, frozen dataclass, and what is said when a key or a type is wrong?"""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gpt_jax.errors import UserError

T = TypeVar('T')


def nearest(word: str, words: Iterable[str]) -> str:
    """' (nearest: X)' for the known word closest to `word`, or '' where none is close."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f'; the nearest is {close[0]!r}' if close else ''


def from_dict(cls: type[T], mapping: Mapping[str, Any], path: str) -> T:
    """Builds the frozen dataclass `cls` from `mapping`, to the letter: no missing key, no unknown one, no wrong type.

    Args:
      cls: a dataclass whose fields are int, float, str, bool or tuples; no field has a default.
      mapping: its values by field name. An int is taken for a float; a list for a tuple; nothing else is converted.
      path: where the mapping stands in the config ('model'), for the messages.

    Raises:
      UserError: names the field as `path.key`, and the nearest right one.
    """
    types = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in mapping:
        if key not in names:
            raise UserError(f'config.{path}.{key}: no such field{nearest(key, names)}')
    for name in names:
        if name not in mapping:
            raise UserError(f'config.{path}.{name}: missing')
    return cls(**{name: _checked(mapping[name], types[name], f'config.{path}.{name}') for name in names})


def _checked(value: Any, wanted: Any, field: str) -> Any:
    base = typing.get_origin(wanted) or wanted
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if base is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'{field}: must be finite, got {value}')
    if base is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        raise UserError(f'{field}: wants {base.__name__}, got {value!r}')
    return value


def require(condition: bool, field: str, message: str) -> None:
    """Raises UserError('config.field: message') unless `condition` holds."""
    if not condition:
        raise UserError(f'config.{field}: {message}')


def choice(value: str, choices: Iterable[str], field: str) -> None:
    """Raises UserError unless `value` is one of `choices`; names them and the nearest."""
    choices = list(choices)
    require(value in choices, field, f'no {value!r}; one of {", ".join(choices)}{nearest(value, choices)}')


def name(value: Any, field: str) -> None:
    """Raises UserError unless `value` can name a folder: 1 to 64 of [A-Za-z0-9._-], not starting with a dot."""
    good = isinstance(value, str) and re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}', value)
    require(bool(good), field, f'must be 1 to 64 of A-Z a-z 0-9 . _ -, got {value!r}')
