"""Errors that end a command, and the exit code of each."""

import contextlib
from collections.abc import Iterator

EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_OUT_OF_MEMORY = 4
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


class CheckFailed(RuntimeError):
    """A check ran and did not pass."""


class TrialsFailed(RuntimeError):
    """Some trials of a sweep failed; the others are done and recorded."""


class Preempted(RuntimeError):
    """A signal stopped the run; its state is saved and the same command resumes it."""


@contextlib.contextmanager
def translate_oom() -> Iterator[None]:
    """Turn Python's and XLA's out-of-memory errors into OutOfMemory, which says what to change."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
            advice = (
                'make train.microbatch_size, model.loss_chunk or the model smaller, or set '
                'model.remat'
            )
            reason = ' '.join(str(error).split())[:200]
            raise OutOfMemory(f'out of memory; {advice} ({reason})') from error
        raise
