"""Readers of local files in bounded memory: plain text, JSON, JSON Lines, CSV, TSV and Parquet."""

import csv
import json
import re
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import text_files
from gpt_jax.core.errors import UserError
from gpt_jax.core.text_files import COMPRESSIONS, TextBlock, read_blocks, read_lines

PARQUET_BATCH_ROWS = 256
PARQUET = '.parquet'
# Names of plain text, source code included; a name without a suffix is plain text too.
_TEXT_WORDS = (
    'txt text md markdown rst tex org adoc raw tokens log srt vtt bib html htm xml svg '
    'py pyi js mjs ts jsx tsx c h cc cpp cxx hpp cu java kt scala cs go rs swift rb php pl lua '
    'r jl m f90 hs ml lisp el clj ex erl lean v sh bash sql css asm s '
    'yaml yml toml ini cfg conf diff patch proto'
)
TEXT_SUFFIXES = tuple(f'.{word}' for word in _TEXT_WORDS.split())
_JSON_SPACE = re.compile(r'[ \t\n\r]*')
# A parse error this near to the end of the text read so far may be due to the missing rest.
_LONGEST_JSON_WORD = 16

LocatedRows = Iterator[tuple[str, dict[str, Any]]]  # (location for messages, columns by name)
RowReader = Callable[[Path, str, str | None], LocatedRows]  # (path, compression, the only column)


class TextChunk(NamedTuple):
    """A part of a document's text; `is_last` marks the last part."""

    text: str
    is_last: bool


class FileFormat(NamedTuple):
    """How a file is read.

    Attributes:
      suffix: a key of ROW_READERS, or a suffix of plain text, which may be ''.
      compression: a key of COMPRESSIONS.
    """

    suffix: str
    compression: str

    @property
    def is_text(self) -> bool:
        """Whether it is plain text, not rows."""
        return self.suffix not in ROW_READERS


def find_format(path: Path) -> FileFormat:
    """Return the format of a file by its name, in upper or lower case.

    The name is the one that the user gave. For a symbolic link, its own suffix counts (in the cache
    of the Hugging Face hub, the file that it links to has none); if that is not known, the suffix
    of the file that it links to.

    Raises:
      UserError: the suffix is not known.
    """
    for name in (path.name, path.resolve().name):
        file_format = _parse_name(name.lower())
        if file_format is not None:
            return file_format
    if not path.suffix:
        return FileFormat('', '')
    raise UserError(f'{path}: {describe_formats()}; plain text may be named .txt, also by a link')


def _parse_name(name: str) -> FileFormat | None:
    compression = next((end for end in COMPRESSIONS if end and name.endswith(end)), '')
    suffix = Path(name.removesuffix(compression)).suffix
    if suffix == PARQUET and compression:  # Parquet compresses its own columns
        return None
    is_known = suffix in ROW_READERS or suffix in TEXT_SUFFIXES
    return FileFormat(suffix, compression) if is_known else None


def describe_formats(with_text: bool = True) -> str:
    """Return what an error message says about the names of files."""
    text = '.txt, .md, .py and other plain text, or ' if with_text else ''
    rows = ', '.join(ROW_READERS)
    return f'name must end in {text}{rows}, also with {", ".join(filter(None, COMPRESSIONS))}'


def read_chunks(path: Path, field: str, separator: str = '') -> Iterator[TextChunk]:
    """Iterate over the documents of one file, in order.

    A large text is split into chunks before single spaces: byte-level BPE and similar tokenizers
    start a word with its space, so the tokens are the same as for the whole text.

    Args:
      path: its name selects the reader (`find_format`).
      field: column that holds the text; unused for plain text.
      separator: what separates the documents of plain text; '': the file is one document.

    Raises (while iterating):
      UserError: the file is unreadable, of an unknown format, not UTF-8 (with the byte's offset) or
        malformed (with the line or row), or has no column `field`.
    """
    file_format = find_format(path)
    if not file_format.is_text:
        for where, row in read_rows(path, field):
            if field not in row:
                raise UserError(missing_column_message(where, field, sorted(row)))
            yield TextChunk(check_text(where, field, row[field]), True)
        return
    try:
        blocks = read_blocks(path, file_format.compression)
        yield from _split_documents(blocks, separator) if separator else _split_blocks(blocks)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def _split_blocks(blocks: Iterator[TextBlock]) -> Iterator[TextChunk]:
    """Split one document into chunks that end between two words."""
    text = ''
    for block in blocks:
        text += block.text
        if not block.is_last:
            end = _find_chunk_end(text)
            yield TextChunk(text[:end], False)
            text = text[end:]
    yield TextChunk(text, True)


def _split_documents(blocks: Iterator[TextBlock], separator: str) -> Iterator[TextChunk]:
    """Split text at every separator, and long documents into chunks.

    Where a document is split depends on its own text alone, so that copies of it have the same
    first chunk and therefore are in the same split of the data.
    """
    text = ''
    for block in blocks:
        *documents, text = (text + block.text).split(separator)
        for document in documents:
            rest = yield from _split_long(document, len(document))
            yield TextChunk(rest, True)
        # The separator may begin at the end of this block.
        text = yield from _split_long(text, len(text) - len(separator) + 1)
    yield TextChunk((yield from _split_long(text, len(text))), True)


def _split_long(text: str, size: int) -> Generator[TextChunk, None, str]:
    """Yield chunks of a document while more than a chunk of its first `size` characters is left.

    Returns:
      The rest.
    """
    while size > text_files.CHUNK_BYTES:
        end = _find_chunk_end(text[: text_files.CHUNK_BYTES])
        yield TextChunk(text[:end], False)
        text, size = text[end:], size - end
    return text


def _find_chunk_end(text: str) -> int:
    """Return the index of the last space between two words, or the length if there is none."""
    end = text.rfind(' ', 0, -1)
    while end > 0 and (text[end - 1].isspace() or text[end + 1].isspace()):
        end = text.rfind(' ', 0, end)
    return end if end > 0 else len(text)


def read_rows(path: Path, column: str | None = None) -> LocatedRows:
    """Iterate over the rows of one file, in bounded memory.

    Formats: JSON Lines, JSON (a list of objects, or one object per line), CSV, TSV and Parquet. CSV
    and TSV have a header, and their values are text. CSV fields may be in double quotes (RFC 4180);
    in TSV a quote is an ordinary character.

    Args:
      path: its name selects the reader (`find_format`).
      column: the only column that is needed; other columns may be left out.

    Returns:
      (location, columns): 'PATH:LINE' or 'PATH: row NUMBER' (from 0), and the values by name.

    Raises (while iterating):
      UserError: the file is unreadable, has no rows by its name, is not UTF-8, or is malformed (the
        message names the line or row).
    """
    suffix, compression = require_rows(path)
    try:
        yield from ROW_READERS[suffix](path, compression, column)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def require_rows(path: Path) -> FileFormat:
    """Return the format of a file of rows.

    Raises:
      UserError: by its name, the file is plain text or of an unknown format.
    """
    file_format = find_format(path)
    if file_format.is_text:
        raise UserError(f'{path}: {describe_formats(with_text=False)}')
    return file_format


def _read_json_lines(path: Path, compression: str, column: str | None = None) -> LocatedRows:
    """Read an object per line; skips empty lines."""
    del column
    for number, line in enumerate(read_lines(path, compression), 1):
        if line.strip():
            where = f'{path}:{number}'
            yield where, _check_row(where, _parse_json(where, line))


def _parse_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f'{where}: not JSON ({error.msg} at column {error.colno})') from None
    except RecursionError:
        raise UserError(f'{where}: JSON is nested too deeply') from None


def _check_row(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f'{where}: must be an object with columns, got {type(row).__name__}')
    return row


def _read_json(path: Path, compression: str, column: str | None) -> LocatedRows:
    """Read a list of objects, or one object per line."""
    parser = _JsonParser(path, read_blocks(path, compression))
    if parser.peek() == '[':
        yield from _read_json_list(path, parser)
        return
    try:
        yield from _read_json_lines(path, compression, column)
    except UserError as error:
        raise UserError(f'{error}; .json is a list of objects, or an object per line') from None


def _read_json_list(path: Path, parser: '_JsonParser') -> LocatedRows:
    parser.take('[')
    number = 0
    while number or parser.peek() != ']':
        where = f'{path}: row {number}'
        yield where, _check_row(where, parser.parse_value())
        number += 1
        if parser.peek() == ']':
            break
        parser.take(',')
    parser.take(']')
    if rest := parser.peek():
        raise parser.make_error(f'unexpected {rest!r} after the list')


class _JsonParser:
    """Parser of one value after the other from blocks of text; holds one block, or one value."""

    def __init__(self, path: Path, blocks: Iterator[TextBlock]) -> None:
        self._path, self._blocks = path, blocks
        self._decoder = json.JSONDecoder()
        self._text, self._next = '', 0  # the text in memory, and the index of the next character
        self._line, self._column = 1, 1  # where the text in memory starts in the file

    def peek(self) -> str:
        """Skip white space and return the next character; '' at the end of the file."""
        while True:
            space = _JSON_SPACE.match(self._text, self._next)
            self._next = space.end() if space else self._next
            if self._next < len(self._text) or not self._grow():
                return self._text[self._next : self._next + 1]

    def take(self, character: str) -> None:
        """Read a character, and the white space before it.

        Raises:
          UserError: another character, or the end of the file.
        """
        if self.peek() != character:
            raise self.make_error(f'expected {character!r}')
        self._next += 1

    def parse_value(self) -> Any:
        """Read a value, and the white space before it.

        Raises:
          UserError: not JSON.
        """
        self.peek()
        while True:
            try:
                value, self._next = self._decoder.raw_decode(self._text, self._next)
                return value
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith('Unterminated string')
                is_cut = is_cut or error.pos + _LONGEST_JSON_WORD > len(self._text)
                offset = error.pos - self._next
                if not (is_cut and self._grow()):
                    self._next += offset
                    raise self.make_error(error.msg) from None
            except RecursionError:
                raise UserError(f'{self._path}: JSON is nested too deeply') from None

    def make_error(self, message: str) -> UserError:
        """Return an error about the next character."""
        line, column = self._locate_next()
        return UserError(f'{self._path}: not JSON ({message} at line {line}, column {column})')

    def _locate_next(self) -> tuple[int, int]:
        breaks = self._text.count('\n', 0, self._next)
        if breaks:
            return self._line + breaks, self._next - self._text.rfind('\n', 0, self._next)
        return self._line, self._column + self._next

    def _grow(self) -> bool:
        """Drop what was read, and at least double the rest; return False at the end of the file."""
        self._line, self._column = self._locate_next()
        parts = [self._text[self._next :]]
        self._next, rest, size = 0, len(parts[0]), len(parts[0])
        for block in self._blocks:
            parts.append(block.text)
            size += len(block.text)
            if size > 2 * rest:
                break
        self._text = ''.join(parts)
        return size > rest


def _read_csv(path: Path, compression: str, column: str | None) -> LocatedRows:
    del column
    return _read_table(path, csv.reader(read_lines(path, compression), strict=True))


def _read_tsv(path: Path, compression: str, column: str | None) -> LocatedRows:
    del column
    lines = read_lines(path, compression)
    return _read_table(path, csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, strict=True))


def _read_table(path: Path, reader: Any) -> LocatedRows:
    csv.field_size_limit(sys.maxsize)  # an article may exceed the module's limit of 128 KiB
    line = 1
    try:
        header: list[str] = next(reader, [])
        if not header or len(set(header)) < len(header) or '' in header:
            raise UserError(f'{path}:1: must be a header of distinct column names, got {header}')
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f'{path}:{line}: must have {len(header)} fields, like the header, got '
                    f'{len(fields)}'
                )
            if fields:
                yield f'{path}:{line}', dict(zip(header, fields, strict=True))
            # Where the next row starts: a quoted field may contain line breaks.
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f'{path}:{line}: not a row of a table ({error})') from None


def _read_parquet(path: Path, compression: str, column: str | None) -> LocatedRows:
    del compression
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


ROW_READERS: dict[str, RowReader] = {
    '.jsonl': _read_json_lines,
    '.ndjson': _read_json_lines,
    '.json': _read_json,
    '.csv': _read_csv,
    '.tsv': _read_tsv,
    PARQUET: _read_parquet,
}
