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
from typing import NamedTuple

from gpt_jax.core import files
from gpt_jax.core.clock import ActiveClock
from gpt_jax.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUMABLE,
    UserError,
)
from gpt_jax.core.interruption import SignalCounter
from gpt_jax.core.progress import PROGRESS_FILE
from gpt_jax.core.watchdog import FULL_DISK_BYTES

PARENT_VARIABLE = 'GPT_JAX_SWEEP'  # environment variable with the pid of a trial's sweep
POLL_SECONDS = 0.2
GRACE_SECONDS = 20.0  # time for a process to save its state before it is killed
STOP_PROCESS, KILL_PROCESS = 'stop', 'kill'
LOG_FILE = 'log.txt'
DIVERGED = 'diverged'
EXIT_REASONS = {
    EXIT_BAD_INPUT: 'bad input',
    EXIT_FAILED: DIVERGED,
    EXIT_OUT_OF_MEMORY: 'out of memory',
    EXIT_DISK_FULL: 'disk full',
}
VMSTAT_FILE = Path('/proc/vmstat')  # its line oom_kill counts the processes that Linux killed


class ProcessResult(NamedTuple):
    """The end of a process.

    Attributes:
      status: 'done', or the reason why not.
      stopped: whether it was stopped, so that another call resumes it.
    """

    status: str
    stopped: bool


def run_process(
    command: list[str],
    folder: Path,
    signals: SignalCounter,
    clock: ActiveClock,
    *,
    hang_seconds: float,
    watch: Callable[[], str],
    refresh: Callable[[str], None],
) -> ProcessResult:
    """Run a command until it ends, with its output in `folder`/log.txt.

    Args:
      signals: the first signal is passed on, so that the process can save; a second one kills it.
      clock: measures time in which this machine did not sleep; it is read at each look.
      hang_seconds: time without activity after which the process is stopped.
      watch: called a few times a second; STOP_PROCESS stops the process, KILL_PROCESS kills it.
      refresh: called a few times a second with the text of progress.json, or '' if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _wait_for_previous(folder, signals):
        return ProcessResult('stopped', stopped=True)
    stopped_at: float | None = None
    hung = False
    oom_kills = _count_oom_kills()
    with (folder / LOG_FILE).open('ab') as log:
        # In its own session: Ctrl-C reaches only this process, which passes it on as SIGTERM.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
        )

    activity, active_at = _read_activity(folder), clock.read()
    try:
        while process.poll() is None:
            now, request = clock.read(), watch()
            if (latest := _read_activity(folder)) != activity:
                activity, active_at = latest, now
            hung = hung or now - active_at > hang_seconds
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
    reason = _describe_exit(process.returncode, folder, _count_oom_kills() - oom_kills)
    return ProcessResult(f'failed: {reason}', stopped=False)


def exit_with_parent() -> None:
    """Ask the system for SIGTERM when the sweep's process dies; a trial calls this at its start."""
    parent = os.environ.pop(PARENT_VARIABLE, '')
    if parent and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # the parent died before the call
            os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_previous(folder: Path, signals: SignalCounter) -> bool:
    """Wait for the folder's lock: a trial whose sweep was killed may still be saving.

    Returns:
      Whether the lock is free; False if there was a signal before.
    """
    deadline = time.monotonic() + 3 * GRACE_SECONDS
    while not signals.count:
        try:
            with files.hold_lock(folder / 'lock', wait=False):
                return True
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
    return False


def _read_activity(folder: Path) -> list[tuple[int, int]]:
    """Read what changes when the process writes: the clocks of file servers may differ from ours.

    Returns:
      (time of the last change, size) of its files.
    """
    activity = []
    for name in (LOG_FILE, PROGRESS_FILE):
        with contextlib.suppress(FileNotFoundError):
            stat = (folder / name).stat()
            activity.append((stat.st_mtime_ns, stat.st_size))
    return activity


def _read_progress(folder: Path) -> str:
    try:
        return str(json.loads((folder / PROGRESS_FILE).read_text())['text'])
    except (OSError, ValueError, KeyError, TypeError):  # missing, or being written
        return ''


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _describe_exit(code: int, folder: Path, oom_kills: int) -> str:
    """Describe why a process failed, as far as that is known.

    Args:
      oom_kills: number of processes that the system killed meanwhile because memory ran out.
    """
    if code >= 0:
        last_line = read_last_line(folder)
        reason = EXIT_REASONS.get(code, f'exit code {code}')
        is_clear = code in (EXIT_FAILED, EXIT_OUT_OF_MEMORY) or not last_line
        return reason if is_clear else f'{reason} ({last_line})'
    reason = f'killed by {_name_signal(-code)}'
    if -code == signal.SIGKILL and oom_kills > 0:
        return f'{reason}; memory ran out meanwhile, and the system killed {oom_kills} processes'
    if files.measure_free_bytes(folder) < FULL_DISK_BYTES:
        return f'{reason}; the disk of {folder} is full'
    return reason


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f'signal {number}'


def _count_oom_kills() -> int:
    """Count the processes that Linux has killed since boot because memory ran out; 0: unknown."""
    try:
        counts = dict(line.split() for line in VMSTAT_FILE.read_text().splitlines())
        return int(counts.get('oom_kill', 0))
    except (OSError, ValueError):
        return 0


def read_last_line(folder: Path) -> str:
    """Read the last line of the process's output; '' if there is none."""
    path = folder / LOG_FILE
    if not path.exists():
        return ''
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 4000))
        lines = file.read().decode('utf-8', 'replace').splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
