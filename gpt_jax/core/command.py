"""Wrapper of every command: errors become one line on standard error and an exit code."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from gpt_jax.core import errors, watchdog

EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader of the output, for example `head`, has closed it
EXIT_CODES: dict[type[BaseException], int] = {
    errors.UserError: errors.EXIT_BAD_INPUT,
    errors.Diverged: errors.EXIT_FAILED,
    errors.TrialsFailed: errors.EXIT_FAILED,
    errors.CheckFailed: errors.EXIT_FAILED,
    errors.OutOfMemory: errors.EXIT_OUT_OF_MEMORY,
    errors.Preempted: errors.EXIT_RESUMABLE,
    KeyboardInterrupt: errors.EXIT_RESUMABLE,
}


def log(line: str) -> None:
    """Print a line for the user to standard error; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def run_command(program: str, action: Callable[[], None]) -> None:
    """Run `action`; a known error prints one line and exits with the error's code.

    Args:
      program: prefix of the line, for example 'run.py' or 'gpt-jax fit'.
      action: the command.
    """
    try:
        with errors.translate_oom(), watchdog.translate_lost_peer():
            action()
        print(end='', flush=True)  # so that a full disk or a closed pipe is reported here
    except tuple(EXIT_CODES) as error:
        message = ' '.join(str(error).split()) or 'interrupted'
        log(f'{program}: {message}')
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        if isinstance(error, KeyboardInterrupt):
            # XLA's threads may still be computing, and a normal shutdown can then crash.
            sys.stdout.flush()
            os._exit(code)
        sys.exit(code)
    except BrokenPipeError:
        _discard_output()
        sys.exit(EXIT_PIPE_CLOSED)
    except OSError as error:
        _exit_with_io_error(program, error)


def _exit_with_io_error(program: str, error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        reason = 'is a file, not a folder'
    if not error.filename:
        _discard_output()
    log(f'{program}: {error.filename or "output"}: {reason}')
    sys.exit(errors.EXIT_BAD_INPUT)


def _discard_output() -> None:
    """Discard the buffered standard output: flushing it at exit would raise again."""
    with open(os.devnull, 'w') as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
