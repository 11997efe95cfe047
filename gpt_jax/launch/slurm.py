"""Launcher for Slurm: a batch script that saves before the time limit, requeues and resumes.

A model is one job step of nodes x processes, which connect through `--distributed=auto`. A sweep is
a job array with one task per trial (a trunk and its branches share a task), and uses the same
ledger as a sweep on one machine. Before the time limit, the batch script receives SIGTERM and
passes it on to the step. The script requeues a run that then exits with code 75 or that lost a
process; Slurm itself requeues the job of a dead node.
"""

import shlex

from gpt_jax.core import files
from gpt_jax.core.errors import EXIT_RESUMABLE, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job, Launcher
from gpt_jax.launch.local import LOG_LINES

SBATCH_OPTIONS = (  # passed on unchanged
    'partition',
    'account',
    'qos',
    'constraint',
    'reservation',
    'gpus-per-node',
    'cpus-per-task',
    'mem',
    'nodelist',
    'exclude',
    'gres',
)
OPTIONS = {
    **dict.fromkeys(SBATCH_OPTIONS, 'passed to sbatch'),
    'grace': 'seconds before the time limit at which the run is asked to save (default 120)',
    'restarts': 'maximum number of requeues of a run (default 50)',
    'idle': 'maximum number of requeues in a row without a new checkpoint (default 5)',
    'at_once': 'number of array tasks that may run at the same time (default all)',
    'setup': 'a file that the batch script sources first, for example to load modules',
}
GRACE_SECONDS = 120
SCRIPT_FILE, STEP_FILE = 'job.sbatch', 'step.sh'


class SlurmLauncher(Launcher):
    """Submit batch jobs and job arrays with sbatch."""

    options = OPTIONS
    captures_output = True  # sbatch prints the job id

    def render_files(self, job: Job) -> dict[str, str]:
        grace = job.get_int_option('grace', GRACE_SECONDS)
        if job.minutes and job.minutes * 60 <= grace:
            raise UserError(
                f'--minutes: must be more than the {grace} s reserved for saving, '
                f'got {job.minutes}; reduce --launch_option=grace=SECONDS'
            )
        setup = quoting.export_lines(job.env)
        if job.get_option('setup'):
            path = files.expand_home(job.options['setup'], '--launch_option=setup')
            setup.append(f'. {shlex.quote(path)} || exit 2')
        script = quoting.render_script(
            'slurm_job.sh',
            sbatch_options=_sbatch_options(job),
            setup='\n'.join(setup),
            cwd=quoting.join_words([str(job.cwd)]),
            run=_run_command(job),
            resumable=EXIT_RESUMABLE,
            restarts=job.get_int_option('restarts', 50),
            folder=quoting.join_words([str(job.folder.parent)]),
            idle=job.get_int_option('idle', 5),
        )
        step = quoting.render_script(
            'slurm_step.sh', nodes=job.nodes, tasks=job.total_processes, wait=max(60, grace)
        )
        return {SCRIPT_FILE: script, STEP_FILE: step}

    def start_commands(self, job: Job) -> list[list[str]]:
        pattern = '%A_%a.log' if job.trial_groups else '%j.log'
        output = str(job.folder).replace('%', '%%') + '/' + pattern
        files = [f'--chdir={job.cwd}', f'--output={output}', f'--error={output}']
        return [['sbatch', '--parsable', *files, str(job.folder / SCRIPT_FILE)]]

    def status_commands(self, job: Job, output: str) -> list[list[str]]:
        del job
        columns = '%.14i %.24j %.10T %.10M %.4r %R'
        return [['squeue', '--array', f'--jobs={_parse_job_id(output)}', f'--format={columns}']]

    def log_commands(self, job: Job, output: str) -> list[list[str]]:
        job_id = _parse_job_id(output)
        names = [f'{job_id}_{task}.log' for task in range(len(job.trial_groups))]
        paths = [job.folder / name for name in names or [f'{job_id}.log']]
        logs = [str(path) for path in paths if path.exists()]
        return [['tail', '-n', LOG_LINES, '--', *logs]] if logs else []

    def cancel_commands(self, job: Job, output: str) -> list[list[str]]:
        del job
        return [['scancel', _parse_job_id(output)]]


def _sbatch_options(job: Job) -> list[str]:
    options = [f'job-name={job.name}', f'nodes={job.nodes}']
    options.append(f'ntasks-per-node={job.processes_per_node}')
    if job.minutes:
        grace = job.get_int_option('grace', GRACE_SECONDS)
        options += [f'time={job.minutes}', f'signal=B:TERM@{grace}']
    if job.trial_groups:
        at_once = f'%{job.get_int_option("at_once", 1)}' if job.get_option('at_once') else ''
        options.append(f'array=0-{len(job.trial_groups) - 1}{at_once}')
    options += ['requeue', 'open-mode=append']
    return options + [
        f'{key}={quoting.check_plain(job.options[key], key)}'
        for key in SBATCH_OPTIONS
        if job.get_option(key)
    ]


def _run_command(job: Job) -> str:
    """Return the shell lines that run the model, or the array task's own trials."""
    step_path = str(job.folder / STEP_FILE)
    if not job.trial_groups:
        command = quoting.join_words([*job.command, '--distributed=auto'])
        return f'{quoting.join_words(["bash", step_path])} {command}'
    # Trial names have only letters, digits and . _ -
    groups = '\n'.join(f"  '{group}'" for group in job.trial_groups)
    lines = f'parts=(\n{groups}\n)\n'
    if job.total_processes > 1:
        # The sweep starts each trial through this script; see cli/launch.py.
        lines += f'export GPT_JAX_STEP={quoting.join_words([step_path])}\n'
    command = quoting.join_words(job.command)
    return f'{lines}{command} "--trials=${{parts[SLURM_ARRAY_TASK_ID]}}"'


def _parse_job_id(output: str) -> str:
    """Parse what sbatch --parsable prints: NUMBER or NUMBER;CLUSTER."""
    job_id = output.strip().partition(';')[0]
    if not job_id.isdigit():
        raise UserError(f'--job: must have the job id that sbatch printed, got {output.strip()!r}')
    return job_id
