"""How do the rows of anyone's CSV or JSONL come under the names of this house? Read, renamed, under one convention."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError

NEEDED = ('params', 'tokens', 'loss')
ALIASES = {'loss': ('validation_loss',), 'error': ('downstream_error',)}
OFF_THE_LAW = {  # by role: runs that are done, and lie on no law of their parameters and tokens
    'trunk': 'the trunk of cooldown branches: its rate never fell',
    'tuned': "it began with another run's weights: not all of its training is its own",
    'task': "its loss is a task's: laws are of text",
}


def read(path: str, *, columns: dict[str, str] | None = None, count: str = '', flops: str = '') -> list[dict[str, Any]]:
    """Every row of the file as it stands there, under the names that `read` gives its columns; none is left out.

    Raises:
      UserError: no such file, no rows, or a missing column.
    """
    return table(path, content(path), columns or {}, count, flops)[0]


def table(
    path: str, content: bytes, columns: dict[str, str], count: str, flops: str
) -> tuple[list[dict[str, Any]], str]:
    """The rows of `content` as `read` gives them, and how their parameters are counted: '' is the file's own way."""
    table = [_stripped(row) for row in _rows(path, content)]
    if not table:
        raise UserError(f'{path}: no rows')
    for name in columns:
        if not any(name in row for row in table):
            raise UserError(f'{path}: --columns={name}={columns[name]}: no column {name!r}; there are {_there(table)}')
    table = [_renamed(row, columns) for row in table]
    own = any('params_total' in row for row in table) and not any('params' in row for row in table)
    count = count or ('total' if own else '')
    table = [_conventions(row, count, flops) for row in table]
    for name in NEEDED:
        if not any(name in row for row in table):
            raise UserError(
                f'{path}: no column {name!r}; there are {_there(table)}; --columns THEIRS={name} names another'
            )
    return table, count


def counts(path: str, columns: dict[str, str]) -> set[str]:
    """The counts of parameters that every row of our own records has: 'total', 'non_embedding', ..."""
    there = [{columns.get(name, name) for name in row} for row in _rows(path, content(path))]
    shared = set.intersection(*there) if there else set()
    return {name.removeprefix('params_') for name in shared if name.startswith('params_')}


def names(path: str) -> set[str]:
    """The columns of the file, as it calls them."""
    return {name for row in _rows(path, content(path)) for name in _stripped(row)}


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
        yield from _csv(path, text)
        return
    # Not str.splitlines: a string in JSON may hold U+2028 and other ends of line as they are.
    lines = [(1, text)] if path.endswith('.json') else list(enumerate(text.split('\n'), 1))
    for number, line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{path}:{number}: not JSON ({error})') from None
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise UserError(f'{path}:{number}: wants one JSON object per run, got {type(row).__name__}')
            yield row


def _csv(path: str, text: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold a log; the file is in memory anyway
    reader = csv.DictReader(io.StringIO(text, newline=''), skipinitialspace=True)
    for name, times in Counter(name.strip() for name in reader.fieldnames or ()).items():
        if name and times > 1:
            raise UserError(f'{path}: {times} columns are named {name!r}; rename or delete all but one')
    yield from reader


def _stripped(row: dict[str, Any]) -> dict[str, Any]:
    return {str(key).strip(): value for key, value in row.items() if key is not None}


def _renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    # The renamed come last: who says N=params means N, also where the file has a column params.
    named = {key: value for key, value in row.items() if key not in columns}
    named |= {columns[key]: value for key, value in row.items() if key in columns}
    for name, others in ALIASES.items():
        for other in others:
            if name not in named and other in named:
                named[name] = named[other]
    return named


def _conventions(row: dict[str, Any], count: str, flops: str) -> dict[str, Any]:
    made = dict(row)
    if count:
        made.pop('params', None)
        if f'params_{count}' in row:
            made['params'] = row[f'params_{count}']
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
        raise UserError(f'{where} is {value!r:.80}, not a number')
    try:
        return float(value.replace('_', '') if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise UserError(f'{where} is {value!r:.80}, not a number') from None
