"""Cleaning of run tables: rows that can be fitted, as numbers, and the others with reasons.

A value that a failed run may have left excludes its row; one that can only be a mistake is an
error.
"""

import math
from typing import Any

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import loss_units, rows
from gpt_jax.scaling.rows import REQUIRED_COLUMNS, RunTable
from gpt_jax.scaling.table_formats import Row, list_names

# Optional: one that cannot be read as numbers is not used, and refuses no file.
EXTRA_COLUMNS = (
    'budget',
    'unique_tokens',
    'params_total',
    'planned_tokens',
    'seed',
    'error',
    'seconds',
)
NUMBER_COLUMNS = (*REQUIRED_COLUMNS, 'flops', *EXTRA_COLUMNS)
POSITIVE_COLUMNS = (
    'params',
    'tokens',
    'flops',
    'budget',
    'unique_tokens',
    'params_total',
    'planned_tokens',
    'loss',
)
# At least 1.
COUNT_COLUMNS = ('params', 'tokens', 'unique_tokens', 'params_total', 'planned_tokens')
# Far above any run, and small enough that squares computed in a fit are still finite.
MAX_VALUE = 1e40
MAX_CURVE_VALUE = 1e300  # integers in JSON are unbounded, floats are not
DONE_WORDS = ('', 'done', 'ok', 'finished', 'complete', 'completed', 'success', 'none', 'nan')
# Share of the planned tokens below which a run counts as stopped short; above it, only a part of
# the last batch is missing.
COMPLETE_SHARE = 0.995

Curve = list[tuple[float, float]]  # (tokens, loss in nats/token), by tokens


def separate_rows(table: RunTable, unit: str) -> tuple[list[Row], list[dict[str, Any]], list[str]]:
    """Separate the rows that can be fitted from the others.

    Args:
      table: the rows.
      unit: unit of the loss, one of `loss_units.UNITS`.

    Returns:
      The rows to fit, with NUMBER_COLUMNS as floats (the loss in nats per token or bits per byte),
      'row' (from 1), 'name' and 'curve'; 'row', 'name' and 'reason' of the others; and a note on
      each optional column that cannot be read.

    Raises:
      UserError: a value can only be a mistake; names its row and column.
    """
    # The status comes first, because a failed run may have left anything in its columns.
    reasons = [_find_bad_status(row) for row in table.rows]
    unread = _find_unread_columns(
        {number: row for number, row in enumerate(table.rows, 1) if not reasons[number - 1]}
    )
    present = set(list_names(table.rows)) - set(unread)
    names = [name for name in NUMBER_COLUMNS if name in present]
    fitted: list[Row] = []
    left_out: list[dict[str, Any]] = []
    first_rows: dict[Any, int] = {}  # all cells -> number of the first row that has them
    for number, (row, given, where, reason) in enumerate(
        zip(table.rows, table.given, table.places, reasons, strict=True), 1
    ):
        name, values = str(row.get('name') or f'row {number}'), {}
        if not reason:
            values = dict.fromkeys(NUMBER_COLUMNS, math.nan)
            values |= {name: parse_value(row, name, where) for name in names}
            reason = _find_bad_value(row, values)
        if not reason:
            # Rounded losses of different seeds may be equal; then a name or a seed differs.
            same = first_rows.setdefault(_make_key(given), number)
            reason = f'the same as row {same} in every column' if same != number else ''
        if reason:
            left_out.append({'row': number, 'name': name, 'reason': reason})
        else:
            values['loss'] = loss_units.convert_loss(values['loss'], unit, where)
            curve = parse_curve(row.get('curve')) if unit == 'nats' else []  # its losses are nats
            fitted.append(values | {'row': number, 'name': name, 'curve': curve})
    return fitted, left_out, list(unread.values())


def _make_key(given: Row) -> Any:
    """Return a key that is equal for rows with the same cells."""
    key = tuple(given.items())
    try:
        hash(key)
    except TypeError:  # JSON has lists in cells
        return repr(key)
    return key


def _find_bad_status(row: Row) -> str:
    status = str(row.get('status') if row.get('status') is not None else '').strip()
    if status.lower() not in DONE_WORDS:
        return f'status is {status!r}'
    return rows.EXCLUDED_ROLES.get(str(row.get('role')), '')


def _find_unread_columns(table: dict[int, Row]) -> dict[str, str]:
    """Return the optional columns that cannot be read, each with a note.

    Args:
      table: the rows by number.
    """
    unread = {}
    present = set(list_names(table.values()))
    for name in EXTRA_COLUMNS:
        for number, row in table.items() if name in present else ():
            try:
                parse_value(row, name, f'row {number}')
            except UserError as error:
                unread[name] = f'column {name!r} is not used: {error}'
                break
    return unread


def parse_value(row: Row, name: str, where: str) -> float:
    """Return a number of the row; NaN where it has none.

    Raises:
      UserError: the value can only be a mistake, not the result of a failed run.
    """
    cell = row.get(name)
    if cell is None:
        return math.nan
    value = rows.parse_number(cell, f'{where}: {name}', is_count=name in COUNT_COLUMNS)
    if name not in POSITIVE_COLUMNS or not math.isfinite(value):
        return value
    if value <= 0:
        raise UserError(
            f'{where}: {name}: must be above zero, got {value:g}; correct the cell or empty it'
        )
    if name in COUNT_COLUMNS and value < 1:
        raise UserError(
            f'{where}: {name}: must be at least 1, got {value:g}; give a count, not billions'
        )
    if not 1 / MAX_VALUE < value < MAX_VALUE:
        raise UserError(
            f'{where}: {name} is {value:g}, which no run has; correct the row or delete it'
        )
    return value


def _find_bad_value(row: Row, values: dict[str, Any]) -> str:
    for name in REQUIRED_COLUMNS:
        if not math.isfinite(values[name]):
            return f'{name} is {"missing" if row.get(name) in (None, "") else row[name]}'
    for name in NUMBER_COLUMNS:
        if math.isinf(values[name]):
            return f'{name} is {row[name]}'
    if values['tokens'] < COMPLETE_SHARE * values['planned_tokens']:
        return (
            f'unfinished: {values["tokens"]:.4g} of {values["planned_tokens"]:.4g} planned tokens'
        )
    return ''


def parse_curve(value: Any) -> Curve:
    """Return the points of a record's `curve`, by tokens; empty where there are none.

    A curve is only drawn, so a malformed one counts as missing, and a point that is not a pair of
    finite numbers above zero is ignored; neither excludes the run from a fit.
    """
    points = [point for point in value if _is_point(point)] if isinstance(value, list) else []
    return sorted((float(tokens), float(loss)) for tokens, loss in points)


def _is_point(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and 0 < number < MAX_CURVE_VALUE
        for number in value
    )
