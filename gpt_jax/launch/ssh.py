"""Launcher for machines that are reached by ssh, with one connection per process."""

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job
from gpt_jax.launch.local import RESTARTS_HELP, ForegroundLauncher, ProcessSpec, process_log

OPTIONS = {
    'folder': 'the folder of run.py on the machines (default: this folder, on a shared disk)',
    'python': 'the Python interpreter there (default python3)',
    'address': 'address at which the others reach the first machine (default: its name)',
    'port': 'port on which the first machine listens for the others (default 29400)',
    'config': 'an ssh configuration file (ssh -F)',
    'restarts': RESTARTS_HELP,
}
SSH = ('ssh', '-T', '-o', 'BatchMode=yes')
KEEPALIVE = ('-o', 'ServerAliveInterval=15', '-o', 'ServerAliveCountMax=4')


class SshLauncher(ForegroundLauncher):
    """Run processes on machines reached by ssh; they end when the connection ends."""

    options = OPTIONS
    shared_filesystem = False
    accepts_hosts = True

    def render_files(self, job: Job) -> dict[str, str]:
        if not job.hosts:
            raise UserError(
                f'--nodes: must list machines with --launch=ssh, got {job.nodes}; for example '
                'alpha,beta'
            )
        for host in job.hosts:
            if host.startswith('-') or not host:  # ssh would take it for an option
                raise UserError(f'--nodes: must be names of machines, got {host!r}')
            quoting.check_argument(host)
        if job.minutes:
            raise UserError('--minutes: is not supported by --launch=ssh')
        return {}

    def make_processes(self, job: Job, attempt: int) -> list[ProcessSpec]:
        config_file = files.expand_home(job.get_option('config'), '--launch_option=config')
        config = ['-F', config_file] if config_file else []
        specs = []
        for index in range(job.total_processes):
            host = job.hosts[index // job.processes_per_node]
            # A single argument for sh -c, so that the machine's login shell hardly matters.
            command = quoting.join_words(['sh', '-c', render_remote_script(job, index, attempt)])
            argv = [*SSH, *KEEPALIVE, *config, host, command]
            specs.append(ProcessSpec(argv, process_log(job, index), stops_on_eof=True))
        return specs


def render_remote_script(job: Job, index: int, attempt: int) -> str:
    """Return the shell script that process `index` runs on its machine."""
    command = list(job.command)
    if job.total_processes > 1 and not job.trial_groups:
        address = job.get_option('address', job.hosts[0].rpartition('@')[2])
        # A different port for each attempt, since the previous one may still be in use.
        port = job.get_int_option('port', 29400) + attempt % 100
        command.append(f'--distributed={address}:{port},{job.total_processes},{index}')
    folder = job.get_option('folder', str(job.cwd))
    return quoting.render_script(
        'ssh_process.sh',
        folder=quoting.quote_remote_path(folder),
        exports=quoting.export_lines(job.env),
        command=quoting.join_remote_command(command),
    )
