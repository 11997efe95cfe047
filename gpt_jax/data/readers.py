"""Readers of local files in bounded memory: plain text, JSON Lines and Parquet."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError

CHUNK_BYTES = 1 << 18  # read at a time from a plain text file
PARQUET_BATCH_ROWS = 256

LocatedRows = Iterator[tuple[str, dict[str, Any]]]  # (location for messages, columns by name)


class TextChunk(NamedTuple):
    """A part of a document's text; `is_last` marks the last part."""

    text: str
    is_last: bool


def read_chunks(path: Path, field: str) -> Iterator[TextChunk]:
    """Iterate over the documents of one file, in order.

    A plain text file is one document. A large one is split into chunks before single spaces:
    byte-level BPE and similar tokenizers start a word with its space, so the tokens are the same as
    for the whole text.

    Args:
      path: the suffix selects the reader (READERS); any other file is plain text.
      field: column that holds the text.

    Raises (while iterating):
      UserError: the file is unreadable, not UTF-8 (with the byte's offset) or not JSON (with the
        line), or has no column `field`.
    """
    try:
        for suffix, reader in READERS.items():
            if path.name.endswith(suffix):
                yield from reader(path, field)
                return
        yield from _read_plain_text(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def _read_plain_text(path: Path) -> Iterator[TextChunk]:
    decoder = codecs.getincrementaldecoder('utf-8')()
    text, offset = '', 0
    with open(path, 'rb') as file:
        has_more = True
        while has_more:
            content = file.read(CHUNK_BYTES)
            has_more = len(content) == CHUNK_BYTES
            pending = len(decoder.getstate()[0])
            try:
                text += decoder.decode(content, final=not has_more)
            except UnicodeDecodeError as error:
                invalid = offset - pending + error.start
                raise UserError(
                    f'{path}: not UTF-8 at byte {invalid}; convert it or leave it out'
                ) from None
            offset += len(content)
            if has_more:
                end = _find_chunk_end(text)
                yield TextChunk(text[:end], False)
                text = text[end:]
    yield TextChunk(text, True)


def _find_chunk_end(text: str) -> int:
    """Return the index of the last space between two words, or the length if there is none."""
    end = text.rfind(' ', 0, -1)
    while end > 0 and (text[end - 1].isspace() or text[end + 1].isspace()):
        end = text.rfind(' ', 0, end)
    return end if end > 0 else len(text)


def _read_jsonl(path: Path, field: str) -> Iterator[TextChunk]:
    for where, record in read_json_lines(path):
        if field not in record:
            raise UserError(missing_column_message(where, field, sorted(record)))
        yield TextChunk(check_text(where, field, record[field]), True)


def read_json_lines(path: Path) -> LocatedRows:
    """Iterate over the objects of a .jsonl or .jsonl.gz file, located as 'PATH:LINE'.

    Skips empty lines.

    Raises (while iterating):
      UserError: a line that is not UTF-8 (with the byte's offset), not JSON or not an object; a
        truncated gzip file.
    """
    offset = 0
    try:
        with gzip.open(path) if path.name.endswith('.gz') else open(path, 'rb') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f'{path}:{number}'
                    record = parse_json(where, line, offset)
                    if not isinstance(record, dict):
                        raise UserError(
                            f'{where}: must be an object with columns, got {type(record).__name__}'
                        )
                    yield where, record
                offset += len(line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path}: not a complete gzip file ({error})') from None


def parse_json(where: str, content: bytes, offset: int = 0) -> Any:
    """Parse JSON.

    Args:
      where: prefix of error messages.
      content: UTF-8.
      offset: byte offset of the content in its file, for error messages.

    Raises:
      UserError: not UTF-8 or not JSON.
    """
    try:
        return json.loads(content.decode('utf-8'))
    except UnicodeDecodeError as error:
        raise UserError(f'{where}: not UTF-8 at byte {offset + error.start} of the file') from None
    except json.JSONDecodeError as error:
        line = f'line {error.lineno}, ' if error.lineno > 1 else ''
        raise UserError(f'{where}: not JSON ({error.msg} at {line}column {error.colno})') from None
    except RecursionError:
        raise UserError(f'{where}: JSON is nested too deeply') from None


def _read_parquet(path: Path, field: str) -> Iterator[TextChunk]:
    for where, row in read_parquet_rows(path, field):
        yield TextChunk(check_text(where, field, row[field]), True)


def read_parquet_rows(path: Path, column: str | None = None) -> LocatedRows:
    """Iterate over the rows of a Parquet file, located as 'PATH: row NUMBER' (from 0).

    Args:
      path: the file.
      column: the only column to read; None for all.

    Raises (while iterating):
      UserError: a damaged file, or no such column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column is not None and column not in names:
                raise UserError(missing_column_message(str(path), column, names))
            columns = None if column is None else [column]
            number = 0
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield f'{path}: row {number}', row
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f'{path}: not a complete Parquet file ({message})') from None


def missing_column_message(where: str, field: str, columns: list[str]) -> str:
    """Return the error message for a missing text column."""
    names = ', '.join(columns) or 'none'
    return f'{where}: no column {field!r} (it has {names}); set data.text_field'


def check_text(where: str, field: str, text: Any) -> str:
    """Return the value of a text column as a string; None is an empty document.

    Raises:
      UserError: the value is neither str nor UTF-8 bytes, or it has a lone surrogate, which UTF-8
        cannot encode.
    """
    try:
        if text is None:
            return ''
        if isinstance(text, bytes):
            return text.decode('utf-8')
        if isinstance(text, str):
            if not text.isascii():
                text.encode('utf-8')
            return text
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise UserError(f'{where}: the text of {field!r} is not UTF-8 ({error.reason})') from None
    raise UserError(
        f'{where}: column {field!r} must hold text, got {type(text).__name__}; set data.text_field'
    )


READERS = {'.jsonl': _read_jsonl, '.jsonl.gz': _read_jsonl, '.parquet': _read_parquet}
