"""Rows of a run table: a CSV, JSON or JSONL file of any origin, with its columns renamed.

The files that run.py writes (records.jsonl) are read in the same way. `gpt_jax.core.files` reads
only those and drops a torn last line; here, every line must be valid. Columns of records.jsonl:

    name                    name of the trial, unique in its file
    status                  'done', or why there is no result; only done trials are fitted
    params_non_embedding    parameters without token embedding, position table and untied head
    tokens                  tokens trained on, repeats counted
    flops_with_attention    training FLOPs: 6 per parameter and token, and all of the score matrix
    validation_loss         nats per token
    bits_per_byte           validation loss in bits per byte of text
    seconds                 wall-clock seconds of training
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.core.errors import UserError

Row = dict[str, Any]

REQUIRED_COLUMNS = ('params', 'tokens', 'loss')
ALIASES = {'loss': ('validation_loss',), 'error': ('downstream_error',)}
EXCLUDED_ROLES = {  # finished runs that follow no law of their parameters and tokens, by role
    'trunk': 'the trunk of cooldown branches: its learning rate never decayed',
    'finetuned': "started from another run's weights: part of its training is not its own",
    'task': 'its loss is that of a task, and laws are for text',
}
MISSING_WORDS = ('', 'none', 'null', 'na', 'n/a')


def read_rows(
    path: str, *, columns: dict[str, str] | None = None, count: str = '', flops: str = ''
) -> list[Row]:
    """Read every row of the file, with its columns renamed; none is left out.

    Args:
      path: .csv (with a header), .jsonl or .json (a list of objects).
      columns: {name in the file: name here}.
      count: which parameters are N, as in `runs.read_runs`.
      flops: which FLOPs are C, as in `runs.read_runs`.

    Raises:
      UserError: the file does not exist or has no rows, or a column is missing.
    """
    return parse_rows(path, read_content(path), columns or {}, count, flops)[0]


def parse_rows(
    path: str,
    content: bytes,
    columns: dict[str, str],
    count: str,
    flops: str,
    required: tuple[str, ...] = REQUIRED_COLUMNS,
) -> tuple[list[Row], str]:
    """Parse the rows of `content` as `read_rows` does; the `required` columns must exist.

    Returns:
      The rows, and the convention of their parameters; '': as the file gives them.
    """
    table = [_strip_names(row) for row in _iterate_rows(path, content)]
    if not table:
        raise UserError(f'{path}: no rows')
    for name in columns:
        if not any(name in row for row in table):
            raise UserError(
                f'{path}: --columns={name}={columns[name]}: no column {name!r}; the columns are: '
                f'{_join_columns(table)}'
            )
    table = [_rename(row, columns) for row in table]
    # Our own records count parameters in several ways, and have no column params.
    has_totals = any('params_total' in row for row in table)
    if not count and has_totals and not any('params' in row for row in table):
        count = 'total'
    if count and not any(f'params_{count}' in row for row in table):
        raise UserError(
            f"{path}: --count={count}: no column 'params_{count}'; the columns are: "
            f'{_join_columns(table)}'
        )
    table = [_apply_conventions(row, count, flops) for row in table]
    for name in required:
        if not any(name in row for row in table):
            raise UserError(
                f'{path}: no column {name!r}; the columns are: {_join_columns(table)}; --columns '
                f'THEIRS={name} renames one'
            )
    return table, count


def list_param_counts(path: str, columns: dict[str, str] | None = None) -> set[str]:
    """List the parameter counts that all rows have: 'total', 'non_embedding', ..."""
    columns = columns or {}
    names = [
        {columns.get(name, name) for name in row} for row in _iterate_rows(path, read_content(path))
    ]
    shared = set.intersection(*names) if names else set()
    return {name.removeprefix('params_') for name in shared if name.startswith('params_')}


def list_columns(path: str) -> set[str]:
    """List the columns of the file by their own names."""
    rows = _iterate_rows(path, read_content(path))
    return {name for row in rows for name in _strip_names(row)}


def read_content(path: str) -> bytes:
    """Read the bytes of a file.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None


def _iterate_rows(path: str, content: bytes) -> Iterator[Row]:
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 text ({error})') from None
    is_json = path.endswith(('.json', '.jsonl')) or text.lstrip().startswith(('{', '['))
    if path.endswith('.csv') or not is_json:
        yield from _iterate_csv(path, text)
    else:
        yield from _iterate_json(path, text)


def _iterate_json(path: str, text: str) -> Iterator[Row]:
    # Not str.splitlines: a JSON string may contain U+2028 and other line separators unescaped.
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
                raise UserError(
                    f'{path}:{number}: must have one JSON object per run, got {type(row).__name__}'
                )
            yield row


def _iterate_csv(path: str, text: str) -> Iterator[Row]:
    # A cell may contain a whole log; the file is in memory anyway.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.DictReader(io.StringIO(text, newline=''), skipinitialspace=True)
    for name, times in Counter(name.strip() for name in reader.fieldnames or ()).items():
        if name and times > 1:
            raise UserError(
                f'{path}: {times} columns are named {name!r}; rename or delete all but one'
            )
    yield from reader


def _strip_names(row: Row) -> Row:
    return {str(key).strip(): value for key, value in row.items() if key is not None}


def _rename(row: Row, columns: dict[str, str]) -> Row:
    # Renamed columns come last, so that --columns=N=params also wins over a column params.
    renamed = {key: value for key, value in row.items() if key not in columns}
    renamed |= {columns[key]: value for key, value in row.items() if key in columns}
    for name, aliases in ALIASES.items():
        for alias in aliases:
            if name not in renamed and alias in renamed:
                renamed[name] = renamed[alias]
    return renamed


def _apply_conventions(row: Row, count: str, flops: str) -> Row:
    """Return the row with params and flops by the given conventions, if it has these columns."""
    result = dict(row)
    if count:
        result.pop('params', None)
        if f'params_{count}' in row:
            result['params'] = row[f'params_{count}']
    if flops in ('with_attention', 'causal'):
        result.pop('flops', None)
        if f'flops_{flops}' in row:
            result['flops'] = row[f'flops_{flops}']
    if flops == '6ND':
        result.pop('flops', None)
    return result


def _join_columns(table: list[Row]) -> str:
    return ', '.join(dict.fromkeys(key for row in table for key in row)) or 'none'


def parse_number(value: Any, where: str) -> float:
    """Return a cell as a float; NaN for an empty one.

    Args:
      value: the cell.
      where: prefix of the error message.

    Raises:
      UserError: the cell is not a number.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING_WORDS):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f'{where} is {value!r:.80}, not a number')
    try:
        return float(value.replace('_', '') if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise UserError(f'{where} is {value!r:.80}, not a number') from None


def get_column(records: list[Row], name: str) -> list[Any]:
    """Return the value of `name` in every record of a sweep.

    Raises:
      UserError: a record lacks the column; names the record and the existing columns.
    """
    for index, record in enumerate(records):
        if name not in record:
            columns = ', '.join(sorted({key for row in records for key in row})) or 'none'
            raise UserError(
                f'record {record.get("name", index)}: no column {name!r}; the columns are: '
                f'{columns}'
            )
    return [record[name] for record in records]


def split_fittable(records: list[Row], names: list[str]) -> tuple[list[Row], list[dict[str, str]]]:
    """Separate the records of a sweep that a law can be fitted to from the others.

    Args:
      records: rows of records.jsonl.
      names: columns whose values must be positive and finite.

    Returns:
      The records to fit, and for each of the others {'name', 'reason'}.

    Raises:
      UserError: a finished record lacks one of the columns `names`.
    """
    fittable, left_out = [], []
    for index, record in enumerate(records):
        status = get_column([record], 'status')[0]
        reason = '' if status == 'done' else f'status is {status!r}'
        reason = EXCLUDED_ROLES.get(record.get('role', ''), reason)
        for name in [] if reason else names:
            value = get_column([record], name)[0]
            if not _has_logarithm(value):
                reason = f'{name} is {value!r}, not a finite number above zero'
        if reason:
            left_out.append({'name': str(record.get('name', index)), 'reason': reason})
        else:
            fittable.append(record)
    return fittable, left_out


def _has_logarithm(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
