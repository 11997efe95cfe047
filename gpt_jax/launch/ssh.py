"""How does a job run on machines that one can log in to? One process on each, which ends with this one."""

import shlex

from gpt_jax.errors import UserError
from gpt_jax.launch import local, quoting
from gpt_jax.launch.job import Job
from gpt_jax.launch.processes import Process

OPTIONS = {
    'folder': 'where run.py lies on the machines (this folder, shared)',
    'python': 'the interpreter there (python3)',
    'address': 'of the first machine, for the others (its name)',
    'port': 'where the first machine listens to the others (29400)',
    'config': 'a configuration file for ssh, its -F',
    'restarts': 'how often processes that were interrupted are started again (0)',
}

# Standard input is the tether: it ends when the connection does, or when the launcher closes it to ask for a stop.
REMOTE = """\
cd {folder} || exit 2
{exports}exec 3<&0
{command} </dev/null 3<&- &
child=$!
{{ cat <&3 >/dev/null; kill -TERM "$child"; }} 2>/dev/null &
tether=$!
wait "$child"
code=$?
kill "$tether" 2>/dev/null
exit "$code"
"""


def files(job: Job) -> dict[str, str]:
    """None; what cannot be is refused.

    Raises:
      UserError: no names of machines, or names that ssh would take for options.
    """
    if not job.hosts:
        raise UserError(f'--nodes={job.nodes}: --launch=ssh wants names, --nodes=alpha,beta')
    for host in job.hosts:
        if host.startswith('-') or not host:
            raise UserError(f'--nodes: {host!r} is no name of a machine')
        quoting.checked(host)
    if job.minutes:
        raise UserError(f'--minutes={job.minutes}: --launch=ssh knows no time limit')
    return {}


def processes(job: Job, attempt: int) -> list[Process]:
    """One connection for each process; the first speaks at the terminal, the others write to process-K.log here."""
    made = []
    for index in range(job.tasks):
        host = job.hosts[index // job.processes]
        argv = ['ssh', '-T', '-o', 'BatchMode=yes', '-o', 'ServerAliveInterval=15', '-o', 'ServerAliveCountMax=4']
        argv += ['-F', job.options['config']] if job.option('config') else []
        # One word for sh -c, so that it matters little which shell the machine logs in with.
        argv += [host, quoting.words(['sh', '-c', remote(job, index, attempt)])]
        made.append(Process(argv, None if index == 0 else job.folder / f'process-{index}.log', tether=True))
    return made


def remote(job: Job, index: int, attempt: int) -> str:
    """What runs on the machine of process `index`."""
    command = list(job.command)
    if job.tasks > 1 and not job.parts:
        first = job.option('address', job.hosts[0].rpartition('@')[2])
        # Another port each time: the one before may not be free yet.
        command.append(f'--distributed={first}:{job.number("port", 29400) + attempt % 100},{job.tasks},{index}')
    lines = ''.join(f'{line}\n' for line in quoting.exports(job.env))
    return REMOTE.format(
        folder=shlex.quote(quoting.checked(job.option('folder', str(job.cwd)))), exports=lines,
        command=quoting.words(command),
    )  # fmt: skip


def start(job: Job) -> list[list[str]]:
    return [one.argv for one in processes(job, 0)]


status, logs, cancel = local.status, local.logs, local.cancel  # the connections are processes of this machine
