"""Rows of a table that --where selects, by the text of a column."""

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.table_formats import Row


def find_unselected(rows: list[Row], where: str) -> dict[int, str]:
    """Find the rows whose value in a column is not one of those asked for.

    Args:
      rows: the rows.
      where: 'COLUMN=VALUE' or 'COLUMN=VALUE,VALUE'.

    Returns:
      {index of the row: the reason}.

    Raises:
      UserError: the condition is malformed, or no row fulfils it.
    """
    column, equals, values = where.partition('=')
    wanted = [value.strip() for value in values.split(',') if value.strip()]
    if not equals or not wanted:
        raise UserError(f"--where={where}: must be COLUMN=VALUE,..., such as 'split=fit'")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if column.strip() not in columns:
        raise UserError(f'--where={where}: no such column; the file has {", ".join(columns)}')
    found = [str(row.get(column.strip(), '')).strip() for row in rows]
    if not set(found) & set(wanted):
        some = ', '.join(repr(value) for value in list(dict.fromkeys(found))[:8])
        raise UserError(f'--where={where}: no row has that value; the column has {some}')
    return {
        index: f'{column.strip()} is {value or "missing"} (--where)'
        for index, value in enumerate(found)
        if value not in wanted
    }
