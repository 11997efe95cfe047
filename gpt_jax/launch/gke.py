"""Launcher for TPUs of a Kubernetes cluster: a JobSet, or the xpk command that creates one.

Each slice is a job of the set, and each of its machines is a pod. If a pod exits with code 75 or is
lost, the set is restarted and resumes from the checkpoint; invalid input, a diverged run and lack
of memory (2, 3, 4) end it. --workdir therefore has to be on a volume. The rendered JobSet is tested
against the published schema, but it has never been run on a cluster.
"""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from gpt_jax.core.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY, UserError
from gpt_jax.launch import quoting
from gpt_jax.launch.job import Job, Launcher

OPTIONS = {
    'image': 'the container image, with gpt_jax installed; required',
    'accelerator': 'node label cloud.google.com/gke-tpu-accelerator, required; e.g. tpu-v5p-slice',
    'topology': 'topology of one slice, required; for example 2x2x4',
    'slices': 'number of slices (default 1)',
    'chips': 'chips per machine (default 4)',
    'folder': 'the folder of run.py in the container (default /gpt_jax)',
    'python': 'the Python interpreter there (default python3)',
    'claim': 'a PersistentVolumeClaim for --workdir, required; mounted at the path of mount',
    'mount': 'the mount path (default /data); --workdir must be in it',
    'spot': 'yes: preemptible machines',
    'namespace': 'Kubernetes namespace (default "default")',
    'queue': 'Kueue queue',
    'restarts': 'maximum number of restarts of the set (default 50)',
    'via': 'jobset (kubectl; the default) or xpk',
    'cluster': 'xpk: name of the cluster, required',
    'type': 'xpk: type of the slice, required; for example v5p-32',
    'project': 'xpk: Google Cloud project',
    'zone': 'xpk: Google Cloud zone',
}
JOBSET_FILE = 'jobset.yaml'
FINAL_EXIT_CODES = (EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY)
TERMINATION_SECONDS = 120  # time for a pod to save after it is asked to terminate
EXAMPLE_IMAGE = 'us-docker.pkg.dev/project/images/gpt_jax'
EXAMPLE_CLUSTER = 'my-cluster'


class GkeLauncher(Launcher):
    """Run one model as a JobSet on Google Kubernetes Engine."""

    options = OPTIONS
    shared_filesystem = False
    ephemeral = True

    def render_files(self, job: Job) -> dict[str, str]:
        if job.trial_groups:
            raise UserError('--launch=gke: runs one model; add --trial=NAME')
        if job.processes_per_node != 1:
            raise UserError(
                f'--processes: must be 1 with --launch=gke, got {job.processes_per_node}; '
                "one process uses all of a machine's chips"
            )
        for key in ('folder', 'python'):
            if job.get_option(key).startswith('~'):
                raise UserError(
                    f'--launch_option={key}: must be a path without ~ with --launch=gke, got '
                    f'{job.options[key]}; the container has no shell that expands it'
                )
        via = job.get_option('via', 'jobset')
        if via not in ('jobset', 'xpk'):
            raise UserError(f'--launch_option=via: must be jobset or xpk, got {via}')
        if via == 'xpk':
            _make_xpk_command(job)  # checks the options; xpk writes its own files
            return {}
        header = '# Written by gpt_jax; kubectl apply -f this file.\n'
        return {JOBSET_FILE: header + quoting.to_yaml(make_jobset(job))}

    def start_commands(self, job: Job) -> list[list[str]]:
        if _uses_xpk(job):
            return [_make_xpk_command(job)]
        return [['kubectl', 'apply', '-f', str(job.folder / JOBSET_FILE)]]

    def status_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        return [
            _kubectl(job, 'get', 'jobset', jobset_name(job)),
            _kubectl(job, 'get', 'pods', _pod_selector(job)),
        ]

    def log_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        options = ['--prefix', '--tail=20', '--max-log-requests=64']
        return [_kubectl(job, 'logs', _pod_selector(job), *options)]

    def cancel_commands(self, job: Job, output: str) -> list[list[str]]:
        del output
        if not _uses_xpk(job):
            return [_kubectl(job, 'delete', 'jobset', jobset_name(job))]
        workload = f'--workload={jobset_name(job)}'
        return [['xpk', 'workload', 'delete', workload, *_xpk_cluster(job), '--force']]


def jobset_name(job: Job) -> str:
    """Return the job's name in lower-case letters, digits and hyphens, shortened for pod names."""
    name = re.sub('[^a-z0-9-]', '-', job.name.lower()).strip('-')[:40].strip('-')
    return name if re.match('[a-z]', name) else f'run-{name}'.rstrip('-')


def count_machines(job: Job) -> int:
    """Return the number of machines of one slice.

    Raises:
      UserError: the topology is invalid, or --nodes contradicts it.
    """
    topology = job.require_option('topology', '2x2x4')
    if not re.fullmatch(r'[1-9][0-9]*(x[1-9][0-9]*){1,2}', topology):
        raise UserError(f'--launch_option=topology: must be like 4x4 or 2x2x4, got {topology}')
    chips = math.prod(map(int, topology.split('x')))
    chips_per_machine = job.get_int_option('chips', 4)
    if chips_per_machine < 1 or (chips % chips_per_machine and chips > chips_per_machine):
        raise UserError(
            f'--launch_option=chips: must divide the {chips} chips of {topology}, '
            f'got {chips_per_machine}'
        )
    machines = max(1, chips // chips_per_machine)
    if job.nodes not in (1, machines * job.get_int_option('slices', 1)):
        raise UserError(
            f'--nodes: must be left out, got {job.nodes}; topology {topology} has {machines} '
            f'machines of {chips_per_machine} chips'
        )
    return machines


def make_jobset(job: Job) -> dict[str, Any]:
    """Return the JobSet object, of API version jobset.x-k8s.io/v1alpha2.

    Raises:
      UserError: an option is missing or invalid.
    """
    metadata: dict[str, Any] = {
        'name': jobset_name(job),
        'namespace': job.get_option('namespace', 'default'),
    }
    if job.get_option('queue'):
        metadata['labels'] = {'kueue.x-k8s.io/queue-name': job.options['queue']}
    metadata['annotations'] = {
        'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
    }
    end_rule = {
        'name': 'final',
        'action': 'FailJobSet',
        'onJobFailureReasons': ['PodFailurePolicy'],
    }
    slices = {
        'name': 'slice',
        'replicas': max(1, job.get_int_option('slices', 1)),
        'template': {'spec': _make_slice_spec(job)},
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': metadata,
        'spec': {
            'failurePolicy': {
                'maxRestarts': job.get_int_option('restarts', 50),
                'rules': [end_rule],
            },
            'replicatedJobs': [slices],
        },
    }


def _make_slice_spec(job: Job) -> dict[str, Any]:
    """Return the Kubernetes job of one slice: one pod per machine."""
    machines = count_machines(job)
    exit_codes = {'operator': 'In', 'values': sorted(FINAL_EXIT_CODES)}
    time_limit = {'activeDeadlineSeconds': 60 * job.minutes} if job.minutes else {}
    return {
        'parallelism': machines,
        'completions': machines,
        'completionMode': 'Indexed',
        'backoffLimit': 0,
        'podFailurePolicy': {'rules': [{'action': 'FailJob', 'onExitCodes': exit_codes}]},
        **time_limit,
        'template': {'spec': _make_pod_spec(job)},
    }


def _make_pod_spec(job: Job) -> dict[str, Any]:
    mount, claim = job.get_option('mount', '/data'), job.require_option('claim', 'data')
    _check_workdir(job, mount)
    selector = {
        'cloud.google.com/gke-tpu-accelerator': job.require_option('accelerator', 'tpu-v5p-slice'),
        'cloud.google.com/gke-tpu-topology': job.options['topology'],
    }
    if job.get_bool_option('spot'):
        selector['cloud.google.com/gke-spot'] = 'true'
    words = [*job.command, '--distributed=auto']
    container = {
        'name': 'train',
        'image': job.require_option('image', EXAMPLE_IMAGE),
        'workingDir': quoting.check_argument(job.get_option('folder', '/gpt_jax')),
        'command': [quoting.escape_kubernetes(word) for word in words],
        **({'env': _make_env(job)} if job.env else {}),
        'resources': {'limits': {'google.com/tpu': job.get_int_option('chips', 4)}},
        'volumeMounts': [{'name': 'data', 'mountPath': mount}],
    }
    return {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': TERMINATION_SECONDS,
        'nodeSelector': selector,
        'containers': [container],
        'volumes': [{'name': 'data', 'persistentVolumeClaim': {'claimName': claim}}],
    }


def _check_workdir(job: Job, mount: str) -> None:
    for word in job.command:
        if not word.startswith('--workdir='):
            continue
        if not PurePosixPath(word.removeprefix('--workdir=')).is_relative_to(mount):
            raise UserError(
                f'{word}: must be in {mount}, where the claim is mounted; '
                'other folders are lost with their pod'
            )


def _make_env(job: Job) -> list[dict[str, str]]:
    quoting.check_env_names(job.env)
    return [{'name': key, 'value': quoting.escape_kubernetes(job.env[key])} for key in job.env]


def _uses_xpk(job: Job) -> bool:
    return job.get_option('via') == 'xpk'


def _xpk_cluster(job: Job) -> list[str]:
    options = [f'--{key}={job.options[key]}' for key in ('project', 'zone') if job.get_option(key)]
    return [f'--cluster={job.require_option("cluster", EXAMPLE_CLUSTER)}', *options]


def _make_xpk_command(job: Job) -> list[str]:
    quoting.check_env_names(job.env)
    folder = job.get_option('folder', '/gpt_jax')
    for word in (*job.command, *job.env.values(), folder):
        if '$' in word or not word.isprintable():  # xpk pastes the command into a file of its own
            raise UserError(f'{word!r}: would be changed by xpk; use --launch_option=via=jobset')
    run = quoting.join_words([*job.command, '--distributed=auto'])
    return [
        'xpk',
        'workload',
        'create',
        f'--workload={jobset_name(job)}',
        *_xpk_cluster(job),
        f'--tpu-type={job.require_option("type", "v5p-32")}',
        f'--num-slices={job.get_int_option("slices", 1)}',
        f'--docker-image={job.require_option("image", EXAMPLE_IMAGE)}',
        f'--max-restarts={job.get_int_option("restarts", 50)}',
        '--restart-on-user-code-failure',
        f'--termination-grace-period-seconds={TERMINATION_SECONDS}',
        *(['--spot'] if job.get_bool_option('spot') else []),
        *(f'--env={key}={value}' for key, value in job.env.items()),
        f'--command=cd {quoting.join_words([folder])} && exec {run}',
    ]


def _kubectl(job: Job, *words: str) -> list[str]:
    return ['kubectl', '--namespace', job.get_option('namespace', 'default'), *words]


def _pod_selector(job: Job) -> str:
    return f'--selector=jobset.sigs.k8s.io/jobset-name={jobset_name(job)}'
