"""Which errors are the user's to mend, and with which code does the program leave?"""

import contextlib
from collections.abc import Iterator

EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_OUT_OF_MEMORY = 4
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class UserError(ValueError):
    """Bad input. The message is one line: the field or file, and what to do. No traceback is shown.

    What a terminal would not show as it stands, such as an end of line in the name of a file, is written as repr does.
    """

    def __init__(self, message: str):
        super().__init__(''.join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class Diverged(RuntimeError):
    """Training met too many non-finite steps in a row and has no good checkpoint left to return to."""


class OutOfMemory(RuntimeError):
    """The device, or the machine, has too little memory for this run."""


class CheckFailed(RuntimeError):
    """A check that was asked for ran, and its answer is no."""


class TrialsFailed(RuntimeError):
    """Some trials of a sweep failed; the others are done and recorded."""


class Preempted(RuntimeError):
    """A signal asked the run to stop; its state is saved and the same command goes on from there."""


@contextlib.contextmanager
def memory_named() -> Iterator[None]:
    """Turns what Python or XLA raises where memory runs out into OutOfMemory, which says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
            advice = 'make train.microbatch, model.loss_chunk or the model smaller, or set model.remat'
            raise OutOfMemory(f'out of memory; {advice} ({" ".join(str(error).split())[:200]})') from error
        raise
