"""Text of local files in bounded memory: decompression, byte order marks, UTF-8, UTF-16, UTF-32."""

import bz2
import codecs
import contextlib
import functools
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from gpt_jax.core.errors import UserError

CHUNK_BYTES = 1 << 18  # of decompressed text, read at a time
# Byte order marks and encodings; those of UTF-32 first, since UTF-16's is the start of one.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, 'utf-8'),
    (codecs.BOM_UTF32_LE, 'utf-32-le'),
    (codecs.BOM_UTF32_BE, 'utf-32-be'),
    (codecs.BOM_UTF16_LE, 'utf-16-le'),
    (codecs.BOM_UTF16_BE, 'utf-16-be'),
)
MARK_BYTES = 4  # length of the longest mark
COMPRESSED_STARTS = {  # how a compressed file begins -> a key of COMPRESSIONS
    b'\x1f\x8b': '.gz',
    b'BZh': '.bz2',
    b'\xfd7zXZ\0': '.xz',
    b'\x28\xb5\x2f\xfd': '.zst',
}


class TextBlock(NamedTuple):
    """A part of a file's text; `is_last` marks the last part, which may be empty."""

    text: str
    is_last: bool


class Compression(NamedTuple):
    """A compressed format: its name for messages, and how a path or an open file is read."""

    name: str
    open: Callable[[Any], Any]


def _open_zstandard(source: Path | BinaryIO) -> io.BufferedReader:
    import pyarrow

    # pyarrow is needed for Parquet anyway; Python's own module requires version 3.14.
    if not pyarrow.Codec.is_available('zstd'):
        raise UserError('this pyarrow has no Zstandard; decompress the file, or install pyarrow')
    given = str(source) if isinstance(source, Path) else source
    return io.BufferedReader(pyarrow.input_stream(given, compression='zstd'))


COMPRESSIONS = {
    '': Compression('', functools.partial(open, mode='rb')),
    '.gz': Compression('gzip', gzip.open),
    '.bz2': Compression('bzip2', bz2.open),
    '.xz': Compression('xz', lzma.open),
    '.zst': Compression('Zstandard', _open_zstandard),
}


def read_blocks(path: Path, compression: str) -> Iterator[TextBlock]:
    """Iterate over the text of a file in blocks of CHUNK_BYTES, without a byte order mark.

    Args:
      path: the file.
      compression: a key of COMPRESSIONS.

    Raises (while iterating):
      UserError: the text is not in its encoding (with the byte's offset), or the compressed file is
        damaged.
      OSError: the file is unreadable.
    """
    with _open_file(path, compression) as file:
        content = file.read(CHUNK_BYTES)
        encoding, offset = _detect_encoding(path, content)
        decoder = codecs.getincrementaldecoder(encoding)()
        has_more = len(content) == CHUNK_BYTES
        content = content[offset:]
        while True:
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(content, final=not has_more)
            except UnicodeDecodeError as error:
                raise UserError(
                    f'{path}: not {_display(encoding)} at byte {offset - pending + error.start}; '
                    'convert it or leave it out'
                ) from None
            yield TextBlock(text, not has_more)
            if not has_more:
                return
            offset += len(content)
            content = file.read(CHUNK_BYTES)
            has_more = len(content) == CHUNK_BYTES


def read_lines(path: Path, compression: str) -> Iterator[str]:
    """Iterate over the lines of a file, with their line breaks and without a byte order mark.

    Only '\\n' ends a line.

    Raises (while iterating):
      UserError, OSError: as `read_blocks`; names the line too.
    """
    with _open_file(path, compression) as file:
        start = file.peek(MARK_BYTES)  # type: ignore[attr-defined]
        encoding, offset = _detect_encoding(path, start)
        file.read(offset)
        if encoding == 'utf-8':
            yield from _decode_lines(path, file, offset)
            return
        try:
            with io.TextIOWrapper(file, encoding, newline='\n') as text_file:
                yield from text_file
        except UnicodeDecodeError:
            raise UserError(f'{path}: not {_display(encoding)}; convert it to UTF-8') from None


def _decode_lines(path: Path, file: BinaryIO, offset: int) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode('utf-8')
        except UnicodeDecodeError as error:
            raise UserError(
                f'{path}:{number}: not UTF-8 at byte {offset + error.start} of the file'
            ) from None
        offset += len(line)


def decompress(path: Path, content: bytes) -> bytes:
    """Return the bytes of a file, decompressed if they are compressed, whatever the file's name.

    Args:
      path: for messages.
      content: all of the file.

    Raises:
      UserError: the compressed file is damaged.
    """
    starts = COMPRESSED_STARTS.items()
    compression = next((name for start, name in starts if content.startswith(start)), '')
    if not compression:
        return content
    with _open_file(path, compression, io.BytesIO(content)) as file:
        return file.read()


def decode(path: Path, content: bytes) -> str:
    """Return the text of a whole file, without its byte order mark.

    Args:
      path: for messages.
      content: all of the file, decompressed.

    Raises:
      UserError: the text is not in its encoding (with the byte's offset).
    """
    encoding, offset = _detect_encoding(path, content[:MARK_BYTES])
    try:
        return content[offset:].decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f'{path}: not {_display(encoding)} at byte {offset + error.start}; convert it to UTF-8'
        ) from None


@contextlib.contextmanager
def _open_file(path: Path, compression: str, source: BinaryIO | None = None) -> Iterator[BinaryIO]:
    name, opener = COMPRESSIONS[compression]
    try:
        with opener(path if source is None else source) as file:
            yield file
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        # Only an error of the file system has a number.
        if isinstance(error, OSError) and (error.errno is not None or not compression):
            raise
        raise UserError(f'{path}: not a complete {name} file ({error})') from None


def _detect_encoding(path: Path, start: bytes) -> tuple[str, int]:
    """Return the encoding of a text that starts with `start`, and the length of its mark.

    Raises:
      UserError: the text is in UTF-16 without a mark.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    zeros = [byte == 0 for byte in start[:4]]
    if zeros in ([False, True, False, True], [True, False, True, False]):
        raise UserError(f'{path}: looks like UTF-16 without a byte order mark; convert it to UTF-8')
    return 'utf-8', 0


def _display(encoding: str) -> str:
    return encoding.upper().removesuffix('-LE').removesuffix('-BE')
