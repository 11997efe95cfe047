"""How does a file of JSON lines survive a crash? Each line in one write; a torn last one is seen and dropped."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError


def append(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Adds `record` as the last line, in one write and through to the disk; a torn line before it is cut off first.

    Raises:
      ValueError: the record holds NaN or an infinity, which JSON has no word for: a loss that is not there is None.
      OSError: the disk is full; the file is as it was.
    """
    line = json.dumps(record, allow_nan=False).encode() + b'\n'
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'ab+', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        tail = content[content.rfind(b'\n') + 1 :]
        if tail and _parsed(tail) is None:
            _report_torn(path, tail)
            file.truncate(len(content) - len(tail))
        elif tail:
            line = b'\n' + line
        end = file.seek(0, os.SEEK_END)
        if file.write(line) != len(line):
            file.truncate(end)
            raise OSError(f'{path}: the record could not be written whole; is the disk full?')
        os.fsync(file.fileno())


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records, in the order they were written. A torn last line, left by a crash, is dropped with a message.

    Raises:
      UserError: no file that can be read, or a line elsewhere that is not a JSON object; named as `file:line`.
    """
    try:
        lines = Path(path).read_bytes().split(b'\n')
    except FileNotFoundError:
        raise UserError(f'{path}: no such file; name another, or run what writes it first') from None
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif number == len(lines):
            _report_torn(path, line)
        else:
            raise UserError(f'{path}:{number}: not a JSON object; mend or delete this line')
    return records


def write(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Makes a file of these records; whoever reads it meanwhile sees the one before, or this one whole."""
    files.write_text(path, ''.join(json.dumps(record) + '\n' for record in records))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # the first covers UnicodeDecodeError too
        return None
    return value if isinstance(value, dict) else None


def _report_torn(path: str | os.PathLike[str], line: bytes) -> None:
    logging.getLogger(__name__).warning('%s: dropped a torn last line of %d bytes', path, len(line))
