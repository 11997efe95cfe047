"""What becomes of a process whose fellows are gone? It says so in one line, shows its stacks, and leaves with 75.

Among processes three things end a run for all: one dies (collectives fail, or JAX's heartbeat finds out), one is frozen
(the heartbeat finds out), or all live and wait for each other (nothing finds out, unless someone looks at the clock).
JAX aborts in the first two, which looks like a crash; here it becomes exit code 75. The third is what the thread is
for.
"""

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from gpt_jax.errors import EXIT_RESUMABLE

BEGINNING = 10.0  # times the allowance until the second beat: compiling and restoring take longer than a step
# How JAX's errors speak of processes that are gone, over Gloo, NCCL and its own service.
LOST = ('gloo', 'nccl', 'coordination service', 'heartbeat', 'connection reset', 'connection closed', 'unavailable:',
        'deadline_exceeded', 'socket closed', 'peer')  # fmt: skip

_kept: list[Any] = []  # what a signal handler points to must not be collected


class Watchdog:
    """A thread that ends the process when nothing has moved for `seconds`; a context manager; 0 is never.

    Stacks of all threads go to standard error first. If even Python is stuck, a timer of C does the same, and the exit
    code is then 1.
    """

    def __init__(self, seconds: float, who: str):
        self._seconds, self._who = seconds, who
        self._last, self._allowed, self._beats = time.monotonic(), BEGINNING * seconds, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)

    def beat(self) -> None:
        """Something moved; cheap enough for every step."""
        self._beats += 1
        # The first may come from a process that was quick to compile, and now waits for the others.
        self._last, self._allowed = time.monotonic(), self._seconds * (BEGINNING if self._beats < 2 else 1.0)

    def __enter__(self) -> Self:
        if self._seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._seconds > 0:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            left = self._last + self._allowed - time.monotonic()
            if left < 0:
                give_up(f'{self._who}: nothing has moved for {self._allowed:g} s; the stacks above say where it waits')
            faulthandler.dump_traceback_later(max(left, 1.0) + 2 * self._seconds, exit=True)


def give_up(line: str) -> None:
    """Stacks, the line, and out, with the code that says: run it again. Nothing is waited for on the way."""
    faulthandler.dump_traceback(all_threads=True)
    leave(line)


def leave(line: str) -> None:
    """The line, and out: Python's own way would wait for fellows that are gone."""
    os.write(2, f'run.py: {line}; run it again to go on from the last checkpoint\n'.encode())
    os._exit(EXIT_RESUMABLE)


def catch_abort(who: str) -> None:
    """From here on an abort of this process, which is how JAX ends when its fellows are gone, leaves with 75."""

    def ended(_: int) -> None:
        leave(f'{who}: lost the others, and XLA gave up (its own message is above)')

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    _kept.append(handler)
    # Python's own handlers run between two instructions of the main thread, which waits inside of XLA: this is C's.
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    faulthandler.enable(sys.stderr)  # prints the stacks, and then calls the handler that was there before


@contextlib.contextmanager
def fellows_named() -> Iterator[None]:
    """Leaves with 75 where JAX raises that another process is gone."""
    try:
        yield
    except Exception as error:
        if _lost_fellows(error):
            leave(f'lost another process ({" ".join(str(error).split())[:200]})')
        raise


def _lost_fellows(error: BaseException) -> bool:
    """Whether the error is what JAX raises where another process is gone."""
    known = any(kind.__name__ in ('JaxRuntimeError', 'XlaRuntimeError') for kind in type(error).__mro__)
    text = str(error).lower()
    return known and any(word in text for word in LOST)
