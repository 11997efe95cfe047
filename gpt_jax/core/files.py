"""Atomic file writes, JSON and JSON Lines, checksums, and a lock file."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, TextIO

from gpt_jax.core.errors import UserError


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` atomically: readers see the old file or the new one, even after a crash."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with name_errors(path):
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp'
        )
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def name_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name this file in every OSError of the block: those of writing to an open file name none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def measure_free_bytes(folder: Path) -> int:
    """Return the free space for this user on the disk of a folder, which need not exist.

    Some network file systems do not tell their size: then it is as good as unlimited.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize if stat.f_blocks else sys.maxsize


def write_text(path: str | os.PathLike[str], content: str) -> None:
    write_bytes(path, content.encode('utf-8'))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text('utf-8'))
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from None


def expand_home(text: str, flag: str) -> str:
    """Return a path with a leading ~ or ~USER replaced by the home folder.

    Args:
      text: the path as the user wrote it.
      flag: the flag or field that holds it, for the error message.

    Raises:
      UserError: there is no such user.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith('~'):
        user = text.partition('/')[0]
        raise UserError(
            f'{flag}={text}: must start with an existing user, got {user}; write ./{user} for a '
            'folder of this name'
        )
    return expanded


def check_path(text: str, flag: str) -> Path:
    """Return the path that `text` names, with ~ expanded; it need not exist.

    Args:
      text: the path as the user wrote it.
      flag: the flag or field that holds it, for the error message.

    Raises:
      UserError: the path cannot be looked up: its name is too long, or a folder is not readable.
    """
    path = Path(expand_home(text, flag))
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path / 'any_file')
    except (OSError, ValueError) as error:
        # The words of a ValueError differ between versions of Python.
        reason = error.strerror if isinstance(error, OSError) else 'must not have a null byte'
        short = text if len(text) <= 80 else f'{text[:80]}...'
        raise UserError(f'{flag}={short}: {reason}') from None
    return path


def find_snapshot(folder: Path, flag: str) -> Path:
    """Return the snapshot in a folder of the Hugging Face hub's cache, models--ORG--NAME.

    It is the one of refs/main, or else the only one. Any other folder is returned as it is.

    Args:
      folder: a folder, which need not exist.
      flag: the flag or field that names it, for the error message.

    Raises:
      UserError: there are several snapshots, or none.
    """
    snapshots = folder / 'snapshots'
    if '--' not in folder.name or not snapshots.is_dir():
        return folder
    names = sorted(path.name for path in snapshots.iterdir())
    main = folder / 'refs' / 'main'
    revision = main.read_text('utf-8').strip() if main.is_file() else ''
    if revision not in names and len(names) != 1:
        listed = ', '.join(names) or 'none'
        raise UserError(f'{flag}={folder}: must have one snapshot, got {listed}; name one of them')
    return snapshots / (revision if revision in names else names[0])


def check_writable(folder: Path, flag: str) -> None:
    """Raise UserError unless `folder` exists or can be made, and can be written to.

    Args:
      folder: need not exist.
      flag: the flag that names it, for the error message.
    """
    check_path(str(folder), flag)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f'{flag}: {folder}: {existing} is not a writable folder')


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, 64 hex digits; reads in bounded memory."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def hold_lock(path: str | os.PathLike[str], *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on `path` during the block.

    The kernel releases the lock when its holder dies, so there are no stale locks.

    Raises:
      UserError: another process holds it and `wait` is False; names that process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or 'another process'
            raise UserError(
                f'{path.parent}: in use by {holder}; give each run its own folder'
            ) from None
        _write_holder(file)
        yield


def _write_holder(file: TextIO) -> None:
    """Write who holds a lock, for the messages of others; the lock holds on a full disk too."""
    with contextlib.suppress(OSError):
        file.seek(0)
        file.truncate()
        os.write(file.fileno(), f'process {os.getpid()} on {socket.gethostname()}'.encode())


def append_jsonl(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Append `record` as one line in one synced write, after removing a torn last line.

    Raises:
      ValueError: the record holds NaN or infinity, which JSON lacks; use None for a missing value.
      OSError: the disk is full; the file is unchanged. It names the file.
    """
    line = json.dumps(record, allow_nan=False).encode() + b'\n'
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with name_errors(path), open(path, 'ab+', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        tail = content[content.rfind(b'\n') + 1 :]
        if tail and _parse_line(tail) is None:
            _report_torn(path, tail)
            file.truncate(len(content) - len(tail))
        elif tail:
            line = b'\n' + line
        end = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, line)
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _write_all(file: RawIOBase, content: bytes) -> None:
    """Write to an unbuffered file; after a partial write, the next one tells why."""
    while content:
        content = content[file.write(content) or 0 :]


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return all records in file order; a torn last line, left by a crash, is dropped and logged.

    Raises:
      UserError: the file cannot be read, or any other line is not a JSON object (`file:line`).
    """
    try:
        lines = Path(path).read_bytes().split(b'\n')
    except FileNotFoundError:
        raise UserError(
            f'{path}: no such file; name another, or run the command that writes it'
        ) from None
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or error}') from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parse_line(line)
        if record is not None:
            records.append(record)
        elif number == len(lines):
            _report_torn(path, line)
        else:
            raise UserError(f'{path}:{number}: not a JSON object; fix or delete this line')
    return records


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file with one line per record, atomically."""
    write_text(path, ''.join(json.dumps(record) + '\n' for record in records))


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # ValueError covers UnicodeDecodeError
        return None
    return value if isinstance(value, dict) else None


def _report_torn(path: str | os.PathLike[str], line: bytes) -> None:
    logging.getLogger(__name__).warning('%s: dropped a torn last line of %d bytes', path, len(line))
