"""How does a job run on TPU VMs? A script of gcloud commands: ask for the machines, run on all, again when interrupted.

A spot slice that is taken away is deleted and asked for anew, and the run goes on from its checkpoint; so --workdir
has to be a folder that outlives the machines, a mounted bucket, say. Rendered and checked; never run by its authors.
"""

import re
import shlex

from gpt_jax.errors import EXIT_RESUMABLE, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job

OPTIONS = {
    'zone': 'of Google Cloud, needed: us-east5-a, say',
    'type': 'of the slice, --accelerator-type, needed: v5p-32, say',
    'version': 'of the runtime, --runtime-version, needed: v2-alpha-tpuv5, say',
    'project': "of Google Cloud (gcloud's own setting)",
    'spot': 'yes: cheap machines that may be taken away, and are asked for again',
    'reserved': 'yes: of what the project has reserved',
    'setup': 'a script of this machine that every worker runs first, to bring gpt_jax and the data, say',
    'folder': 'where run.py lies on the workers, from the home folder (gpt_jax)',
    'python': 'the interpreter there (python3)',
    'restarts': 'how often the run is started again at most (50)',
}
SCRIPT = 'tpu.sh'

# The coordinator listens on the address of its own network card, not on all.
REMOTE = """\
cd {folder} || exit 2
export JAX_COORDINATOR_PORT=8476 JAX_COORDINATOR_BIND_ADDRESS="$(hostname -I | cut -d ' ' -f 1):8476"
{exports}exec {command} 2>&1
"""

TEXT = """\
#!/bin/bash
# Written by gpt_jax. Holds the slice until the run has ended; it can be run again, and takes up what is there.
name={name}
place=({place})

state() {{
  gcloud compute tpus queued-resources describe "$name" "${{place[@]}}" --format='value(state.state)' 2>/dev/null
}}

remove() {{
  gcloud compute tpus queued-resources delete "$name" "${{place[@]}}" --force --quiet
}}

# Returns when the slice is there; asks for it, again where it was taken away.
obtain() {{
  while true; do
    case "$(state)" in
      ACTIVE) return 0 ;;
      '') gcloud compute tpus queued-resources create "$name" "${{place[@]}}" {create} || return 1 ;;
      FAILED | SUSPENDED) remove || return 1 ;;
    esac
    sleep 30
  done
}}

on_all() {{
  gcloud compute tpus tpu-vm ssh "$name" "${{place[@]}}" --worker=all --command="$1"
}}

code=1
for attempt in $(seq 0 {restarts}); do
  echo "$name: start $attempt" >&2
  obtain || exit 1
{setup}  on_all {remote}
  code=$?
  # 75 is saved, to go on; 2, 3 and 4 would only happen again; anything else may be a slice that was taken away.
  case "$code" in 0 | 2 | 3 | 4) break ;; esac
  [ "$code" -eq {resumable} ] || [ "$(state)" != ACTIVE ] || sleep 60
done
case "$code" in 0 | 2 | 3 | 4) remove ;; esac
exit "$code"
"""


def files(job: Job) -> dict[str, str]:
    """The script.

    Raises:
      UserError: an option is missing, or does not fit.
    """
    _fits(job)
    restarts, setup = job.number('restarts', 50), ''
    if job.option('setup'):
        script = shlex.quote(quoting.checked(job.options['setup']))
        copy = f'gcloud compute tpus tpu-vm scp {script} "$name":gpt_jax_setup.sh "${{place[@]}}" --worker=all'
        setup = f"  {copy} || continue\n  on_all 'bash gpt_jax_setup.sh' || continue\n"
    text = TEXT.format(
        name=shlex.quote(_name(job)), place=quoting.words(_place(job)), create=quoting.words(_create(job)),
        restarts=restarts, setup=setup, remote=shlex.quote(_remote(job)), resumable=EXIT_RESUMABLE,
    )  # fmt: skip
    return {SCRIPT: text}


def _fits(job: Job) -> None:
    job.needs('type', 'v5p-32')
    job.needs('version', 'v2-alpha-tpuv5')
    for option in ('spot', 'reserved'):
        if job.option(option, 'no') not in ('yes', 'no'):
            raise UserError(f'--launch_option={option}={job.options[option]}: yes or no')
    if job.processes != 1:
        raise UserError(f'--processes={job.processes}: a TPU VM takes one process, which has all of its chips')
    if job.nodes != 1:
        raise UserError(f'--nodes={job.nodes}: the type of the slice says how many machines there are; leave it out')
    if job.parts:
        raise UserError('--launch=tpu: runs one model; add --trial=NAME, or start the sweep on a TPU VM itself')
    if job.minutes:
        raise UserError(f'--minutes={job.minutes}: --launch=tpu knows no time limit')


def _name(job: Job) -> str:
    """The job's name in the letters of Google Cloud: small ones, digits, hyphens, a letter first, 61 at most."""
    name = re.sub('[^a-z0-9-]', '-', job.name.lower()).strip('-')[:55]
    return name if re.match('[a-z]', name) else f'run-{name}'.rstrip('-')


def _place(job: Job) -> list[str]:
    place = [f'--zone={job.needs("zone", "us-east5-a")}']
    return place + ([f'--project={job.options["project"]}'] if job.option('project') else [])


def _create(job: Job) -> list[str]:
    create = [f'--node-id={_name(job)}', f'--accelerator-type={job.options["type"]}']
    create.append(f'--runtime-version={job.options["version"]}')
    create += ['--spot'] if job.option('spot') == 'yes' else []
    return create + (['--reserved'] if job.option('reserved') == 'yes' else [])


def _remote(job: Job) -> str:
    exports = ''.join(f'{line}\n' for line in quoting.exports(job.env))
    command = quoting.words([*job.command, '--distributed=auto'])
    folder = shlex.quote(quoting.checked(job.option('folder', 'gpt_jax')))
    return REMOTE.format(folder=folder, exports=exports, command=command)


def start(job: Job) -> list[list[str]]:
    return [['bash', str(job.folder / SCRIPT)]]


def status(job: Job, _: str) -> list[list[str]]:
    return [['gcloud', 'compute', 'tpus', 'queued-resources', 'describe', _name(job), *_place(job)]]


def logs(job: Job, _: str) -> list[list[str]]:
    """What the script prints is at its terminal; here: what the workers' systems say."""
    tail = 'journalctl --no-pager -n 50'
    return [
        ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', _name(job), *_place(job), '--worker=all', f'--command={tail}']
    ]


def cancel(job: Job, _: str) -> list[list[str]]:
    return [['gcloud', 'compute', 'tpus', 'queued-resources', 'delete', _name(job), *_place(job), '--force', '--quiet']]
