"""Launcher for this machine, and the supervisor of processes that end with the command."""

import abc
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpt_jax.core import files
from gpt_jax.core.errors import EXIT_RESUMABLE, UserError
from gpt_jax.core.interruption import SignalCounter
from gpt_jax.launch.job import Job, Launcher
from gpt_jax.sweep import claims

POLL_SECONDS = 0.1
PROCESSES_FILE = 'processes.json'  # in Job.folder while they run: the process ids
RESTARTS_HELP = 'maximum number of restarts of interrupted processes (default 0)'
OPTIONS = {'restarts': RESTARTS_HELP}
LOG_LINES = '20'  # number of lines shown of each log


class ProcessSpec(NamedTuple):
    """A process to start.

    Attributes:
      argv: its argument list.
      log: the file for its output; None: the terminal.
      stops_on_eof: whether the end of its standard input asks it to stop, as for a process on
        another machine; otherwise SIGTERM does.
    """

    argv: list[str]
    log: Path | None
    stops_on_eof: bool


def run_processes(
    make_processes: Callable[[int], list[ProcessSpec]],
    restarts: int,
    log: Callable[[str], None],
    folder: Path,
) -> int:
    """Run processes until they end, and restart all of them while they exit with code 75.

    SIGINT and SIGTERM are passed on: the first asks every process to stop, the second kills them.

    Args:
      make_processes: returns the processes to start, given the number of earlier starts.
      restarts: the maximum number of restarts.
      log: prints one line.
      folder: the job's folder; PROCESSES_FILE in it lists the process ids while they run.

    Returns:
      0 if all succeeded; else the exit code of a process that failed; else 75, also if a process
      was killed, since the run then resumes from its checkpoint.
    """
    with SignalCounter() as signals:
        for attempt in range(restarts + 1):
            code = _run_once(make_processes(attempt), signals, folder / PROCESSES_FILE)
            if code != EXIT_RESUMABLE or signals.count:
                break
            if attempt < restarts:
                log(f'interrupted; restarting ({attempt + 1} of at most {restarts} times)')
    (folder / PROCESSES_FILE).unlink(missing_ok=True)
    return code


def _run_once(specs: list[ProcessSpec], signals: SignalCounter, record: Path) -> int:
    running: list[subprocess.Popen[bytes]] = []
    try:
        for spec in specs:
            running.append(_start(spec))
        pids = [process.pid for process in running]
        files.write_json(record, {'launcher': claims.this_process(), 'processes': pids})
        signals_passed_on = 0
        while any(process.poll() is None for process in running):
            if signals.count > signals_passed_on:
                signals_passed_on = signals.count
                for process, spec in zip(running, specs, strict=True):
                    _stop(process, spec, kill=signals_passed_on > 1)
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    codes = [process.returncode for process in running]
    failures = [code for code in codes if code > 0 and code != EXIT_RESUMABLE]
    if failures:
        return failures[0]
    return EXIT_RESUMABLE if any(codes) else 0


def _start(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    stdin = subprocess.PIPE if spec.stops_on_eof else subprocess.DEVNULL
    # In its own session, so that Ctrl-C reaches only the launcher, which asks each process once.
    if spec.log is None:
        return subprocess.Popen(spec.argv, stdin=stdin, stdout=sys.stderr, start_new_session=True)
    with spec.log.open('ab') as log:
        return subprocess.Popen(
            spec.argv, stdin=stdin, stdout=log, stderr=log, start_new_session=True
        )


def _stop(process: subprocess.Popen[bytes], spec: ProcessSpec, *, kill: bool) -> None:
    if kill:
        process.kill()
    elif not spec.stops_on_eof:
        process.terminate()
    elif process.stdin is not None:
        process.stdin.close()


class ForegroundLauncher(Launcher):
    """A launcher whose processes are children of this command and end with it."""

    @abc.abstractmethod
    def make_processes(self, job: Job, attempt: int) -> list[ProcessSpec]:
        """Return the processes of the job.

        Args:
          job: the job.
          attempt: the number of earlier starts.
        """

    def start_commands(self, job: Job) -> list[list[str]]:
        return [spec.argv for spec in self.make_processes(job, 0)]

    def status_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        pids = _read_pids(job)
        return [['ps', '-o', 'pid,stat,etime,args', '-p', ','.join(pids)]] if pids else []

    def log_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        logs = sorted(str(path) for path in job.folder.glob('process-*.log'))
        return [['tail', '-n', LOG_LINES, '--', *logs]] if logs else []

    def cancel_commands(self, job: Job, output: str) -> list[list[str]]:
        """Send SIGTERM to the launcher, which asks its processes to save and exit."""
        del output
        return [['kill', '-TERM', pid] for pid in _read_pids(job)[:1]]


def process_log(job: Job, index: int) -> Path | None:
    """Return the log file of a process; None for the first one, which writes to the terminal."""
    return None if index == 0 else job.folder / f'process-{index}.log'


def _read_pids(job: Job) -> list[str]:
    """Return the ids of the launcher and its processes; empty if that launcher no longer runs."""
    path = job.folder / PROCESSES_FILE
    record = files.read_json(path) if path.exists() else None
    if record is None or claims.is_dead(record['launcher']):
        return []
    return [str(record['launcher']['pid']), *map(str, record['processes'])]


class LocalLauncher(ForegroundLauncher):
    """Run several processes of one model, or several workers of one sweep, on this machine."""

    options = OPTIONS

    def render_files(self, job: Job) -> dict[str, str]:
        if job.nodes != 1:
            raise UserError(
                f'--nodes: must be 1 with --launch=local, got {job.nodes}; '
                'set --processes, or use --launch=ssh'
            )
        if job.minutes:
            raise UserError('--minutes: is not supported by --launch=local')
        return {}

    def make_processes(self, job: Job, attempt: int) -> list[ProcessSpec]:
        del attempt
        env = [f'{key}={value}' for key, value in job.env.items()]
        command = [*(['env', *env] if env else []), *job.command]
        specs = []
        distributed = job.total_processes > 1 and not job.trial_groups
        coordinator = f'127.0.0.1:{find_free_port()}' if distributed else ''
        for index in range(job.total_processes):
            argv = list(command)
            if distributed:
                argv.append(f'--distributed={coordinator},{job.total_processes},{index}')
            specs.append(ProcessSpec(argv, process_log(job, index), stops_on_eof=False))
        return specs


def find_free_port() -> int:
    """Return an unused port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])
