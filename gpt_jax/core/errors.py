"""Errors that end a command, and the exit code of each."""

import contextlib
import errno
import re
from collections.abc import Iterator

EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_OUT_OF_MEMORY = 4
EXIT_DISK_FULL = 5
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class UserError(ValueError):
    """Bad input. The message is one line that names the field or file and says what to do.

    Characters that a terminal cannot show, such as a newline in a file name, are escaped.
    """

    def __init__(self, message: str):
        super().__init__(''.join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class Diverged(RuntimeError):
    """Too many non-finite steps in a row, and no good checkpoint to return to."""


class OutOfMemory(RuntimeError):
    """The device or the host has too little memory for this run."""


class DiskFull(RuntimeError):
    """A file system has too little free space. The message names the file or folder."""


class CheckFailed(RuntimeError):
    """A check ran and did not pass."""


class TrialsFailed(RuntimeError):
    """Some trials of a sweep failed; the others are done and recorded."""


class Preempted(RuntimeError):
    """A signal stopped the run; its state is saved and the same command resumes it."""


class Interrupted(BaseException):
    """SIGTERM asked a command to end at once; what KeyboardInterrupt is for SIGINT."""


FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# How libraries that do not raise OSError report the same: TensorStore, which Orbax writes with.
_FULL_DISK_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|os_error_code='(?:28|122)'", re.IGNORECASE
)
XLA_ERRORS = ('JaxRuntimeError', 'XlaRuntimeError')  # names of the classes that XLA's errors have
_ABSOLUTE_PATH = re.compile(r'[\'"](/[^\'"]+)[\'"]')


@contextlib.contextmanager
def translate_exhaustion() -> Iterator[None]:
    """Turn errors about a full disk into DiskFull, and those about memory into OutOfMemory.

    The disk comes first: TensorStore's word for both is RESOURCE_EXHAUSTED.
    """
    try:
        yield
    except (DiskFull, OutOfMemory):
        raise
    except Exception as error:
        path = find_full_disk(error)
        if path is not None:
            is_described = isinstance(error, UserError)  # it names the flag or field too
            raise (DiskFull(str(error)) if is_described else make_disk_full(path)) from error
        if _is_out_of_memory(error):
            advice = (
                'make train.microbatch_size, model.loss_chunk or the model smaller, or set '
                'model.remat'
            )
            reason = ' '.join(str(error).split())[:200]
            raise OutOfMemory(f'out of memory; {advice} ({reason})') from error
        raise


def make_disk_full(path: str) -> DiskFull:
    """Make the error about a write to `path` for which there was no space."""
    return DiskFull(f'{path}: no space left on this disk; free space, then run the same command')


def find_full_disk(error: BaseException | None) -> str | None:
    """Return the path that could not be written if a full disk caused the error; else None.

    It follows the chain of causes and exception groups. A path that no error names is 'output'.
    """
    paths = [path for cause in _list_causes(error) if (path := _read_full_disk(cause)) is not None]
    return next((path for path in paths if path), 'output') if paths else None


def _read_full_disk(error: BaseException) -> str | None:
    """Return the path if this error, by itself, says that the disk is full; '' if it has none."""
    if isinstance(error, OSError):
        is_full = error.errno in FULL_DISK_ERRNOS
        return str(error.filename or '') if is_full else None
    if not _FULL_DISK_TEXT.search(str(error)):
        return None
    path = _ABSOLUTE_PATH.search(str(error))
    return path[1] if path else ''


def _list_causes(error: BaseException | None) -> list[BaseException]:
    """List an error, and the errors that it was raised from or groups."""
    causes: list[BaseException] = []
    pending = [error]
    while pending:
        cause = pending.pop(0)
        if cause is not None and cause not in causes:
            causes.append(cause)
            pending += [cause.__cause__, cause.__context__]
            pending += cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()
    return causes


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether Python or XLA found too little memory, of the host or the device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    is_xla = any(kind.__name__ in XLA_ERRORS for kind in type(error).__mro__)
    return 'RESOURCE_EXHAUSTED' in text and (is_xla or 'out of memory' in text.lower())
