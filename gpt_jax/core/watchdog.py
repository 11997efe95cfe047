"""Lost or hanging peers: log the reason, dump stacks and exit with 75 (resumable).

Three faults end a run of several processes: one dies (collectives fail, or JAX's heartbeat
notices), one is frozen (the heartbeat notices), or all are alive and wait for each other (only a
clock notices). JAX aborts in the first two cases, which looks like a crash; here it becomes exit
code 75. The watchdog thread handles the third.
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

from gpt_jax.core.errors import EXIT_RESUMABLE

# Factor on the time allowed until the second beat: compiling and restoring outlast a step.
STARTUP_GRACE = 10.0
# Words of JAX's errors about lost processes, from Gloo, NCCL and its own service.
LOST_PEER_WORDS = (
    'gloo',
    'nccl',
    'coordination service',
    'heartbeat',
    'connection reset',
    'connection closed',
    'unavailable:',
    'deadline_exceeded',
    'socket closed',
    'peer',
)

_handlers: list[Any] = []  # referenced by signal handlers, so they must not be collected


class Watchdog:
    """A context manager whose thread ends the process after `seconds` without a beat; 0: never.

    The stacks of all threads go to standard error first. If Python itself is stuck, a C timer dumps
    them and exits with 1.
    """

    def __init__(self, seconds: float, who: str):
        self._seconds, self._who = seconds, who
        self._last, self._allowed, self._beats = time.monotonic(), STARTUP_GRACE * seconds, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)

    def beat(self) -> None:
        """Reports progress; cheap enough for every step."""
        self._beats += 1
        # After the first beat, this process may still wait for others that compile more slowly.
        self._last, self._allowed = (
            time.monotonic(),
            self._seconds * (STARTUP_GRACE if self._beats < 2 else 1.0),
        )

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
                seconds = f'{self._allowed:g} s'
                abandon(f'{self._who}: no progress for {seconds}; see the stacks above')
            faulthandler.dump_traceback_later(max(left, 1.0) + 2 * self._seconds, exit=True)


def abandon(line: str) -> None:
    """Dumps all stacks, prints the line and exits with 75 without waiting for anything."""
    faulthandler.dump_traceback(all_threads=True)
    exit_resumable(line)


def exit_resumable(line: str) -> None:
    """Prints the line and exits with 75; Python's own shutdown would wait for lost peers."""
    os.write(2, f'run.py: {line}; run it again to go on from the last checkpoint\n'.encode())
    os._exit(EXIT_RESUMABLE)


def catch_abort(who: str) -> None:
    """Makes an abort of this process, which is how JAX reacts to lost peers, exit with 75."""

    def on_abort(_: int) -> None:
        exit_resumable(f'{who}: lost another process, and XLA aborted (its message is above)')

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    _handlers.append(handler)
    # A C handler: Python's run between instructions of the main thread, which waits inside XLA.
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    faulthandler.enable(sys.stderr)  # prints the stacks, then calls the previous handler


@contextlib.contextmanager
def translate_lost_peer() -> Iterator[None]:
    """Exits with 75 when JAX raises that another process is lost."""
    try:
        yield
    except Exception as error:
        if _is_lost_peer(error):
            exit_resumable(f'lost another process ({" ".join(str(error).split())[:200]})')
        raise


def _is_lost_peer(error: BaseException) -> bool:
    """Returns whether JAX raised the error because another process is lost."""
    known = any(
        kind.__name__ in ('JaxRuntimeError', 'XlaRuntimeError') for kind in type(error).__mro__
    )
    text = str(error).lower()
    return known and any(word in text for word in LOST_PEER_WORDS)
