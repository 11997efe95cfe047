"""Which documents does one local file hold? Plain text, JSON lines, Parquet; always in bounded memory."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError

PIECE = 1 << 18  # bytes of a plain file read at once


class Piece(NamedTuple):
    """A stretch of a document's text; `last` ends the document."""

    text: str
    last: bool


def pieces(path: Path, field: str) -> Iterator[Piece]:
    """The documents of one file, in order.

    A plain file is one document. A large one comes in pieces, cut before a single space: byte-level BPE and its kin
    start a word with its space, so the tokens are those of the whole.

    Raises (while iterating):
      UserError: unreadable, not UTF-8 (with the byte's offset), broken JSON (with the line), no column `field`.
    """
    try:
        for suffix, reader in READERS.items():
            if path.name.endswith(suffix):
                yield from reader(path, field)
                return
        yield from _plain(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def _plain(path: Path) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder('utf-8')()
    rest, offset = '', 0
    with open(path, 'rb') as file:
        more = True
        while more:
            chunk = file.read(PIECE)
            more = len(chunk) == PIECE
            pending = len(decoder.getstate()[0])
            try:
                rest += decoder.decode(chunk, final=not more)
            except UnicodeDecodeError as error:
                at = offset - pending + error.start
                raise UserError(f'{path}: not UTF-8 at byte {at}; convert it or leave it out') from None
            offset += len(chunk)
            if more:
                cut = _last_cut(rest)
                yield Piece(rest[:cut], False)
                rest = rest[cut:]
    yield Piece(rest, True)


def _last_cut(text: str) -> int:
    at = text.rfind(' ', 0, -1)
    while at > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
        at = text.rfind(' ', 0, at)
    return at if at > 0 else len(text)


def _jsonl(path: Path, field: str) -> Iterator[Piece]:
    for where, record in json_lines(path):
        text = record.get(field)
        if text is None and field not in record:
            raise UserError(missing(where, field, sorted(record)))
        yield Piece(checked_text(where, field, text), True)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl or .jsonl.gz, each with its place, 'PATH:LINE'; empty lines are passed over.

    Raises (while iterating):
      UserError: a line that is not UTF-8 (with the byte's offset), not JSON or no object; a gzip file cut off.
    """
    offset = 0
    try:
        with gzip.open(path) if path.name.endswith('.gz') else open(path, 'rb') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f'{path}:{number}', _json_object(f'{path}:{number}', line, offset)
                offset += len(line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path}: not a whole gzip file ({error})') from None


def json_value(where: str, content: bytes, offset: int = 0) -> Any:
    """What the JSON says.

    Args:
      where: begins messages.
      offset: of the content in its file.

    Raises:
      UserError: it is not UTF-8 or not JSON.
    """
    try:
        return json.loads(content.decode('utf-8'))
    except UnicodeDecodeError as error:
        raise UserError(f'{where}: not UTF-8 at byte {offset + error.start} of the file') from None
    except json.JSONDecodeError as error:
        line = f'line {error.lineno}, ' if error.lineno > 1 else ''
        raise UserError(f'{where}: not JSON ({error.msg} at {line}column {error.colno})') from None
    except RecursionError:
        raise UserError(f'{where}: not JSON that can be read (it is nested too deep)') from None


def _json_object(where: str, line: bytes, offset: int) -> dict[str, Any]:
    record = json_value(where, line, offset)
    if not isinstance(record, dict):
        raise UserError(f'{where}: expected an object with its columns, got {type(record).__name__}')
    return record


def _parquet(path: Path, field: str) -> Iterator[Piece]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise UserError(missing(str(path), field, file.schema_arrow.names))
            row = 0
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield Piece(checked_text(f'{path}: row {row}', field, text), True)
                    row += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a whole Parquet file of UTF-8 text ({str(error).splitlines()[0]})') from None


def missing(where: str, field: str, columns: list[str]) -> str:
    """The message for a column that is not there."""
    return f'{where}: no column {field!r} (it has {", ".join(columns) or "none"}); set data.text_field'


def checked_text(where: str, field: str, text: Any) -> str:
    """`text` as a string; None is an empty document.

    Raises:
      UserError: it is neither str nor UTF-8 bytes, or holds half a surrogate pair, which UTF-8 has no bytes for.
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
    raise UserError(f'{where}: column {field!r} holds {type(text).__name__}, not text; set data.text_field')


READERS = {'.jsonl': _jsonl, '.jsonl.gz': _jsonl, '.parquet': _parquet}
