"""How do the rows of anyone's CSV or JSONL come under the names of this house? Read, renamed, under one convention."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError

NEEDED = ('params', 'tokens', 'loss')
ALIASES = {'loss': ('validation_loss',), 'error': ('downstream_error',)}


def read(path: str, *, columns: dict[str, str] | None = None, count: str = '', flops: str = '') -> list[dict[str, Any]]:
    """Every row of the file as it stands there, under the names that `read` gives its columns; none is left out.

    Raises:
      UserError: no such file, no rows, or a missing column.
    """
    return table(path, content(path), columns or {}, count, flops)


def table(path: str, content: bytes, columns: dict[str, str], count: str, flops: str) -> list[dict[str, Any]]:
    table = [_renamed(row, columns) for row in _rows(path, content)]
    if not table:
        raise UserError(f'{path}: no rows')
    for name in columns:
        if not any(columns[name] in row for row in table):
            raise UserError(f'{path}: --columns {name}=...: no column {name!r}; there are {_there(table)}')
    table = [_conventions(row, count, flops) for row in table]
    for name in NEEDED:
        if not any(name in row for row in table):
            raise UserError(
                f'{path}: no column {name!r}; there are {_there(table)}; --columns THEIRS={name} names another'
            )
    return table


def content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None


def _rows(path: str, content: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 text ({error})') from None
    if path.endswith('.csv') or (not path.endswith(('.json', '.jsonl')) and not text.lstrip().startswith(('{', '['))):
        yield from csv.DictReader(text.splitlines(), skipinitialspace=True)
        return
    lines = [(1, text)] if path.endswith('.json') else list(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f'{path}:{number}: not JSON ({error})') from None
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise UserError(f'{path}:{number}: wants one JSON object per run, got {type(row).__name__}')
            yield row


def _renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    named = {columns.get(str(key).strip(), str(key).strip()): value for key, value in row.items() if key is not None}
    for name, others in ALIASES.items():
        for other in others:
            if name not in named and other in named:
                named[name] = named[other]
    return named


def _conventions(row: dict[str, Any], count: str, flops: str) -> dict[str, Any]:
    made = dict(row)
    wanted = f'params_{count}' if count else None
    if wanted is None and 'params' not in row and 'params_total' in row:
        wanted = 'params_total'
    if wanted is not None:
        made.pop('params', None)
        if wanted in row:
            made['params'] = row[wanted]
    if flops in ('with_attention', 'causal'):
        made.pop('flops', None)
        if f'flops_{flops}' in row:
            made['flops'] = row[f'flops_{flops}']
    if flops == '6ND':
        made.pop('flops', None)
    return made


def _there(table: list[dict[str, Any]]) -> str:
    return ', '.join(dict.fromkeys(key for row in table for key in row)) or 'none'


def number(value: Any, where: str) -> float:
    """As a float; NaN where there is none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ('', 'none', 'null', 'na', 'n/a')):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f'{where} is {value!r}, not a number')
    try:
        return float(value.replace('_', '') if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise UserError(f'{where} is {value!r}, not a number') from None
