"""Launcher for Google Cloud TPU VMs: a gcloud script that requests a slice, runs, retries.

A preempted spot slice is deleted and requested again, and the run resumes from its checkpoint;
--workdir therefore has to outlive the machines, for example on a mounted bucket. The rendered
script is tested, but it has never been run on Google Cloud.
"""

import re
import shlex

from gpt_jax.core import files
from gpt_jax.core.errors import EXIT_RESUMABLE, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job, Launcher

OPTIONS = {
    'zone': 'Google Cloud zone, required; for example us-east5-a',
    'type': 'type of the slice (--accelerator-type), required; for example v5p-32',
    'version': 'runtime version (--runtime-version), required; for example v2-alpha-tpuv5',
    'project': "Google Cloud project (default: gcloud's setting)",
    'spot': 'yes: preemptible machines, requested again after preemption',
    'reserved': "yes: from the project's reservation",
    'setup': 'a local script that every worker runs first, for example to install gpt_jax and data',
    'folder': 'the folder of run.py on the workers, relative to their home (default gpt_jax)',
    'python': 'the Python interpreter there (default python3)',
    'restarts': 'maximum number of restarts of the run (default 50)',
}
TPU_VM = ('gcloud', 'compute', 'tpus', 'tpu-vm')
QUEUED_RESOURCES = ('gcloud', 'compute', 'tpus', 'queued-resources')
SCRIPT_FILE = 'tpu.sh'


class TpuLauncher(Launcher):
    """Run one model on a slice of TPU VMs, from a script on this machine."""

    options = OPTIONS
    shared_filesystem = False
    ephemeral = True

    def render_files(self, job: Job) -> dict[str, str]:
        _check_job(job)
        setup = files.expand_home(job.get_option('setup'), '--launch_option=setup')
        script = quoting.render_script(
            'tpu_job.sh',
            name=shlex.quote(_resource_name(job)),
            place=quoting.join_words(_location(job)),
            create=quoting.join_words(_create_options(job)),
            restarts=job.get_int_option('restarts', 50),
            setup=shlex.quote(setup) if setup else '',
            remote=shlex.quote(_render_remote_script(job)),
            resumable=EXIT_RESUMABLE,
        )
        return {SCRIPT_FILE: script}

    def start_commands(self, job: Job) -> list[list[str]]:
        return [['bash', str(job.folder / SCRIPT_FILE)]]

    def status_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        return [[*QUEUED_RESOURCES, 'describe', _resource_name(job), *_location(job)]]

    def log_commands(self, job: Job, output: str) -> list[list[str]]:
        """Show the workers' system journals; the script's own output is on its terminal."""
        del output
        command = '--command=journalctl --no-pager -n 50'
        return [[*TPU_VM, 'ssh', _resource_name(job), *_location(job), '--worker=all', command]]

    def cancel_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        name = _resource_name(job)
        return [[*QUEUED_RESOURCES, 'delete', name, *_location(job), '--force', '--quiet']]


def _check_job(job: Job) -> None:
    job.require_option('type', 'v5p-32')
    job.require_option('version', 'v2-alpha-tpuv5')
    if job.processes_per_node != 1:
        raise UserError(
            f'--processes: must be 1 with --launch=tpu, got {job.processes_per_node}; '
            "one process uses all of a machine's chips"
        )
    if job.nodes != 1:
        raise UserError(
            f'--nodes: must be left out with --launch=tpu, got {job.nodes}; '
            'the type of the slice determines the number of machines'
        )
    if job.trial_groups:
        raise UserError(
            '--launch=tpu: runs one model; add --trial=NAME, or start the sweep on a TPU VM itself'
        )
    if job.minutes:
        raise UserError('--minutes: is not supported by --launch=tpu')


def _resource_name(job: Job) -> str:
    """Return the job's name as Google Cloud allows: a letter, then a-z, 0-9 and -; at most 59."""
    name = re.sub('[^a-z0-9-]', '-', job.name.lower()).strip('-')[:55]
    return name if re.match('[a-z]', name) else f'run-{name}'.rstrip('-')


def _location(job: Job) -> list[str]:
    location = [f'--zone={job.require_option("zone", "us-east5-a")}']
    return location + ([f'--project={job.options["project"]}'] if job.get_option('project') else [])


def _create_options(job: Job) -> list[str]:
    options = [
        f'--node-id={_resource_name(job)}',
        f'--accelerator-type={job.options["type"]}',
        f'--runtime-version={job.options["version"]}',
    ]
    return options + [f'--{key}' for key in ('spot', 'reserved') if job.get_bool_option(key)]


def _render_remote_script(job: Job) -> str:
    return quoting.render_script(
        'tpu_worker.sh',
        folder=quoting.quote_remote_path(job.get_option('folder', 'gpt_jax')),
        exports=quoting.export_lines(job.env),
        command=quoting.join_remote_command([*job.command, '--distributed=auto']),
    )
