"""How does a job run under Slurm? One batch script, written here: saved before the time is up, queued again, gone on.

A model is one step over nodes x processes, which meet through `--distributed=auto`. A sweep is a job array: a task for
each trial (a trunk and its branches are one), through the same ledger as a sweep on one machine. Before the time limit
the batch script gets SIGTERM and hands it to the step; a run that then leaves with 75, or lost a process, is queued
again; what a dead node takes with it, Slurm queues again itself.
"""

import shlex

from gpt_jax.errors import EXIT_RESUMABLE, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job

# Options of sbatch that are passed on as they are.
SBATCH = ('partition', 'account', 'qos', 'constraint', 'reservation', 'gpus-per-node', 'cpus-per-task', 'mem',
          'nodelist', 'exclude', 'gres')  # fmt: skip
OPTIONS = {
    **dict.fromkeys(SBATCH, 'as sbatch has it'),
    'grace': 'seconds before the time limit at which the run is told to save (120)',
    'restarts': 'how often a run is queued again before it is left as it is (50)',
    'idle': 'how often in a row without a new checkpoint (5)',
    'at_once': 'tasks of a job array that may run at the same time (all)',
    'setup': 'a file that the batch script sources first, to load modules, say',
}
SCRIPT, STEP = 'job.sbatch', 'step.sh'

STEP_TEXT = """\
#!/bin/bash
# Runs its arguments as one step of this job, on all of its processes. SIGTERM goes to them, who save and leave: srun
# itself would kill them.
id=$SLURM_JOB_ID
[ -z "${{SLURM_ARRAY_JOB_ID:-}}" ] || id=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
unset GPT_JAX_STEP GPT_JAX_SWEEP  # what they say is of this machine
for left in $(squeue --noheader --steps --format=%i --jobs="$id" 2>/dev/null); do
  case "$left" in *.batch | *.extern) ;; *) scancel "$left" ;; esac  # of a step before, whose srun was killed
done
srun --nodes={nodes} --ntasks={tasks} --kill-on-bad-exit=0 --wait={wait} --label "$@" &
step=$!
trap 'scancel --signal=TERM "$id"' TERM
until wait "$step"; ! kill -0 "$step" 2>/dev/null; do :; done
wait "$step"; code=$?  # of itself: a signal that came meanwhile ends the wait before
exit "$code"
"""

BODY = """\
# Written by gpt_jax. The same command may be queued any number of times: it goes on where it stopped.
id=$SLURM_JOB_ID
[ -z "${{SLURM_ARRAY_JOB_ID:-}}" ] || id=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
{setup}
cd {cwd} || exit 2
folder={folder} idle={folder}/launch/idle-$id began={folder}/launch/began-$id
: >"$began"
{run} &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
until wait "$child"; ! kill -0 "$child" 2>/dev/null; do :; done
wait "$child"; code=$?  # of itself: a signal that came meanwhile ends the wait before

# 75: saved, to go on; beyond 128: a process was killed. A job that was cancelled is no longer running.
state=$(squeue --noheader --format=%T --jobs="$id" 2>/dev/null)
if {{ [ "$code" -eq {resumable} ] || [ "$code" -gt 128 ]; }} && [ "$state" = RUNNING ]; then
  # One process may have failed for good while the others only say that they lost it: then nothing new is saved.
  if [ -n "$(find "$folder" -newer "$began" '(' -name manifest.json -o -name summary.json ')' -print -quit)" ]; then
    rm -f "$idle"
  else
    echo "$code" >>"$idle"
  fi
  if [ -e "$idle" ] && [ "$(wc -l <"$idle")" -ge {idle} ]; then
    echo "job $id: exit code $code, {idle} times without a new checkpoint; left as it is" >&2
  elif [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    echo "job $id: exit code $code, queued again" >&2
    scontrol requeue "$id" && sleep 30
  else
    echo "job $id: exit code $code after {restarts} restarts; left as it is" >&2
  fi
fi
exit "$code"
"""


def files(job: Job) -> dict[str, str]:
    """The batch script, and the script that runs one step of it.

    Raises:
      UserError: an option that Slurm would read otherwise than it is written.
    """
    if job.minutes and job.minutes * 60 <= job.number('grace', 120):
        raise UserError(
            f'--minutes={job.minutes}: leaves no time before the {job.option("grace", "120")} s that are kept for '
            f'saving; give more, or a smaller --launch_option=grace=SECONDS'
        )
    head = [
        '#!/bin/bash',
        *(f'#SBATCH --{option}' for option in _sbatch(job)),
    ]
    setup = [
        *quoting.exports(job.env),
        *([f'. {shlex.quote(job.option("setup"))} || exit 2'] if job.option('setup') else []),
    ]
    body = BODY.format(
        setup='\n'.join(setup), cwd=quoting.words([str(job.cwd)]), run=_run(job), resumable=EXIT_RESUMABLE,
        restarts=job.number('restarts', 50),
        folder=quoting.words([str(job.folder.parent)]), idle=job.number('idle', 5),
    )  # fmt: skip
    step = STEP_TEXT.format(nodes=job.nodes, tasks=job.tasks, wait=max(60, job.number('grace', 120)))
    return {SCRIPT: '\n'.join(head) + '\n' + body, STEP: step}


def _sbatch(job: Job) -> list[str]:
    made = [f'job-name={job.name}', f'nodes={job.nodes}', f'ntasks-per-node={job.processes}']
    if job.minutes:
        made += [f'time={job.minutes}', f'signal=B:TERM@{job.number("grace", 120)}']
    if job.parts:
        at_once = f'%{job.number("at_once", 1)}' if job.option('at_once') else ''
        made.append(f'array=0-{len(job.parts) - 1}{at_once}')
    made += ['requeue', 'open-mode=append']
    return made + [f'{key}={quoting.plain(job.options[key], key)}' for key in SBATCH if job.option(key)]


def _run(job: Job) -> str:
    step = quoting.words(['bash', str(job.folder / STEP)])
    if not job.parts:
        return f'{step} {quoting.words([*job.command, "--distributed=auto"])}'
    names = '\n'.join(f"  '{part}'" for part in job.parts)  # of letters, digits and . _ - only
    task = f'parts=(\n{names}\n)\n'
    if job.tasks > 1:
        task += f'export GPT_JAX_STEP={quoting.words([str(job.folder / STEP)])}\n'  # modes/launching.py reads it
    return f'{task}{quoting.words(job.command)} "--only=${{parts[SLURM_ARRAY_TASK_ID]}}"'


def start(job: Job) -> list[list[str]]:
    pattern = '%A_%a.log' if job.parts else '%j.log'
    output = str(job.folder).replace('%', '%%') + '/' + pattern
    return [
        [
            'sbatch',
            '--parsable',
            f'--chdir={job.cwd}',
            f'--output={output}',
            f'--error={output}',
            str(job.folder / SCRIPT),
        ]
    ]


def _id(started: str) -> str:
    """sbatch --parsable prints NUMBER or NUMBER;CLUSTER."""
    number = started.strip().partition(';')[0]
    if not number.isdigit():
        raise UserError(f'{started.strip()!r}: not what sbatch prints of a job; was it started with --launch=slurm?')
    return number


def status(_: Job, started: str) -> list[list[str]]:
    return [['squeue', '--array', f'--jobs={_id(started)}', '--format=%.14i %.24j %.10T %.10M %.4r %R']]


def logs(job: Job, started: str) -> list[list[str]]:
    """The last lines of each task's log; the newest words of a job of one task."""
    names = [f'{_id(started)}_{task}.log' for task in range(len(job.parts))] or [f'{_id(started)}.log']
    there = [str(job.folder / name) for name in names if (job.folder / name).exists()]
    return [['tail', '-n', '20', '--', *there]] if there else []


def cancel(_: Job, started: str) -> list[list[str]]:
    return [['scancel', _id(started)]]
