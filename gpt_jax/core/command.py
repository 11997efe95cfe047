"""Wrapper of every command: errors become one line on standard error and an exit code."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

from gpt_jax.core import errors, interruption, watchdog

EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader of the output, for example `head`, has closed it
EXIT_CODES: dict[type[Exception], int] = {
    errors.UserError: errors.EXIT_BAD_INPUT,
    errors.Diverged: errors.EXIT_FAILED,
    errors.TrialsFailed: errors.EXIT_FAILED,
    errors.CheckFailed: errors.EXIT_FAILED,
    errors.OutOfMemory: errors.EXIT_OUT_OF_MEMORY,
    errors.DiskFull: errors.EXIT_DISK_FULL,
    errors.Preempted: errors.EXIT_RESUMABLE,
}


def log(line: str) -> None:
    """Print a line for the user to standard error; standard output is for results."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # the log file of a sweep's trial may be on the disk that is full
        _discard(sys.stderr)


def run_command(program: str, action: Callable[[], None]) -> None:
    """Run `action`; a known error prints one line and exits with the error's code.

    Args:
      program: prefix of the line, for example 'run.py' or 'gpt-jax fit'.
      action: the command.
    """
    try:
        _run(program, action)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            interruption.set_exit_code(end.code or 0)
        raise
    interruption.set_exit_code(0)


def _run(program: str, action: Callable[[], None]) -> None:
    try:
        with (
            interruption.raising(program),
            errors.translate_exhaustion(),
            watchdog.translate_lost_peer(),
        ):
            action()
            print(end='', flush=True)  # so that a full disk or a closed pipe is reported here
    except BaseException as error:
        if interruption.was_raised(error):
            # XLA's threads may still be computing, and a normal shutdown can then crash.
            interruption.end_interrupted()
        _exit_with_error(program, error)
        raise


def _exit_with_error(program: str, error: BaseException) -> None:
    """Report a known error and exit; return if it is not known."""
    if isinstance(error, tuple(EXIT_CODES)):
        message = ' '.join(str(error).split()) or 'interrupted'
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        if code == errors.EXIT_DISK_FULL:
            _discard(sys.stdout)
        log(f'{program}: {message}')
        sys.exit(code)
    if isinstance(error, BrokenPipeError):
        _discard(sys.stdout)
        sys.exit(EXIT_PIPE_CLOSED)
    if isinstance(error, OSError):
        _exit_with_io_error(program, error)


def _exit_with_io_error(program: str, error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        reason = 'is a file, not a folder'
    if not error.filename:
        _discard(sys.stdout)
    log(f'{program}: {error.filename or "output"}: {reason}')
    sys.exit(errors.EXIT_BAD_INPUT)


def _discard(stream: TextIO) -> None:
    """Discard what a standard stream has buffered: flushing it at exit would raise again."""
    with open(os.devnull, 'w') as devnull, contextlib.suppress(OSError, ValueError):
        os.dup2(devnull.fileno(), stream.fileno())
