"""How does a job run on this machine? As several processes of one model, or several workers of one sweep."""

import json
import socket

from gpt_jax.errors import UserError
from gpt_jax.launch.alive import dead
from gpt_jax.launch.job import Job
from gpt_jax.launch.processes import RECORD, Process

OPTIONS = {'restarts': 'how often processes that were interrupted are started again (0)'}


def files(job: Job) -> dict[str, str]:
    """None; what this machine cannot do is refused.

    Raises:
      UserError: more than one node, or a time limit.
    """
    if job.nodes != 1:
        raise UserError(f'--nodes={job.nodes}: --launch=local is this one machine; set --processes, or --launch=ssh')
    if job.minutes:
        raise UserError(f'--minutes={job.minutes}: --launch=local knows no time limit')
    return {}


def processes(job: Job, _: int) -> list[Process]:
    """Process 0 speaks at the terminal; the others write to process-K.log."""
    meet = f'127.0.0.1:{free_port()}' if job.tasks > 1 and not job.parts else ''
    return [
        Process(
            [*(['env', *(f'{key}={value}' for key, value in job.env.items())] if job.env else []), *job.command,
             *([f'--distributed={meet},{job.tasks},{index}'] if meet else [])],
            None if index == 0 else job.folder / f'process-{index}.log', tether=False,
        )
        for index in range(job.tasks)
    ]  # fmt: skip


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return int(one.getsockname()[1])


def start(job: Job) -> list[list[str]]:
    return [one.argv for one in processes(job, 0)]


def _running(job: Job) -> list[str]:
    """The numbers of the launcher and its processes, while it is the one that wrote them."""
    path = job.folder / RECORD
    record = json.loads(path.read_text()) if path.exists() else None
    if record is None or dead(record['launcher']):
        return []
    return [str(record['launcher']['pid']), *map(str, record['processes'])]


def status(job: Job, _: str) -> list[list[str]]:
    pids = _running(job)
    return [['ps', '-o', 'pid,stat,etime,args', '-p', ','.join(pids)]] if pids else []


def logs(job: Job, _: str) -> list[list[str]]:
    there = sorted(str(path) for path in job.folder.glob('process-*.log'))
    return [['tail', '-n', '20', '--', *there]] if there else []


def cancel(job: Job, _: str) -> list[list[str]]:
    """SIGTERM to the launcher, which asks its processes to save."""
    return [['kill', '-TERM', pid] for pid in _running(job)[:1]]
