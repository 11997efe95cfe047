"""Rows of a run table of any origin, with its columns renamed.

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

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.loss_units import find_unit
from gpt_jax.scaling.table_formats import COMMA_NUMBER, Row, list_names
from gpt_jax.scaling.table_sources import Source, list_paths, read_source

REQUIRED_COLUMNS = ('params', 'tokens', 'loss')
# Other names of a column, in lower case; its own name counts in any case too.
ALIASES: dict[str, tuple[str, ...]] = {
    'params': (),
    'tokens': (),
    'loss': ('validation_loss',),
    'flops': (),
    'error': ('downstream_error',),
    'budget': ('flops_budget', 'compute_budget'),
    'seed': (),
    'status': ('state', '_state'),
    'name': ('run_name',),
}
# A column `state` is that of the runs if it has one of these values (those of W&B and of Slurm).
STATES = ('finished', 'completed', 'running', 'crashed', 'failed', 'killed', 'done', 'preempted')
EXCLUDED_ROLES = {  # finished runs that follow no law of their parameters and tokens, by role
    'trunk': 'the trunk of cooldown branches: its learning rate never decayed',
    'finetuned': "started from another run's weights: part of its training is not its own",
    'task': 'its loss is that of a task, and laws are for text',
}
MISSING_WORDS = ('', 'none', 'null', 'na', 'n/a', '-')
COUNT_SUFFIXES = {'k': 1e3, 'm': 1e6, 'b': 1e9, 'g': 1e9, 't': 1e12}


class RunTable(NamedTuple):
    """The rows of a file.

    Attributes:
      rows: with the columns renamed.
      given: by the file's own names; same order.
      params_count: the convention of the parameters; '': as the file gives them.
      loss_column: the file's own name of the loss.
      notes: what was read in another way than expected, a sentence each.
      places: file and row number of each row, for messages.
      sha256: hash of what was read; of several files, of their hashes.
    """

    rows: list[Row]
    given: list[Row]
    params_count: str
    loss_column: str
    notes: list[str]
    places: list[str]
    sha256: str


def read_rows(
    paths: str | Sequence[str],
    *,
    columns: dict[str, str] | None = None,
    count: str = '',
    flops: str = '',
) -> list[Row]:
    """Read every row of one or several tables, with its columns renamed; none is left out.

    Args:
      paths: what `table_sources.read_source` reads.
      columns: {name in the file, or a sum of names: name here}.
      count: which parameters are N, as in `runs.read_runs`.
      flops: which FLOPs are C, as in `runs.read_runs`.

    Raises:
      UserError: a file does not exist or has no rows, a column is missing, or the files count in
        different ways.
    """
    return read_table(paths, columns or {}, count, flops).rows


def read_table(
    paths: str | Sequence[str],
    columns: dict[str, str],
    count: str,
    flops: str,
    required: tuple[str, ...] = REQUIRED_COLUMNS,
    *,
    loss_unit: str = '',
) -> RunTable:
    """Read tables as `read_rows` does, one after the other; the `required` columns must exist.

    A column of `columns` must exist in one of the files.
    """
    paths = list_paths(paths)
    sources = {path: read_source(path) for path in paths}
    names = {path: list_names(source.rows) for path, source in sources.items()}
    tables = []
    for path, source in sources.items():
        others = {name for other, found in names.items() if other != path for name in found}
        own = {
            theirs: ours
            for theirs, ours in columns.items()
            if _has_column(names[path], theirs) or not _has_column(others, theirs)
        }
        tables.append(_parse_table(path, source, own, count, flops, required))
    if len(tables) == 1:
        return tables[0]
    _check_conventions(list(sources), tables, loss_unit)
    return RunTable(
        rows=[row for table in tables for row in table.rows],
        given=[row for table in tables for row in table.given],
        params_count=tables[0].params_count,
        loss_column=tables[0].loss_column,
        notes=[
            f'{path}: {note}'
            for path, table in zip(sources, tables, strict=True)
            for note in table.notes
        ],
        places=[place for table in tables for place in table.places],
        sha256=hashlib.sha256(''.join(table.sha256 for table in tables).encode()).hexdigest(),
    )


def _check_conventions(paths: list[str], tables: list[RunTable], loss_unit: str) -> None:
    """Raise UserError if files count parameters or FLOPs, or measure the loss, differently."""
    described = [_describe_conventions(table, loss_unit) for table in tables]
    for path, conventions in zip(paths, described, strict=True):
        for what, (words, cure) in conventions.items():
            if words != described[0][what][0]:
                raise UserError(
                    f'{path}: {what}: {words}, and in {paths[0]} {described[0][what][0]}; {cure} '
                    'makes them equal'
                )


def _describe_conventions(table: RunTable, loss_unit: str) -> dict[str, tuple[str, str]]:
    """Return, for each quantity, its convention in words and the flag that sets it."""
    counted = f'column params_{table.params_count}' if table.params_count else 'column params'
    has_flops = any('flops' in row for row in table.rows)
    return {
        'params': (counted, '--count or --columns'),
        'loss': (f'in {loss_unit or find_unit(table.loss_column)}', '--loss_unit or --columns'),
        'flops': ('a column' if has_flops else 'no column', '--flops=6ND'),
    }


def _has_column(names: Iterable[str], theirs: str) -> bool:
    """Return whether a key of --columns, a name or a sum of names, is among `names`."""
    return theirs in names or {part.strip() for part in theirs.split('+')} <= set(names)


def _parse_table(
    path: str,
    source: Source,
    columns: dict[str, str],
    count: str,
    flops: str,
    required: tuple[str, ...],
) -> RunTable:
    given = source.rows
    if not given:
        raise UserError(f'{path}: no rows; give a header and a row per run')
    table, notes = _rename_columns(path, given, columns)
    # Our own records count parameters in several ways, and have no column params.
    has_totals = any('params_total' in row for row in table)
    if not count and has_totals and not any('params' in row for row in table):
        count = 'total'
    if count and not any(f'params_{count}' in row for row in table):
        raise UserError(
            f"{path}: --count={count}: no column 'params_{count}'; the columns are: "
            f'{_join_columns(table)}'
        )
    if count or flops not in ('', 'column'):
        table = [_apply_conventions(row, count, flops) for row in table]
    for name in required:
        if not any(name in row for row in table):
            raise UserError(
                f'{path}: no column {name!r}; the columns are: {_join_columns(given)}; '
                f'{_suggest_cure(given, name)}'
            )
    renamed = [theirs for theirs, ours in columns.items() if ours == 'loss']
    names = list_names(given)
    own = 'loss' if 'loss' in names else next(iter(_find_aliases(names, 'loss')), 'loss')
    places = [f'{path}: row {number}' for number in range(1, len(given) + 1)]
    sha256 = hashlib.sha256(source.content).hexdigest()
    return RunTable(table, given, count, renamed[0] if renamed else own, notes, places, sha256)


def list_param_counts(
    paths: str | Sequence[str], columns: dict[str, str] | None = None
) -> set[str]:
    """List the parameter counts that all rows have: 'total', 'non_embedding', ..."""
    columns = columns or {}
    given = [row for path in list_paths(paths) for row in read_source(path).rows]
    names = [{columns.get(name, name) for name in row} for row in given]
    shared = set.intersection(*names) if names else set()
    return {name.removeprefix('params_') for name in shared if name.startswith('params_')}


def list_columns(path: str) -> set[str]:
    """List the columns of the table by their own names."""
    return set(list_names(read_source(path).rows))


def _rename_columns(
    path: str, given: list[Row], columns: dict[str, str]
) -> tuple[list[Row], list[str]]:
    """Return the rows with columns summed, renamed and known by their aliases, and notes."""
    names = list_names(given)
    sums = {}
    for theirs, ours in columns.items():
        parts = [theirs] if theirs in names else [part.strip() for part in theirs.split('+')]
        for part in parts:
            if part not in names:
                raise UserError(
                    f'{path}: --columns={theirs}={ours}: no column {part!r}; the columns are: '
                    f'{_join_columns(given)}'
                )
        if theirs not in names:
            sums[ours] = parts
    aliases = {ours: _find_aliases(names, ours) for ours in ALIASES}
    notes: list[str] = []
    if 'status' not in {columns.get(name, name) for name in names}:
        aliases['status'], notes = _select_states(given, aliases['status'])
    if not columns and not any(aliases.values()):
        return given, notes
    return [_rename(row, columns, sums, aliases) for row in given], notes


def _find_aliases(names: Iterable[str], ours: str) -> list[str]:
    """Return the columns that stand for `ours`, the best first."""
    known = (ours, *ALIASES[ours])
    found = [name for name in names if name != ours and name.lower() in known]
    return sorted(found, key=lambda name: known.index(name.lower()))


def _select_states(given: list[Row], names: list[str]) -> tuple[list[str], list[str]]:
    """Return the columns whose values are those of a status, and a note on each of the others."""
    states, notes = [], []
    for name in names:
        values = {str(row.get(name)).strip().lower() for row in given} - set(MISSING_WORDS)
        if not values or values & set(STATES) or name.lower() == 'status':
            states.append(name)
        else:
            notes.append(
                f'column {name!r} is not read as the status of the runs: it has none of '
                f'{", ".join(STATES)}; --columns={name}=status reads it'
            )
    return states, notes


def _rename(
    row: Row, columns: dict[str, str], sums: dict[str, list[str]], aliases: dict[str, list[str]]
) -> Row:
    # Renamed columns come last, so that --columns=N=params also wins over a column params.
    renamed = {key: value for key, value in row.items() if key not in columns}
    renamed |= {columns[key]: value for key, value in row.items() if key in columns}
    renamed |= {ours: _add_cells([row.get(part) for part in parts]) for ours, parts in sums.items()}
    for ours, names in aliases.items():
        for name in names:
            if ours not in renamed and name in row and name not in columns:
                renamed[ours] = row[name]
    return renamed


def _add_cells(cells: list[Any]) -> Any:
    """Return the sum of cells; the first that is no number, to be refused with its row, if any."""
    total = 0.0
    for cell in cells:
        try:
            number = parse_number(cell, '', is_count=True)
        except UserError:
            return cell
        if math.isnan(number):
            return cell
        total += number
    return total


def _suggest_cure(table: list[Row], name: str) -> str:
    columns = {key for row in table for key in row}
    if any(key.endswith('__MIN') for key in columns):
        return 'this is a chart of W&B; export its table of runs, which has a row per run'
    if columns == {'Wall time', 'Step', 'Value'}:
        return "this is one run's curve from TensorBoard; give a table with a row per run"
    return f'--columns THEIRS={name} renames one, and --columns A+B={name} adds two'


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
    return ', '.join(list_names(table)) or 'none'


def parse_number(value: Any, where: str, *, is_count: bool = False) -> float:
    """Return a cell as a float; NaN for an empty one.

    Args:
      value: the cell.
      where: prefix of the error message.
      is_count: whether it may be abbreviated, as 124M, 1.3B or 2T.

    Raises:
      UserError: the cell is not a number.
    """
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING_WORDS):
        return math.nan
    text = value.strip().replace('_', '') if isinstance(value, str) else value
    unit = 1.0
    if (
        is_count
        and isinstance(text, str)
        and re.fullmatch(r'[\d.]+(e\d+)?\s*[kmbgt]', text.lower())
    ):
        text, unit = text[:-1], COUNT_SUFFIXES[text[-1].lower()]
    cure = 'correct the cell, or leave it empty to leave the row out'
    if isinstance(text, str) and COMMA_NUMBER.fullmatch(text):
        cure = 'write 5.7 for 5,7 and 5000 for 5,000'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f'{where} is {value!r:.80}, not a number; {cure}')
    try:
        return float(text) * unit
    except (ValueError, OverflowError):
        raise UserError(f'{where} is {value!r:.80}, not a number; {cure}') from None


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
