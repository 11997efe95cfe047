"""Formats of run tables: CSV and its variants, JSON in its usual shapes, JSON Lines, Parquet.

A table is at most some 100,000 runs, so it is read whole. Compression, Parquet and byte order marks
are known by how the content begins; CSV and JSON by the name, or else by the first character.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_jax.core import text_files
from gpt_jax.core.errors import UserError

Row = dict[str, Any]

PARQUET_START = b'PAR1'
ZIP_START = b'PK\x03\x04'  # Excel workbooks are zip archives
CSV_SUFFIXES = ('.csv', '.tsv')
LINE_SUFFIXES = ('.jsonl', '.ndjson')
COMPRESSED_SUFFIXES = tuple(filter(None, text_files.COMPRESSIONS))
DELIMITERS = {',': 'commas', ';': 'semicolons', '\t': 'tabs'}
# Keys of a JSON object whose value is the list of runs.
LIST_KEYS = ('runs', 'rows', 'records', 'data', 'results', 'trials', 'experiments')
# Names that pandas gives to the index of a table, which says nothing about a run.
INDEX_NAME = re.compile(r'|Unnamed: \d+|__index_level_\d+__')
NUMBER_START = re.compile(r'\s*"?[+-]?\.?\d')
MIN_NUMBER_SHARE = 0.1  # of the lines; text of sentences has fewer
POINT_NUMBER = re.compile(r'[+-]?\d+\.\d+([eE][+-]?\d+)?')
COMMA_NUMBER = re.compile(r'[+-]?\d+,\d+([eE][+-]?\d+)?')
GROUPED_NUMBER = re.compile(r'[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?')


def parse_table(path: str, content: bytes) -> list[Row]:
    """Parse the rows of a file, by the file's own column names.

    Args:
      path: the file's name, for its suffix and for messages.
      content: all of the file.

    Raises:
      UserError: the content is of no known format, or damaged; names the line or row.
    """
    content = text_files.decompress(Path(path), content)
    if content.startswith(PARQUET_START):
        table = _parse_parquet(path, content)
    elif content.startswith(ZIP_START):
        raise UserError(f'{path}: an Excel workbook or another zip archive; save it as CSV')
    else:
        text = text_files.decode(Path(path), content)
        name = path.lower()
        for suffix in COMPRESSED_SUFFIXES:
            name = name.removesuffix(suffix)
        is_json = text.lstrip().startswith(('{', '[')) or name.endswith(('.json', *LINE_SUFFIXES))
        if is_json and not name.endswith(CSV_SUFFIXES):
            table = _parse_json(path, text, is_lines=name.endswith(LINE_SUFFIXES))
        else:
            table = _parse_csv(path, text)
    if not any(map(INDEX_NAME.fullmatch, list_names(table))):
        return table
    return [
        {name: value for name, value in row.items() if not INDEX_NAME.fullmatch(name)}
        for row in table
    ]


def list_names(rows: Iterable[Row]) -> list[str]:
    """Return the names of the columns, in their order."""
    orders = dict.fromkeys(map(tuple, rows))  # a few, since most rows have the same columns
    return list(dict.fromkeys(name for order in orders for name in order))


def _parse_parquet(path: str, content: bytes) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except pyarrow.ArrowException as error:
        message = str(error).splitlines()[0]
        raise UserError(f'{path}: not a complete Parquet file ({message})') from None


def _parse_json(path: str, text: str, *, is_lines: bool) -> list[Row]:
    try:
        rows = _list_rows(json.loads(text))
    except (ValueError, RecursionError) as error:
        if not is_lines and getattr(error, 'msg', '') != 'Extra data':  # of a second line
            line = getattr(error, 'lineno', 1)
            raise UserError(f'{path}:{line}: not JSON ({error}); correct or delete it') from None
        rows = _parse_json_lines(path, text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(
                f'{path}: row {number}: must be a JSON object with a key per column, got '
                f'{type(row).__name__}'
            )
    return [flatten_row(row) for row in rows]


def _parse_json_lines(path: str, text: str) -> list[Any]:
    rows: list[Any] = []
    # Not str.splitlines: a JSON string may contain U+2028 and other line separators unescaped.
    for number, line in enumerate(text.split('\n'), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f'{path}:{number}: not JSON ({error}); correct or delete it'
                ) from None
            rows += value if isinstance(value, list) else [value]
    return rows


def _list_rows(value: Any) -> list[Any]:
    """Return the rows of a list, of an object that holds one, or of an object of columns."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    if set(value) >= {'columns', 'data'} and isinstance(value['data'], list):  # pandas, 'split'
        return [dict(zip(value['columns'], cells, strict=True)) for cells in value['data']]
    for key in LIST_KEYS:
        if isinstance(value.get(key), list) and isinstance(next(iter(value[key]), None), dict):
            return value[key]
    parts = list(value.values())
    if all(isinstance(part, list) for part in parts) and len(set(map(len, parts))) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
    if parts and all(isinstance(part, dict) for part in parts):
        if all(key.isdecimal() for part in parts for key in part):  # pandas: columns of index
            keys = dict.fromkeys(key for part in parts for key in part)
            return [{name: part.get(key) for name, part in value.items()} for key in keys]
        return [{'name': name} | part for name, part in value.items()]
    return [value]


def flatten_row(row: Row, prefix: str = '') -> Row:
    """Return the row with the values of inner objects too, as `summary.loss`."""
    flat: Row = {}
    for key, value in row.items():
        name = f'{prefix}{str(key).strip()}'
        flat |= flatten_row(value, f'{name}.') if isinstance(value, dict) else {name: value}
    return flat


def _parse_csv(path: str, text: str) -> list[Row]:
    text = text.lstrip('\r\n')
    declared = re.match(r'sep=(.)\r?\n', text)  # Excel's own first line
    text = text[declared.end() :] if declared else text
    delimiter = declared[1] if declared else _find_delimiter(text)
    # A cell may contain a whole log; the file is in memory anyway.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f'{path}:{reader.line_num}: not a row of a table ({error})') from None
    while header and not header[-1]:
        header.pop()
    for name, times in Counter(header).items():
        if name and times > 1:
            raise UserError(
                f'{path}: {times} columns are named {name!r}; rename or delete all but one'
            )
    width = len(header)
    _check_numbers(path, [cells for _, cells in lines])
    for _, cells in lines:
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
    if delimiter != ',' or '"' in text:
        _read_commas([cells for _, cells in lines], delimiter)
    index = _find_row_index(width, [cells for _, cells in lines])
    if index:
        header = [index, *header]
    _check_widths(path, header, lines, delimiter)
    return [dict(zip(header, cells, strict=True)) for _, cells in lines]


def _find_delimiter(text: str) -> str:
    """Return the delimiter that is the most frequent in the header, outside quotes."""
    header = re.sub('"[^"]*"', '', text.partition('\n')[0])
    return max(DELIMITERS, key=header.count)


def _find_row_index(width: int, lines: list[list[str]]) -> str:
    """Return a name for R's column of row names, which has none in the header; '' without one.

    Such rows are all one cell longer than the header. A decimal comma has the same effect, but then
    no number of the file has a decimal point.
    """
    if not lines or any(len(cells) != width + 1 for cells in lines):
        return ''
    if not any(POINT_NUMBER.fullmatch(cell.strip()) for cells in lines for cell in cells[1:]):
        return ''
    first = [cells[0].strip() for cells in lines]
    if len(set(first)) == len(first) and not any(map(_is_number, first)):
        return 'name'
    counts = ([str(start + i) for i in range(len(first))] for start in (0, 1))
    return 'Unnamed: 0' if first in counts else ''


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_numbers(path: str, lines: list[list[str]]) -> None:
    """Raise UserError if the file is text: nearly no line has a number for a cell."""
    count = sum(any(NUMBER_START.match(cell) for cell in cells) for cells in lines)
    if lines and count < MIN_NUMBER_SHARE * len(lines):
        raise UserError(
            f'{path}: not a table of runs: {count} of {len(lines)} lines have a cell with a '
            'number; give a CSV with a header and a row per run, or JSON'
        )


def _check_widths(
    path: str, header: list[str], lines: list[tuple[int, list[str]]], delimiter: str
) -> None:
    for number, (line, cells) in enumerate(lines, 1):
        if len(cells) == len(header):
            continue
        problem = (
            f'{path}: row {number} (line {line}) has {len(cells)} cells, and the header has '
            f'{len(header)} columns'
        )
        if len(cells) > len(header) and delimiter == ',':
            raise UserError(
                f'{problem}: if the numbers have a decimal comma, write 5.7 for 5,7 or separate '
                'the columns by semicolons; if the first column has row numbers, give it a name'
            )
        words = DELIMITERS.get(delimiter, repr(delimiter))
        raise UserError(
            f'{problem}, separated by {words}: give every row one cell per column, empty where '
            'there is no value'
        )


def _read_commas(lines: list[list[str]], delimiter: str) -> None:
    """Write the numbers with a decimal comma, or commas between thousands, without them, in place.

    A decimal comma is read only where commas do not separate columns. A comma that may be either,
    as in 3,412 where no other number decides, stays and is then not a number.
    """
    cells = [cell.strip() for line in lines for cell in line]
    with_comma = [cell for cell in cells if COMMA_NUMBER.fullmatch(cell)]
    has_points = any(POINT_NUMBER.fullmatch(cell) for cell in cells)
    is_decimal = not has_points and any(not GROUPED_NUMBER.fullmatch(cell) for cell in with_comma)
    for line in lines:
        for i, cell in enumerate(map(str.strip, line)):
            if ',' not in cell:
                continue
            if is_decimal and delimiter != ',' and COMMA_NUMBER.fullmatch(cell):
                line[i] = cell.replace(',', '.')
            elif GROUPED_NUMBER.fullmatch(cell) and (has_points or cell.count(',') > 1):
                line[i] = cell.replace(',', '')
