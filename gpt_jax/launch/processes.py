"""How are the processes of one job started from here, watched and ended together, and started again if they may?"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpt_jax import files
from gpt_jax.errors import EXIT_RESUMABLE
from gpt_jax.launch import alive
from gpt_jax.launch.trial import Signals

POLL = 0.1  # seconds
RECORD = 'processes.json'  # in Job.folder, while they run: who they are


class Process(NamedTuple):
    """argv; log: the file that its output goes to, or None: the terminal. tether: it is asked to stop by the end of its
    standard input, as a process on another machine is; otherwise by SIGTERM."""

    argv: list[str]
    log: Path | None
    tether: bool


def run(make: Callable[[int], list[Process]], restarts: int, say: Callable[[str], None], folder: Path) -> int:
    """Runs the processes to their end; all of them again while they leave with 75 of themselves.

    Args:
      make: the processes, by how many times they were started before.
      restarts: how often at most they are started again.
      folder: of the job; holds, while they run, a file that tells which processes of this machine they are.

    Returns:
      0; or the exit code of one that failed, 75 last of all; where one was killed, 75 too: it goes on from its
      checkpoint.
    """
    with Signals() as signals:
        for attempt in range(restarts + 1):
            code = _once(make(attempt), signals, folder / RECORD)
            if code != EXIT_RESUMABLE or signals.count:
                break
            if attempt < restarts:
                say(f'interrupted; started again ({attempt + 1} of at most {restarts} times)')
    (folder / RECORD).unlink(missing_ok=True)
    return code


def _once(processes: list[Process], signals: Signals, record: Path) -> int:
    running: list[subprocess.Popen[bytes]] = []
    try:
        for each in processes:
            running.append(_start(each))
        files.write_json(record, {'launcher': alive.me(), 'processes': [one.pid for one in running]})
        asked = 0
        while any(one.poll() is None for one in running):
            if signals.count > asked:
                asked = signals.count
                for one, told in zip(running, processes, strict=True):
                    _ask(one, told.tether, kill=asked > 1)
            time.sleep(POLL)
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
                one.wait()
    codes = [one.returncode for one in running]
    failed = [code for code in codes if code > 0 and code != EXIT_RESUMABLE]
    return failed[0] if failed else EXIT_RESUMABLE if any(codes) else 0


def _start(one: Process) -> subprocess.Popen[bytes]:
    stdin = subprocess.PIPE if one.tether else subprocess.DEVNULL
    if one.log is None:
        # A session of its own: Ctrl-C reaches this process alone, which asks each of them once.
        return subprocess.Popen(one.argv, stdin=stdin, stdout=sys.stderr, start_new_session=True)
    with one.log.open('ab') as log:
        return subprocess.Popen(one.argv, stdin=stdin, stdout=log, stderr=log, start_new_session=True)


def _ask(process: subprocess.Popen[bytes], tether: bool, *, kill: bool) -> None:
    if kill:
        process.kill()
    elif not tether:
        process.terminate()
    elif process.stdin is not None:
        process.stdin.close()
