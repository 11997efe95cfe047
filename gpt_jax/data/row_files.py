"""Which rows does one local file hold? JSON lines, a JSON list, CSV, TSV, Parquet."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.data.text_files import json_lines, json_value
from gpt_jax.errors import UserError

Placed = Iterator[tuple[str, dict[str, Any]]]


def rows(path: Path) -> Placed:
    """The rows of one file in order, each with its place, 'PATH:LINE' or 'PATH: row NUMBER' (from 0).

    CSV and TSV have a header; their values are text. In a CSV, fields may stand in double quotes (RFC 4180); in a TSV
    a quote is a letter like any other.

    Raises (while iterating):
      UserError: unreadable, of no known suffix, not UTF-8, broken (with the line or the row).
    """
    reader = next((reader for suffix, reader in READERS.items() if path.name.endswith(suffix)), None)
    if reader is None:
        raise UserError(f'{path}: its rows cannot be told by its name; wants one that ends in {", ".join(READERS)}')
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def _json(path: Path) -> Placed:
    held = json_value(str(path), path.read_bytes())
    if not isinstance(held, list):
        raise UserError(f'{path}: expected a list of objects, got {type(held).__name__}; one object a line is .jsonl')
    for number, row in enumerate(held):
        if not isinstance(row, dict):
            raise UserError(f'{path}: row {number}: expected an object with its columns, got {type(row).__name__}')
        yield f'{path}: row {number}', row


def _csv(path: Path) -> Placed:
    yield from _table(path, csv.reader(_lines(path), strict=True))


def _tsv(path: Path) -> Placed:
    yield from _table(path, csv.reader(_lines(path), delimiter='\t', quoting=csv.QUOTE_NONE, strict=True))


def _table(path: Path, reader: Any) -> Placed:
    csv.field_size_limit(sys.maxsize)  # an article is longer than the module's 128 KiB
    line = 1
    try:
        header: list[str] = next(reader, [])
        if not header or len(set(header)) < len(header) or '' in header:
            raise UserError(f'{path}:1: wants a line with the names of the columns, each once, got {header}')
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(f'{path}:{line}: {len(fields)} fields, where the header has {len(header)}')
            if fields:
                yield f'{path}:{line}', dict(zip(header, fields, strict=True))
            line = reader.line_num + 1  # where the next row begins; a field in quotes may hold ends of line
    except csv.Error as error:
        raise UserError(f'{path}:{line}: not a row of a table ({error})') from None


def _lines(path: Path) -> Iterator[str]:
    with open(path, 'rb') as file:
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
            except UnicodeDecodeError as error:
                raise UserError(f'{path}:{number}: not UTF-8 at byte {offset + error.start} of the file') from None
            offset += len(line)


def _parquet(path: Path) -> Placed:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield f'{path}: row {number}', _plain(row)
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a whole Parquet file ({str(error).splitlines()[0]})') from None


def _plain(value: Any) -> Any:
    """Dates, decimals and what else Parquet holds as text; JSON's types as they are."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode('utf-8')
    return value if value is None or isinstance(value, str | int | float) else str(value)


READERS = {'.jsonl': json_lines, '.jsonl.gz': json_lines, '.json': _json, '.csv': _csv, '.tsv': _tsv,
           '.parquet': _parquet}  # fmt: skip
