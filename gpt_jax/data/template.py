"""How does a template take the columns of a row into a text?

'{question}' is a column, '{answers[text][0]}' a part of one, '{{' and '}}' are braces. Nothing else is understood: what
stands in braces is looked up by name and number alone, so that a template can neither reach an attribute nor call.
"""

import functools
import re
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.schema import nearest

_PATH = re.compile(r'[^][{}]+(\[[^][{}]+\])*')
_NUMBER = re.compile(r'-?\d+')
_LONGEST = 60  # characters of a value that a message shows


class Path(NamedTuple):
    """A column, and the way into what it holds: names of fields, numbers of list members from 0 (-1: the last)."""

    column: str
    keys: tuple[str | int, ...]
    text: str  # as it was written


class Template(NamedTuple):
    """Texts and paths in turn. field: the configuration's field that it stands in, for messages."""

    parts: tuple[str | Path, ...]
    field: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once, in order."""
        return tuple(dict.fromkeys(part.column for part in self.parts if isinstance(part, Path)))


@functools.cache
def parse(text: str, field: str) -> Template:
    """Reads a template.

    Raises:
      UserError: a brace that is not closed, '{}', a conversion ('!r'), a format (':>3').
    """
    parts: list[str | Path] = []
    try:
        for literal, name, form, conversion in string.Formatter().parse(text):
            if literal:
                parts.append(literal)
            if conversion or form:
                raise UserError(f'config.{field}: {{{name}...}}: nothing may follow the name of a column in braces')
            if name is not None:
                parts.append(parse_path(name, field))
    except UserError:
        raise
    except ValueError as error:  # 'Single '}' encountered in format string'
        raise UserError(f"config.{field}: {error}; write '{{{{' or '}}}}' for a brace that is text") from None
    return Template(tuple(parts), field)


@functools.cache
def parse_path(text: str, field: str) -> Path:
    """Reads what may stand in braces; such a path alone is what fields that name a column hold.

    Raises:
      UserError: it is neither a column nor one with names or numbers in brackets behind it.
    """
    if not _PATH.fullmatch(text):
        raise UserError(f"config.{field}: {text!r} names no column; write 'column' or 'column[field][0]'")
    column, _, rest = text.partition('[')
    keys = rest.removesuffix(']').split('][') if rest else []
    return Path(column, tuple(int(key) if _NUMBER.fullmatch(key) else key for key in keys), text)


def fill(template: Template, row: Mapping[str, Any], where: str) -> str:
    """The text that the row gives.

    Args:
      where: the row's place, for messages.

    Raises:
      UserError: a column, field or member that the row has not, or one that holds no text, number or truth value.
    """
    return ''.join(
        part if isinstance(part, str) else _text(value(part, row, where, template.field), part, where, template.field)
        for part in template.parts
    )


def _text(held: Any, path: Path, where: str, field: str) -> str:
    if isinstance(held, str | int | float):
        return str(held)
    if held is None:
        raise UserError(f'{where}: {path.text!r} holds nothing (null), and config.{field} asks for its text')
    kind, hint = ('a list', f'{path.text}[0]') if isinstance(held, list) else ('an object', f'{path.text}[NAME]')
    raise UserError(f'{where}: {path.text!r} holds {kind}, and config.{field} asks for its text; write {{{hint}}}, say')


def value(path: Path, row: Mapping[str, Any], where: str, field: str) -> Any:
    """What lies at the path in the row. A name behind a list of objects gives the list of what each has by that name.

    Raises:
      UserError: it is not there; names what is.
    """
    if path.column not in row:
        columns = ', '.join(row) or 'none'
        close = nearest(path.column, row)
        raise UserError(f'{where}: no column {path.column!r}, which config.{field} asks for (it has {columns}){close}')
    held, way = row[path.column], path.column
    for key in path.keys:
        held = _step(held, key, f'{where}: {way!r}', field)
        way = f'{way}[{key}]'
    return held


def _step(held: Any, key: str | int, at: str, field: str) -> Any:
    if isinstance(held, dict):
        if str(key) in held:
            return held[str(key)]
        raise UserError(f'{at} has no {key!r}, which config.{field} asks for (it has {", ".join(held) or "none"})')
    if isinstance(held, list) and isinstance(key, int):
        if -len(held) <= key < len(held):
            return held[key]
        raise UserError(f'{at} has {len(held) or "no"} members, and config.{field} asks for number {key}, from 0')
    if isinstance(held, list):
        return [_step(one, key, at, field) for one in held]
    raise UserError(f'{at} is {_shown(held)}, and config.{field} asks for {key!r} of it')


def texts(path: Path, row: Mapping[str, Any], where: str, field: str) -> list[str]:
    """The texts that a column lists; of one text alone, its words (what white space parts).

    Raises:
      UserError: it is no list, or a member is no text.
    """
    held = value(path, row, where, field)
    if isinstance(held, str):
        return held.split()
    if not isinstance(held, list):
        raise UserError(f'{where}: {path.text!r} is {_shown(held)}; config.{field} wants a list of texts')
    for number, one in enumerate(held):
        if not isinstance(one, str):
            raise UserError(f'{where}: {path.text!r} has {_shown(one)} as number {number}; config.{field} wants texts')
    return held


def _shown(held: Any) -> str:
    kind = {'NoneType': 'nothing (null)', 'dict': 'an object', 'list': 'a list'}.get(type(held).__name__)
    return kind or repr(held)[:_LONGEST]
