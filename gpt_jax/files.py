"""How does a file come to be there whole or not at all? Atomic writes, checksums, the lock."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path` so that a reader, or a crash at any moment, sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    except OSError as error:
        raise _about(path, error) from None
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _about(path, error) from None
        raise


def _about(path: Path, error: OSError) -> OSError:
    """The same error, named after the file that was asked for and not after the temporary one."""
    error.filename, error.filename2 = str(path), None
    return error


def write_text(path: str | os.PathLike[str], content: str) -> None:
    write_bytes(path, content.encode('utf-8'))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused, since JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text('utf-8'))
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from None


def path(text: str, asked: str) -> Path:
    """The path that `text` names, with ~ filled in, whether or not something is there.

    Args:
      asked: what the user gave it to, for the message.

    Raises:
      UserError: nothing can be looked for there: the name is too long, say, or a folder on the way is locked.
    """
    try:
        found = Path(text).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(found / 'what lies there')
    except (OSError, ValueError, RuntimeError) as error:  # the others: a null byte, ~ of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f'{asked}={text[:80]}{"..." if len(text) > 80 else ""}: {reason}') from None
    return found


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 as 64 hex digits, read in bounded memory."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], *, wait: bool) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the length of the block.

    The kernel drops the lock when its holder dies, however it dies, so a stale lock cannot exist.

    Raises:
      UserError: another process holds it and `wait` is False; says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or 'another process'
            raise UserError(f'{path.parent}: in use by {holder}; one run per folder, choose another one') from None
        file.seek(0)
        file.truncate()
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        yield
