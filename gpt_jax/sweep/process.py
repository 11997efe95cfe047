"""Supervision of one process of a sweep: it is started, watched, and ended with the sweep.

A process shows activity by writing to its folder: progress.json (core/progress.py), or log.txt,
which receives its output.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from gpt_jax.core import files
from gpt_jax.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUMABLE,
    UserError,
)
from gpt_jax.core.progress import PROGRESS_FILE

PARENT_VARIABLE = 'GPT_JAX_SWEEP'  # environment variable with the pid of a trial's sweep
POLL_SECONDS = 0.2
GRACE_SECONDS = 20.0  # time for a process to save its state before it is killed
STOP_PROCESS, KILL_PROCESS = 'stop', 'kill'
LOG_FILE = 'log.txt'
EXIT_REASONS = {
    EXIT_BAD_INPUT: 'bad input',
    EXIT_FAILED: 'diverged',
    EXIT_OUT_OF_MEMORY: 'out of memory',
}


class ProcessResult(NamedTuple):
    """The end of a process.

    Attributes:
      status: 'done', or the reason why not.
      stopped: whether it was stopped, so that another call resumes it.
    """

    status: str
    stopped: bool


class SignalCounter:
    """A context manager that counts SIGINT and SIGTERM; they do not end this process."""

    count = 0

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._increment)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _increment(self, *_: object) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run_process(
    command: list[str],
    folder: Path,
    signals: SignalCounter,
    *,
    hang_seconds: float,
    watch: Callable[[], str],
    refresh: Callable[[str], None],
) -> ProcessResult:
    """Run a command until it ends, with its output in `folder`/log.txt.

    Args:
      signals: the first signal is passed on, so that the process can save; a second one kills it.
      hang_seconds: time without activity after which the process is stopped.
      watch: called a few times a second; STOP_PROCESS stops the process, KILL_PROCESS kills it.
      refresh: called a few times a second with the text of progress.json, or '' if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _wait_for_previous(folder)
    stopped_at: float | None = None
    hung = False
    began = time.time()
    with (folder / LOG_FILE).open('ab') as log:
        # In its own session: Ctrl-C reaches only this process, which passes it on as SIGTERM.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
        )

    try:
        while process.poll() is None:
            now, request = time.monotonic(), watch()
            hung = hung or time.time() - _last_sign_of_life(folder, began) > hang_seconds
            if stopped_at is None and (signals.count or hung or request):
                stopped_at = now
                process.terminate()
            if stopped_at is not None:
                out_of_grace = hung and now - stopped_at > GRACE_SECONDS
                if signals.count > 1 or request == KILL_PROCESS or out_of_grace:
                    _kill(process)
            refresh(_read_progress(folder))
            time.sleep(POLL_SECONDS)
    finally:
        _kill(process)  # if an exception was raised here; or children that outlived the process
    if hung:
        return ProcessResult(f'hung: no activity for {hang_seconds:g} s', stopped=False)
    if process.returncode == 0:
        return ProcessResult('done', stopped=False)
    if process.returncode == EXIT_RESUMABLE or stopped_at is not None:
        return ProcessResult('stopped', stopped=True)
    return ProcessResult(f'failed: {_describe_exit(process.returncode, folder)}', stopped=False)


def exit_with_parent() -> None:
    """Ask the system for SIGTERM when the sweep's process dies; a trial calls this at its start."""
    parent = os.environ.pop(PARENT_VARIABLE, '')
    if parent and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # the parent died before the call
            os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_previous(folder: Path) -> None:
    """Wait for the folder's lock: a trial whose sweep was killed may still be saving."""
    deadline = time.monotonic() + 3 * GRACE_SECONDS
    while True:
        try:
            with files.hold_lock(folder / 'lock', wait=False):
                return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _last_sign_of_life(folder: Path, began: float) -> float:
    paths = [folder / name for name in (LOG_FILE, PROGRESS_FILE)]
    return max(began, *(path.stat().st_mtime for path in paths if path.exists()))


def _read_progress(folder: Path) -> str:
    try:
        return str(json.loads((folder / PROGRESS_FILE).read_text())['text'])
    except (OSError, ValueError, KeyError, TypeError):  # missing, or being written
        return ''


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _describe_exit(code: int, folder: Path) -> str:
    if code == EXIT_BAD_INPUT:
        return f'{EXIT_REASONS[code]} ({read_last_line(folder)})'
    if code in EXIT_REASONS:
        return EXIT_REASONS[code]
    if code == -signal.SIGKILL:
        return 'killed (signal 9), as the system does when memory runs out'
    return f'signal {-code}' if code < 0 else f'exit code {code}'


def read_last_line(folder: Path) -> str:
    """Read the last line of the process's output; '' if there is none."""
    path = folder / LOG_FILE
    if not path.exists():
        return ''
    lines = path.read_bytes()[-4000:].decode('utf-8', 'replace').splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
