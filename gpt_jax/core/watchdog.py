"""Handling of lost or hung peer processes: log the reason and exit with code 75 (resumable).

A run of several processes can fail in three ways: a process dies (collectives fail, or JAX's
heartbeat notices), a process freezes (the heartbeat notices), or all processes are alive but wait
for each other (only a timeout notices). In the first two cases JAX aborts, which looks like a
crash; this module turns the abort into exit code 75. The watchdog thread handles the third case.
"""

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from gpt_jax.core import files
from gpt_jax.core.clock import ActiveClock
from gpt_jax.core.errors import EXIT_DISK_FULL, EXIT_RESUMABLE, XLA_ERRORS, make_disk_full

# Multiplies the time allowed until the second beat: compiling and restoring outlast a step.
STARTUP_GRACE = 10.0
FULL_DISK_BYTES = 1 << 16  # a disk with less free space than this counts as full
# Substrings of JAX's errors about lost processes, which come from Gloo, NCCL and JAX's own service.
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

_handlers: list[Any] = []  # C callbacks in use as signal handlers; must not be garbage-collected


class Watchdog:
    """A context manager whose thread ends the process after `seconds` without a beat; 0: never.

    Time in which the machine slept, or this process was frozen, does not count.
    The stacks of all threads go to standard error first. If Python itself is stuck, a C timer dumps
    them and exits with 1.
    """

    def __init__(self, seconds: float, who: str):
        self._seconds, self._who = seconds, who
        self._clock = ActiveClock()
        self._last, self._allowed, self._beats = 0.0, STARTUP_GRACE * seconds, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='watchdog', daemon=True)

    def beat(self) -> None:
        """Report progress; cheap enough to call at every step."""
        self._beats += 1
        # After the first beat, this process may still wait for others that compile more slowly.
        self._last, self._allowed = (
            self._clock.read(),
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
            left = self._last + self._allowed - self._clock.read()
            if left < 0:
                seconds = f'{self._allowed:g} s'
                abandon(f'{self._who}: no progress for {seconds}; see the stacks above')
            faulthandler.dump_traceback_later(max(left, 1.0) + 2 * self._seconds, exit=True)


def abandon(line: str) -> None:
    """Dump all stacks, print the line and exit with code 75 without waiting for anything."""
    faulthandler.dump_traceback(all_threads=True)
    exit_resumable(line)


def exit_resumable(line: str) -> None:
    """Print the line and exit with code 75 at once: a normal shutdown would wait for lost peers."""
    os.write(2, f'run.py: {line}; run it again to resume from the last checkpoint\n'.encode())
    os._exit(EXIT_RESUMABLE)


def catch_abort(who: str) -> None:
    """Make this process exit with code 75 when it aborts, which is how JAX reacts to lost peers."""

    def on_abort(_: int) -> None:
        exit_resumable(f'{who}: lost another process, and XLA aborted (its message is above)')

    _set_c_handler(signal.SIGABRT, on_abort)
    faulthandler.enable(sys.stderr)  # prints the stacks, then calls the previous handler


def catch_bus_error(folders: list[Path]) -> None:
    """Make this process exit with code 5 when it dies of SIGBUS because one of these disks is full.

    That is how a write into a memory-mapped file fails. On other bus errors it still dies.
    """

    def on_bus_error(number: int) -> None:
        for folder in folders:
            if files.measure_free_bytes(folder) < FULL_DISK_BYTES:
                os.write(2, f'run.py: {make_disk_full(str(folder))} (bus error)\n'.encode())
                os._exit(EXIT_DISK_FULL)
        ctypes.CDLL(None).signal(number, None)  # the default action
        os.kill(os.getpid(), number)

    _set_c_handler(signal.SIGBUS, on_bus_error)


def _set_c_handler(number: int, function: Callable[[int], None]) -> None:
    """Handle a signal at once; Python's handlers only run between bytecodes of the main thread."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(function)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(number, handler)


@contextlib.contextmanager
def translate_lost_peer() -> Iterator[None]:
    """Exit with code 75 when JAX raises an error about a lost process."""
    try:
        yield
    except Exception as error:
        if _is_lost_peer(error):
            exit_resumable(f'lost another process ({" ".join(str(error).split())[:200]})')
        raise


def _is_lost_peer(error: BaseException) -> bool:
    """Return whether JAX raised the error because another process is lost."""
    known = any(kind.__name__ in XLA_ERRORS for kind in type(error).__mro__)
    text = str(error).lower()
    return known and any(word in text for word in LOST_PEER_WORDS)
