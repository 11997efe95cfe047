"""Does a job live under a real Slurm: many processes, arrays, time limits, dead nodes, and to the same last bit?

`pytest -m slow -n 0 -s tests/launch/test_slurm_cluster.py`; Debian's slurm-wlm and munge, as root.
"""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter

import pytest

from gpt_jax import jsonl
from gpt_jax.launch.local import free_port
from tests import program
from tests.launch import slurm_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or 'all there'),
]
PATIENCE = 300  # seconds
STEPS = 300
SWEEP = """
from configs import ladder_cpu

def get_config():
    config = ladder_cpu.get_config()
    config.sweep.trials = tuple(
        {{**trial, 'model.context': 32, 'train.tokens': 0, 'train.steps': 30, 'train.batch': 8, 'train.microbatch': 0}}
        for trial in config.sweep.trials[:{count}]
    )
    return config
"""


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    ports = (free_port(), free_port(), free_port())
    with slurm_cluster.cluster(tmp_path_factory.mktemp('slurm'), ports) as made:
        yield made


def command(workdir, source, *more, **fields):
    """A run of some seconds on two processes of one device each."""
    fields = {
        'config.data.source': source, 'config.train.steps': STEPS, 'config.train.checkpoint_every': 20,
        'config.train.log_every': 20, 'config.train.evaluate_every': 0, 'config.mesh.cpu_devices': 1,
        'config.train.stall_minutes': 1.0,
    } | fields  # fmt: skip
    return [*program.command(workdir, **fields), '--launch=slurm', *more]


def launched(cluster, argv, code=0):
    """What the launcher says; the number of the job it started is in it."""
    done = subprocess.run(argv, env=cluster.env, text=True, capture_output=True, cwd=program.ROOT, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def number(said):
    return re.search(r'sbatch: (\d+)', said)[1]


def step_of(workdir):
    """The newest step that the run's metrics hold."""
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])['step'] if lines else 0


def finished(cluster, workdir, job):
    cluster.wait(f'{workdir} done', lambda: (workdir / 'summary.json').exists() or cluster.hurry(job), PATIENCE)
    cluster.wait(f'job {job} gone', lambda: cluster.state(job) in ('', 'COMPLETED'), 60)
    return program.summary(workdir)


@pytest.fixture(scope='module')
def whole(cluster, tmp_path_factory, source):
    """The summary of a run over both nodes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp('whole') / 'run'
    said = launched(cluster, command(workdir, source, '--nodes=2'))
    done = finished(cluster, workdir, number(said))
    assert done['processes'] == 2
    assert 'done' in launched(cluster, command(workdir, source, '--job=status'))
    logs = launched(cluster, command(workdir, source, '--job=logs'))
    assert f'step {STEPS}/{STEPS}' in logs
    assert {line[:2] for line in logs.splitlines() if 'compiled in' in line} <= {'0:', '1:'}
    return done, (workdir / 'metrics.jsonl').read_bytes()


def same(workdir, whole):
    done, metrics = whole
    assert program.summary(workdir)['parameters_sha256'] == done['parameters_sha256']
    assert (workdir / 'metrics.jsonl').read_bytes() == metrics


def test_before_the_time_limit_it_saves_and_is_queued_again(cluster, tmp_path, source, whole):
    """The real limit once; and three times SIGTERM as Slurm sends it before the limit."""
    workdir = tmp_path / 'run'
    more = ('--nodes=2', '--minutes=2', '--launch_option=grace=60')
    job = number(launched(cluster, command(workdir, source, *more, **{'config.train.steps': 3000})))
    cluster.wait('the time limit', lambda: cluster.restarts(job) >= 1, 240)
    log = (workdir / 'launch' / f'{job}.log').read_text()
    assert 'exit code 75, queued again' in log
    assert 'stopped and saved at step' in log
    launched(cluster, command(workdir, source, '--job=cancel'))
    # The same run, of the length of the whole one, with signals at chosen moments.
    workdir = tmp_path / 'short'
    job = number(launched(cluster, command(workdir, source, '--nodes=2')))
    survived = terminated(cluster, workdir, job, 3)
    finished(cluster, workdir, job)
    same(workdir, whole)
    print(f'{survived} terminations and requeues survived bitwise')
    assert survived >= 2


def progressed(cluster, workdir, job, seen):
    return step_of(workdir) > seen or (workdir / 'summary.json').exists() or cluster.hurry(job)


def terminated(cluster, workdir, job, times):
    survived, seen = 0, 0
    for _ in range(times):
        seen = cluster.wait(
            'progress', lambda seen=seen: progressed(cluster, workdir, job, seen), PATIENCE
        ) and step_of(workdir)
        if (workdir / 'summary.json').exists():
            break
        before = cluster.restarts(job)
        cluster.run('scancel', '--signal=TERM', '--batch', job, check=False)
        try:
            cluster.wait('queued again', lambda before=before: cluster.restarts(job) > before, 90)
        except TimeoutError:
            if not (workdir / 'summary.json').exists():
                raise
            break
        survived += 1
    return survived


def test_a_node_that_dies_is_survived(cluster, tmp_path, source, whole):
    workdir = tmp_path / 'run'
    job = number(launched(cluster, command(workdir, source, '--nodes=2')))
    cluster.wait('progress', lambda: step_of(workdir) >= 50, PATIENCE)
    assert not (workdir / 'summary.json').exists()
    cluster.kill_node('n2')
    cluster.wait('queued again', lambda: cluster.restarts(job) >= 1, 90)
    cluster.start_node('n2')
    finished(cluster, workdir, job)
    same(workdir, whole)


def test_processes_killed_at_random_moments_are_survived(cluster, tmp_path, source, whole):
    """SIGKILL to one process of a step: the other leaves, the job is queued again."""
    workdir, generator, survived = tmp_path / 'run', random.Random(0), 0
    job = number(launched(cluster, command(workdir, source, '--nodes=2')))
    for _ in range(3):
        seen = step_of(workdir)
        cluster.wait('progress', lambda seen=seen: progressed(cluster, workdir, job, seen), PATIENCE)
        time.sleep(generator.uniform(0, 1))
        if (workdir / 'summary.json').exists():
            break
        before = cluster.restarts(job)
        node = generator.choice(slurm_cluster.NODES)
        victims = [pid for pid in cluster.processes(node) if b'--distributed=auto' in cmdline(pid)]
        victims = [pid for pid in victims if cmdline(pid).split(b'\0')[1].endswith(b'run.py')]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if not victims:
            continue
        cluster.wait(
            'queued again',
            lambda before=before: (workdir / 'summary.json').exists() or cluster.restarts(job) > before, 120,
        )  # fmt: skip
        survived += cluster.restarts(job) > before
    finished(cluster, workdir, job)
    same(workdir, whole)
    print(f'{survived} kills survived bitwise')
    assert survived >= 1


def cmdline(pid):
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            return file.read()
    except OSError:
        return b''


def test_cancel_ends_it_and_does_not_queue_it_again(cluster, tmp_path, source):
    workdir = tmp_path / 'a run; of "$HOME"'
    job = number(launched(cluster, command(workdir, source, **{'config.train.steps': 100_000})))
    cluster.wait('progress', lambda: step_of(workdir) > 0, PATIENCE)
    assert 'RUNNING' in launched(cluster, command(workdir, source, '--job=status'))
    launched(cluster, command(workdir, source, '--job=cancel'))
    cluster.wait('gone', lambda: cluster.state(job) in ('', 'CANCELLED'), 60)
    assert not (workdir / 'summary.json').exists()


def test_a_sweep_is_a_job_array_with_a_trial_a_task(cluster, tmp_path, source):
    """The ladder's sizes, each a task; one process is killed on the way; each trial is done once."""
    (tmp_path / 'ladder.py').write_text(SWEEP.format(count=4))
    workdir = tmp_path / 'sweep'
    fields = {'config': tmp_path / 'ladder.py', 'config.data.source': source, 'config.mesh.cpu_devices': 1,
              'config.train.checkpoint_every': 5, 'config.train.tensorboard': False}  # fmt: skip
    argv = [program.command(None)[0], 'run.py', *(f'--{key}={value}' for key, value in fields.items())]
    argv += [f'--workdir={workdir}', '--launch=slurm', '--launch_option=at_once=2']
    job = number(launched(cluster, argv))
    cluster.wait('the report', lambda: (workdir / 'report.html').exists(), 2 * PATIENCE)
    cluster.wait('gone', lambda: set(cluster.state(job).split()) <= {'COMPLETED'}, 60)
    records = jsonl.read(workdir / 'records.jsonl')
    assert [one['status'] for one in records] == ['done'] * 4
    ledger = jsonl.read(workdir / 'ledger.jsonl')
    assert Counter(line['trial'] for line in ledger if line.get('status') == 'done') == {
        one['name']: 1 for one in records
    }
    assert len(list((workdir / 'launch').glob(f'{job}_*.log'))) == 4
