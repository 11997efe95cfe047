"""Text templates with the names of a row's columns in braces.

'{question}' is a column, '{answers[text][0]}' a part of one, and '{{' and '}}' are literal braces.
Braces only look up names and numbers, so a template cannot access attributes or run code.
"""

import functools
import re
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import UserError

_PATH = re.compile(r'[^][{}]+(\[[^][{}]+\])*')
_NUMBER = re.compile(r'-?\d+')
_MAX_SHOWN_CHARACTERS = 60  # characters of a value that an error message shows


class ColumnPath(NamedTuple):
    """A path into a row.

    Attributes:
      column: the name of the column.
      keys: the field names and list indices (from 0; -1 is the last) that follow it.
      text: the path as the user wrote it.
    """

    column: str
    keys: tuple[str | int, ...]
    text: str


class Template(NamedTuple):
    """A parsed template.

    Attributes:
      parts: literal texts and paths, in order.
      field: the config field that holds it, for error messages.
    """

    parts: tuple[str | ColumnPath, ...]
    field: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Distinct columns in the order of their first use."""
        paths = [part for part in self.parts if isinstance(part, ColumnPath)]
        return tuple(dict.fromkeys(path.column for path in paths))


@functools.cache
def parse_template(text: str, field: str) -> Template:
    """Parse a template.

    Args:
      text: the template.
      field: the config field that holds it, for error messages.

    Raises:
      UserError: an unbalanced brace, '{}', a conversion ('!r') or a format (':>3').
    """
    parts: list[str | ColumnPath] = []
    try:
        for literal, name, form, conversion in string.Formatter().parse(text):
            if literal:
                parts.append(literal)
            if conversion or form:
                raise UserError(
                    f'config.{field}: {{{name}...}} must contain only a column in braces, without '
                    'a conversion or format'
                )
            if name is not None:
                parts.append(parse_path(name, field))
    except UserError:  # a subclass of ValueError
        raise
    except ValueError as error:  # 'Single '}' encountered in format string'
        raise UserError(
            f"config.{field}: {error}; write '{{{{' or '}}}}' for a literal brace"
        ) from None
    return Template(tuple(parts), field)


@functools.cache
def parse_path(text: str, field: str) -> ColumnPath:
    """Parse a column path: the content of braces, or the value of a field that names a column.

    Raises:
      UserError: not a column with optional names or numbers in brackets.
    """
    if not _PATH.fullmatch(text):
        raise UserError(
            f"config.{field}: must name a column as 'column' or 'column[field][0]', got {text!r}"
        )
    column, _, rest = text.partition('[')
    keys = rest.removesuffix(']').split('][') if rest else []
    return ColumnPath(column, tuple(int(k) if _NUMBER.fullmatch(k) else k for k in keys), text)


def fill_template(template: Template, row: Mapping[str, Any], where: str) -> str:
    """Replace a template's paths with the values of a row.

    Args:
      template: the parsed template.
      row: values by column.
      where: location of the row, for error messages.

    Raises:
      UserError: a column, field or item is missing, or a value is not text, a number or a boolean.
    """
    texts = []
    for part in template.parts:
        if isinstance(part, ColumnPath):
            value = get_value(part, row, where, template.field)
            texts.append(_value_text(value, part, where, template.field))
        else:
            texts.append(part)
    return ''.join(texts)


def _value_text(value: Any, path: ColumnPath, where: str, field: str) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    hint = ''
    if isinstance(value, list):
        hint = f'; use {{{path.text}[0]}} for its first item'
    elif value is not None:
        hint = f'; use {{{path.text}[NAME]}} for a field'
    raise UserError(
        f'{where}: {path.text!r} must be text for config.{field}, got {_describe_value(value)}'
        f'{hint}'
    )


def get_value(path: ColumnPath, row: Mapping[str, Any], where: str, field: str) -> Any:
    """Return the value at a path; a name after a list of objects gives the list of that field.

    Args:
      path: the parsed path.
      row: values by column.
      where: location of the row, for error messages.
      field: the config field of the path, for error messages.

    Raises:
      UserError: there is nothing at the path; names the keys that exist.
    """
    if path.column not in row:
        columns = ', '.join(row) or 'none'
        raise UserError(
            f'{where}: no column {path.column!r} for config.{field} (it has {columns})'
            f'{nearest(path.column, row)}'
        )
    value, parent = row[path.column], path.column
    for key in path.keys:
        value = _follow_key(value, key, f'{where}: {parent!r}', field)
        parent = f'{parent}[{key}]'
    return value


def _follow_key(value: Any, key: str | int, where: str, field: str) -> Any:
    if isinstance(value, dict):
        if str(key) in value:
            return value[str(key)]
        names = ', '.join(value) or 'none'
        raise UserError(f'{where} has no {key!r} for config.{field} (it has {names})')
    if isinstance(value, list) and isinstance(key, int):
        if -len(value) <= key < len(value):
            return value[key]
        raise UserError(f'{where} has {len(value)} items, but config.{field} reads item {key}')
    if isinstance(value, list):
        return [_follow_key(item, key, where, field) for item in value]
    raise UserError(f'{where} is {_describe_value(value)}, but config.{field} reads its {key!r}')


def get_texts(path: ColumnPath, row: Mapping[str, Any], where: str, field: str) -> list[str]:
    """Return the strings that a column lists; a single string is split into words.

    Args:
      path, row, where, field: as in `get_value`.

    Raises:
      UserError: the value is neither a string nor a list of strings.
    """
    value = get_value(path, row, where, field)
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list):
        raise UserError(
            f'{where}: {path.text!r} must be a list of strings for config.{field}, got '
            f'{_describe_value(value)}'
        )
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise UserError(
                f'{where}: {path.text!r} must be a list of strings for config.{field}, got '
                f'{_describe_value(item)} as item {number}'
            )
    return value


def _describe_value(value: Any) -> str:
    names = {'NoneType': 'null', 'dict': 'an object', 'list': 'a list'}
    return names.get(type(value).__name__) or repr(value)[:_MAX_SHOWN_CHARACTERS]
