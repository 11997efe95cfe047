"""How does a job run on TPUs of a Kubernetes cluster? A JobSet, or the xpk command that makes one.

Every slice is a job of the set, every machine of it a pod; when a pod leaves with 75, or is lost, the set is started
again and goes on from the checkpoint; bad input, a diverged run and too little memory (2, 3, 4) end it. So --workdir
has to be a volume. Rendered and checked against the published schema; never run by its authors.
"""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from gpt_jax.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job

OPTIONS = {
    'image': 'the container, with gpt_jax installed in it, needed',
    'accelerator': 'the node label cloud.google.com/gke-tpu-accelerator, needed: tpu-v5p-slice, say',
    'topology': 'of one slice, needed: 2x2x4, say',
    'slices': 'how many (1)',
    'chips': 'of one machine (4)',
    'folder': 'where run.py lies in the container (/gpt_jax)',
    'python': 'the interpreter there (python3)',
    'claim': 'a PersistentVolumeClaim for --workdir, needed, mounted at --launch_option=mount',
    'mount': 'where (/data); --workdir is a folder in it',
    'spot': 'yes: machines that may be taken away',
    'namespace': 'of Kubernetes (default)',
    'queue': 'of Kueue',
    'restarts': 'how often the set is started again at most (50)',
    'via': 'jobset (kubectl, by itself), or xpk',
    'cluster': 'xpk: its name, needed there',
    'type': 'xpk: of the slice, needed there: v5p-32, say',
    'project': 'xpk: of Google Cloud',
    'zone': 'xpk: of Google Cloud',
}
FILE = 'jobset.yaml'
FINAL = (EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY)


def files(job: Job) -> dict[str, str]:
    """The JobSet; none for xpk, which writes its own.

    Raises:
      UserError: an option is missing, or does not fit.
    """
    if job.parts:
        raise UserError('--launch=gke: runs one model; add --trial=NAME')
    if job.processes != 1:
        raise UserError(f'--processes={job.processes}: a machine with TPUs takes one process, which has all its chips')
    if job.option('via', 'jobset') not in ('jobset', 'xpk'):
        raise UserError(f'--launch_option=via={job.options["via"]}: jobset or xpk')
    if job.option('spot', 'no') not in ('yes', 'no'):
        raise UserError(f'--launch_option=spot={job.options["spot"]}: yes or no')
    if job.option('via') == 'xpk':
        _xpk(job)
        return {}
    return {FILE: '# Written by gpt_jax; kubectl apply -f this file.\n' + quoting.yaml(jobset(job))}


def name(job: Job) -> str:
    """The job's name as Kubernetes wants it: small letters, digits and hyphens; short, since pods add to it."""
    made = re.sub('[^a-z0-9-]', '-', job.name.lower()).strip('-')[:40].strip('-')
    return made if re.match('[a-z]', made) else f'run-{made}'.rstrip('-')


def machines(job: Job) -> int:
    """Of one slice.

    Raises:
      UserError: a topology that is none, or that --nodes contradicts.
    """
    topology = job.needs('topology', '2x2x4')
    if not re.fullmatch(r'[1-9][0-9]*(x[1-9][0-9]*){1,2}', topology):
        raise UserError(f'--launch_option=topology={topology}: wants 4x4 or 2x2x4')
    chips, each = math.prod(map(int, topology.split('x'))), job.number('chips', 4)
    if each < 1 or (chips % each and chips > each):
        raise UserError(f'--launch_option=chips={each}: does not divide the {chips} chips of {topology}')
    made = max(1, chips // each)
    if job.nodes not in (1, made * job.number('slices', 1)):
        raise UserError(f'--nodes={job.nodes}: {topology} has {made} machines of {each} chips; leave it out')
    return made


def jobset(job: Job) -> dict[str, Any]:
    """The object, in jobset.x-k8s.io/v1alpha2."""
    count = machines(job)
    labels = {'kueue.x-k8s.io/queue-name': job.options['queue']} if job.option('queue') else {}
    metadata = {
        'name': name(job),
        'namespace': job.option('namespace', 'default'),
        **({'labels': labels} if labels else {}),
        'annotations': {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'},
    }
    failed = {'name': 'final', 'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}
    of_slice = {
        'parallelism': count,
        'completions': count,
        'completionMode': 'Indexed',
        'backoffLimit': 0,
        'podFailurePolicy': {
            'rules': [{'action': 'FailJob', 'onExitCodes': {'operator': 'In', 'values': sorted(FINAL)}}]
        },
        **({'activeDeadlineSeconds': 60 * job.minutes} if job.minutes else {}),
        'template': {'spec': _pod(job)},
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': metadata,
        'spec': {
            'failurePolicy': {'maxRestarts': job.number('restarts', 50), 'rules': [failed]},
            'replicatedJobs': [
                {'name': 'slice', 'replicas': max(1, job.number('slices', 1)), 'template': {'spec': of_slice}}
            ],
        },
    }


def _pod(job: Job) -> dict[str, Any]:
    chips, mount = job.number('chips', 4), job.option('mount', '/data')
    claim = job.needs('claim', 'data')
    for word in job.command:
        folder = PurePosixPath(word.removeprefix('--workdir='))
        if word.startswith('--workdir=') and not folder.is_relative_to(mount):
            raise UserError(f'{word}: goes with its pod; a folder in {mount}, where the claim is mounted, stays')
    selector = {
        'cloud.google.com/gke-tpu-accelerator': job.needs('accelerator', 'tpu-v5p-slice'),
        'cloud.google.com/gke-tpu-topology': job.options['topology'],
        **({'cloud.google.com/gke-spot': 'true'} if job.option('spot') == 'yes' else {}),
    }
    container = {
        'name': 'train',
        'image': job.needs('image', 'us-docker.pkg.dev/project/images/gpt_jax'),
        'workingDir': quoting.checked(job.option('folder', '/gpt_jax')),
        'command': [quoting.kubernetes(word) for word in [*job.command, '--distributed=auto']],
        **({'env': _env(job)} if job.env else {}),
        'resources': {'limits': {'google.com/tpu': chips}},
        'volumeMounts': [{'name': 'data', 'mountPath': mount}],
    }
    return {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': 120,  # in which a pod that is asked to leave saves
        'nodeSelector': selector,
        'containers': [container],
        'volumes': [{'name': 'data', 'persistentVolumeClaim': {'claimName': claim}}],
    }


def _env(job: Job) -> list[dict[str, str]]:
    quoting.exports(job.env)  # raises for a name that is none
    return [{'name': key, 'value': quoting.kubernetes(value)} for key, value in job.env.items()]


def _place(job: Job) -> list[str]:
    return [f'--{key}={job.options[key]}' for key in ('project', 'zone') if job.option(key)]


def _xpk(job: Job) -> list[str]:
    quoting.exports(job.env)
    folder = job.option('folder', '/gpt_jax')
    for word in (*job.command, *job.env.values(), folder):
        if '$' in word or not word.isprintable():  # xpk pastes the command into a file of its own
            raise UserError(f'{word!r}: xpk would not pass it on as it is; use --launch_option=via=jobset')
    command = f'cd {quoting.words([folder])} && exec {quoting.words([*job.command, "--distributed=auto"])}'
    return [
        'xpk', 'workload', 'create', f'--workload={name(job)}', f'--cluster={job.needs("cluster", "my-cluster")}',
        *_place(job), f'--tpu-type={job.needs("type", "v5p-32")}', f'--num-slices={job.number("slices", 1)}',
        f'--docker-image={job.needs("image", "us-docker.pkg.dev/project/images/gpt_jax")}',
        f'--max-restarts={job.number("restarts", 50)}', '--restart-on-user-code-failure',
        '--termination-grace-period-seconds=120', *(['--spot'] if job.option('spot') == 'yes' else []),
        *(f'--env={key}={value}' for key, value in job.env.items()), f'--command={command}',
    ]  # fmt: skip


def start(job: Job) -> list[list[str]]:
    if job.option('via') == 'xpk':
        return [_xpk(job)]
    return [['kubectl', 'apply', '-f', str(job.folder / FILE)]]


def _kubectl(job: Job, *words: str) -> list[str]:
    return ['kubectl', '--namespace', job.option('namespace', 'default'), *words]


def _pods(job: Job) -> str:
    return f'--selector=jobset.sigs.k8s.io/jobset-name={name(job)}'


def status(job: Job, _: str) -> list[list[str]]:
    return [_kubectl(job, 'get', 'jobset', name(job)), _kubectl(job, 'get', 'pods', _pods(job))]


def logs(job: Job, _: str) -> list[list[str]]:
    return [_kubectl(job, 'logs', _pods(job), '--prefix', '--tail=20', '--max-log-requests=64')]


def cancel(job: Job, _: str) -> list[list[str]]:
    if job.option('via') == 'xpk':
        cluster = job.needs('cluster', 'my-cluster')
        return [
            ['xpk', 'workload', 'delete', f'--workload={name(job)}', f'--cluster={cluster}', *_place(job), '--force']
        ]
    return [_kubectl(job, 'delete', 'jobset', name(job))]
