"""How is one process of a sweep started, watched and ended? It lives while it shows progress, and dies with its sweep.

A process shows life by writing to its folder: progress.json (see observe/progress.py) or log.txt, where what it prints
goes.
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

from gpt_jax import files
from gpt_jax.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY, EXIT_RESUMABLE, UserError

PARENT = 'GPT_JAX_SWEEP'  # the environment variable that tells a trial its sweep's process id
POLL = 0.2  # seconds
GRACE = 20.0  # seconds that a process has to save itself before it is killed
STOP, KILL = 'stop', 'kill'
LOG, PROGRESS = 'log.txt', 'progress.json'


class Ended(NamedTuple):
    """How a process ended. status: 'done' or why not; stopped: it was asked to, and a second call goes on."""

    status: str
    stopped: bool


class Signals:
    """Counts SIGINT and SIGTERM for the length of a block, instead of dying of them."""

    count = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._add) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _add(self, *_: object) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run(
    command: list[str], folder: Path, signals: Signals, *,
    hang_seconds: float, watch: Callable[[], str], tick: Callable[[str], None],
) -> Ended:  # fmt: skip
    """Runs a command to its end, its output into `folder`/log.txt.

    Args:
      signals: the first one is passed on, so that the process may save; a second one kills it.
      hang_seconds: without a sign of life for so long, it is stopped.
      watch: called a few times a second; it is asked to stop for STOP, and killed for KILL.
      tick: called a few times a second with what the process last said of itself, '' for nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _wait_for_the_one_before(folder)
    asked_at: float | None = None
    hung = False
    began = time.time()
    with (folder / LOG).open('ab') as log:
        # A session of its own: Ctrl-C at the terminal reaches this process only, which passes it on as SIGTERM.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {PARENT: str(os.getpid())}
        )

    try:
        while process.poll() is None:
            now, wish = time.monotonic(), watch()
            hung = hung or time.time() - _last_life(folder, began) > hang_seconds
            if asked_at is None and (signals.count or hung or wish):
                asked_at = now
                process.terminate()
            if asked_at is not None and (signals.count > 1 or wish == KILL or (hung and now - asked_at > GRACE)):
                _kill(process)
            tick(_said(folder))
            time.sleep(POLL)
    finally:
        _kill(process)  # if an error took this function away, or for what the process left behind
    if hung:
        return Ended(f'hung: no sign of life for {hang_seconds:g} s', stopped=False)
    if process.returncode == 0:
        return Ended('done', stopped=False)
    if process.returncode == EXIT_RESUMABLE or asked_at is not None:
        return Ended('stopped', stopped=True)
    return Ended(f'failed: {_reason(process.returncode, folder)}', stopped=False)


def follow_parent() -> None:
    """Called by a trial at its start: SIGTERM when its sweep dies, however it dies, so that no trial runs unseen."""
    parent = os.environ.pop(PARENT, '')
    if parent and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it died before that
            os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_the_one_before(folder: Path) -> None:
    """A trial whose sweep was killed may still be saving."""
    until = time.monotonic() + 3 * GRACE
    while True:
        try:
            with files.lock(folder / 'lock', wait=False):
                return
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL)


def _last_life(folder: Path, began: float) -> float:
    times = [(folder / name).stat().st_mtime for name in (LOG, PROGRESS) if (folder / name).exists()]
    return max(began, *times)


def _said(folder: Path) -> str:
    try:
        return str(json.loads((folder / PROGRESS).read_text())['text'])
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or being written at this moment
        return ''


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(code: int, folder: Path) -> str:
    names = {EXIT_BAD_INPUT: 'bad input', EXIT_FAILED: 'diverged', EXIT_OUT_OF_MEMORY: 'out of memory'}
    if code in names:
        return names[code] + (f' ({last_line(folder)})' if code == EXIT_BAD_INPUT else '')
    if code == -signal.SIGKILL:
        return 'killed (signal 9), as the system does where memory runs out'
    return f'signal {-code}' if code < 0 else f'exit code {code}'


def last_line(folder: Path) -> str:
    """The last line that the process printed, or ''."""
    path = folder / LOG
    lines = path.read_bytes()[-4000:].decode('utf-8', 'replace').splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
