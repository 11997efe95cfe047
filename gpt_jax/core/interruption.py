"""SIGTERM and SIGINT: a command ends within two seconds, with one line and exit code 75.

A signal raises Interrupted or KeyboardInterrupt in the main thread, and `run_command` reports it.
Python runs the handler of a signal between two bytecodes of the main thread, which may be inside
of a long call: XLA compiles a program, or another thread is waited for. So a second thread, which
the system's handler wakes up at once, ends the process if the main thread does not in time. This
loses nothing, since all files are written so that a kill at any moment is safe.

A command that has something to save counts the signals instead (`SignalCounter`).
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, Self

from gpt_jax.core.errors import EXIT_RESUMABLE, Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_SECONDS = 1.5  # from a signal until the second thread ends the process
POLL_SECONDS = 0.1

_program = 'gpt_jax'
_is_installed = False
_is_starting = True  # the imports before `run_command`
_answered_at = -float('inf')  # monotonic time at which the main thread last dealt with a signal
_counters: list['SignalCounter'] = []  # those in use; the last one receives the signals
_ending = threading.RLock()  # held by the thread that ends the process
_raised_number = 0  # the signal that was raised in the main thread and not dealt with; 0: none
_exit_code: int | None = None  # of a command that has ended; None: as Python decides


class SignalCounter:
    """A context manager that counts SIGINT and SIGTERM; they do not end this process.

    A signal that the process was started to ignore, as shells do with SIGINT for background jobs,
    stays ignored. Outside the main thread, where Python allows no handlers, this does nothing.

    Attributes:
      count: number of signals so far.
      signal_name: the first one, 'SIGTERM' or 'SIGINT'; None before it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.signal_name: str | None = None
        # What must be completed before the process may be ended; None: it must not be ended.
        self._before_end: Callable[[], None] | None = None
        self._end_seconds, self._raises = EXIT_SECONDS, False

    def __enter__(self) -> Self:
        self._previous_handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            _counters.append(self)
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        global _raised_number
        if self in _counters:
            _counters.remove(self)
            number = _raised_number
            acknowledge()
            if kind is not None:  # what was raised is on its way to `run_command`, which names it
                _raised_number = number
        for number, handler in self._previous_handlers.items():
            # None is a handler that was not installed from Python, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.signal_name = self.signal_name or signal.Signals(number).name
        if self._raises and self._before_end is not None:
            _interrupt(number, frame, self._before_end)

    @contextlib.contextmanager
    def interruptible(
        self,
        before_end: Callable[[], None] = lambda: None,
        *,
        raises: bool = True,
        seconds: float = EXIT_SECONDS,
    ) -> Iterator[None]:
        """In this block, signals end the process as they do outside of the counter.

        Args:
          before_end: called, in another thread, before the process is ended from there; for what
            is being saved in the background.
          raises: also raise in the main thread, at once; otherwise only `count` tells it.
          seconds: time from the signal until the process is ended.

        Raises:
          Interrupted: there has been a signal, and `raises`.
        """
        previous = self._before_end, self._end_seconds, self._raises
        self._before_end, self._end_seconds, self._raises = before_end, seconds, raises
        try:
            if self.count and raises:
                raise Interrupted
            yield
        finally:
            self._before_end, self._end_seconds, self._raises = previous


def install(program: str) -> None:
    """Handle SIGTERM and SIGINT from here on; call this before slow imports.

    Args:
      program: prefix of the line that reports the end, such as 'run.py'.
    """
    global _program, _is_installed
    _program = program
    if _is_installed:
        return
    _is_installed = True
    atexit.register(_finish)  # the first to be registered is the last to be called
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=[read_end], name='signals', daemon=True).start()


@contextlib.contextmanager
def raising(program: str) -> Iterator[None]:
    """In this block, signals raise: all imports that do not belong to the command are done."""
    global _program, _is_starting, _raised_number
    previous = _program, _is_starting
    _program, _is_starting, _raised_number = program, False, 0
    try:
        yield
    finally:
        _program, _is_starting = previous


def set_exit_code(code: int) -> None:
    """End the process with this code once Python has joined its threads and run its exit callbacks.

    It then only takes its modules apart, which takes up to half a second.
    """
    global _exit_code
    _exit_code = code


def _finish() -> None:
    """Ignore signals from here on, since all work is done; end the process if its code is known."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if _exit_code is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code)


def acknowledge() -> None:
    """Report that the main thread has dealt with the signals so far, and will go on."""
    global _answered_at, _raised_number
    _answered_at, _raised_number = time.monotonic(), 0


def was_raised(error: BaseException) -> bool:
    """Return whether a signal ended the command: what it raised may have become another error."""
    return _raised_number != 0 or isinstance(error, (KeyboardInterrupt, Interrupted))


def end_interrupted() -> NoReturn:
    """End the process after a signal that was raised in the main thread."""
    end_process(_describe(_raised_number or signal.SIGINT))


def end_process(reason: str, before_end: Callable[[], None] = lambda: None) -> NoReturn:
    """Print why and end the process with code 75, without waiting for other threads."""
    _ending.acquire()
    before_end()
    # A full disk, a closed file, or a signal in the middle of a write.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        sys.stdout.flush()
    line = f'{_program}: {reason}; run the same command again\n'
    with contextlib.suppress(OSError):
        os.write(2, line.encode())
    os._exit(EXIT_RESUMABLE)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _interrupt(number, frame, lambda: None)


def _interrupt(number: int, frame: FrameType | None, before_end: Callable[[], None]) -> NoReturn:
    """Raise in the main thread; during an import, which may crash in C code, end the process."""
    global _raised_number
    if _is_starting or _is_importing(frame):
        end_process(_describe(number), before_end)
    _raised_number = number
    # What raises in a finalizer or another callback is printed by Python, and dropped.
    sys.unraisablehook = lambda _: None
    raise KeyboardInterrupt if number == signal.SIGINT else Interrupted


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            return True
        frame = frame.f_back
    return False


def _describe(number: int) -> str:
    return f'interrupted by {signal.Signals(number).name}'


def _watch(read_end: int) -> None:
    """Wait for signals, and end the process if the main thread does not deal with one in time."""
    while True:
        number = os.read(read_end, 1)[0]
        if number not in SIGNALS:
            continue
        received = time.monotonic()
        # A signal may be dealt with before this thread gets to run.
        while _answered_at < received - POLL_SECONDS:
            time.sleep(POLL_SECONDS)
            before_end, seconds = _find_end()
            if before_end is not None and time.monotonic() - received > seconds:
                end_process(_describe(number), before_end)
        while select.select([read_end], [], [], 0)[0]:  # dealt with as well
            os.read(read_end, 4096)


def _find_end() -> tuple[Callable[[], None] | None, float]:
    """Return what to call before the process is ended, None if it must not be, and the seconds."""
    if not _counters:
        return (lambda: None), EXIT_SECONDS
    return _counters[-1]._before_end, _counters[-1]._end_seconds
