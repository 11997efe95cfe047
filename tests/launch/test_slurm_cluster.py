"""Jobs under a real Slurm: several processes, arrays, time limits, dead nodes; bitwise resumption.

`pytest -m slow -n 0 -s tests/launch/test_slurm_cluster.py` needs Debian's packages slurm-wlm and
munge, and root.
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

from gpt_jax.core import files
from gpt_jax.launch.local import find_free_port
from tests import program
from tests.launch import slurm_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or 'Slurm is available'
    ),
]
TIMEOUT = 300  # seconds
STEPS = 300
SWEEP = """
from configs import ladder_cpu

def get_config():
    config = ladder_cpu.get_config()
    small = {{'model.context': 32, 'train.tokens': 0, 'train.steps': 30}}
    small |= {{'train.batch_size': 8, 'train.microbatch_size': 0}}
    config.sweep.trials = tuple(
        {{**trial, **small}}
        for trial in config.sweep.trials[:{count}]
    )
    return config
"""


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    ports = (find_free_port(), find_free_port(), find_free_port())
    with slurm_cluster.cluster(tmp_path_factory.mktemp('slurm'), ports) as running:
        yield running


def command(workdir, source, *more, **fields):
    """Command of a run that takes some seconds on two processes with one device each."""
    fields = {
        'config.data.source': source,
        'config.train.steps': STEPS,
        'config.train.checkpoint_every': 20,
        'config.train.log_every': 20,
        'config.train.eval_every': 0,
        'config.mesh.cpu_devices': 1,
        'config.train.stall_minutes': 1.0,
    } | fields
    return [*program.command(workdir, **fields), '--launch=slurm', *more]


def launch(cluster, argv, code=0):
    """Runs the launch command; returns its output, which contains the job id."""
    result = subprocess.run(
        argv, env=cluster.env, text=True, capture_output=True, cwd=program.ROOT, timeout=120
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def parse_job_id(output):
    return re.search(r'sbatch: (\d+)', output)[1]


def last_step(workdir):
    """Returns the newest step in the run's metrics."""
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])['step'] if lines else 0


def wait_until_done(cluster, workdir, job):
    cluster.wait(
        f'{workdir} done',
        lambda: (workdir / 'summary.json').exists() or cluster.hurry(job),
        TIMEOUT,
    )
    cluster.wait(f'end of job {job}', lambda: cluster.state(job) in ('', 'COMPLETED'), 60)
    return program.summary(workdir)


@pytest.fixture(scope='module')
def undisturbed(cluster, tmp_path_factory, source):
    """Summary and metrics of an undisturbed run over both nodes."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    output = launch(cluster, command(workdir, source, '--nodes=2'))
    summary = wait_until_done(cluster, workdir, parse_job_id(output))
    assert summary['processes'] == 2
    assert 'done' in launch(cluster, command(workdir, source, '--job=status'))
    logs = launch(cluster, command(workdir, source, '--job=logs'))
    assert f'step {STEPS}/{STEPS}' in logs
    assert {line[:2] for line in logs.splitlines() if 'compiled in' in line} <= {'0:', '1:'}
    return summary, (workdir / 'metrics.jsonl').read_bytes()


def check_same(workdir, undisturbed):
    summary, metrics = undisturbed
    assert program.summary(workdir)['parameters_sha256'] == summary['parameters_sha256']
    assert (workdir / 'metrics.jsonl').read_bytes() == metrics


def test_a_run_saves_before_the_time_limit_and_is_requeued(cluster, tmp_path, source, undisturbed):
    """Once with the real limit; then with three SIGTERMs as Slurm sends them before the limit."""
    workdir = tmp_path / 'run'
    more = ('--nodes=2', '--minutes=2', '--launch_option=grace=60')
    job = parse_job_id(
        launch(cluster, command(workdir, source, *more, **{'config.train.steps': 3000}))
    )
    cluster.wait('the time limit', lambda: cluster.restarts(job) >= 1, 240)
    log = (workdir / 'launch' / f'{job}.log').read_text()
    assert 'exit code 75, queued again' in log
    assert 'stopped and saved at step' in log
    launch(cluster, command(workdir, source, '--job=cancel'))
    # A run of the usual length, with signals at chosen moments.
    workdir = tmp_path / 'short'
    job = parse_job_id(launch(cluster, command(workdir, source, '--nodes=2')))
    survived = terminate_repeatedly(cluster, workdir, job, 3)
    wait_until_done(cluster, workdir, job)
    check_same(workdir, undisturbed)
    print(f'{survived} terminations and requeues survived bitwise')
    assert survived >= 2


def has_progressed(cluster, workdir, job, step):
    return last_step(workdir) > step or (workdir / 'summary.json').exists() or cluster.hurry(job)


def terminate_repeatedly(cluster, workdir, job, times):
    """Sends SIGTERM to the batch script after progress; returns how often the job was requeued."""
    survived, step = 0, 0
    for _ in range(times):
        cluster.wait(
            'progress', lambda step=step: has_progressed(cluster, workdir, job, step), TIMEOUT
        )
        step = last_step(workdir)
        if (workdir / 'summary.json').exists():
            break
        before = cluster.restarts(job)
        cluster.run('scancel', '--signal=TERM', '--batch', job, check=False)
        try:
            cluster.wait('a requeue', lambda before=before: cluster.restarts(job) > before, 90)
        except TimeoutError:
            if not (workdir / 'summary.json').exists():
                raise
            break
        survived += 1
    return survived


def test_a_run_survives_a_dead_node(cluster, tmp_path, source, undisturbed):
    workdir = tmp_path / 'run'
    job = parse_job_id(launch(cluster, command(workdir, source, '--nodes=2')))
    cluster.wait('progress', lambda: last_step(workdir) >= 50, TIMEOUT)
    assert not (workdir / 'summary.json').exists()
    cluster.kill_node('n2')
    cluster.wait('a requeue', lambda: cluster.restarts(job) >= 1, 90)
    cluster.start_node('n2')
    wait_until_done(cluster, workdir, job)
    check_same(workdir, undisturbed)


def test_a_run_survives_kills_at_random_moments(cluster, tmp_path, source, undisturbed):
    """SIGKILL to one process of a step: the other one exits and the job is requeued."""
    workdir, generator, survived = tmp_path / 'run', random.Random(0), 0
    job = parse_job_id(launch(cluster, command(workdir, source, '--nodes=2')))
    for _ in range(3):
        step = last_step(workdir)
        cluster.wait(
            'progress', lambda step=step: has_progressed(cluster, workdir, job, step), TIMEOUT
        )
        time.sleep(generator.uniform(0, 1))
        if (workdir / 'summary.json').exists():
            break
        before = cluster.restarts(job)
        node = generator.choice(slurm_cluster.NODES)
        victims = [
            pid for pid in cluster.processes(node) if b'--distributed=auto' in read_cmdline(pid)
        ]
        victims = [pid for pid in victims if read_cmdline(pid).split(b'\0')[1].endswith(b'run.py')]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if not victims:
            continue
        cluster.wait(
            'a requeue',
            lambda before=before: (
                (workdir / 'summary.json').exists() or cluster.restarts(job) > before
            ),
            120,
        )
        survived += cluster.restarts(job) > before
    wait_until_done(cluster, workdir, job)
    check_same(workdir, undisturbed)
    print(f'{survived} kills survived bitwise')
    assert survived >= 1


def read_cmdline(pid):
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            return file.read()
    except OSError:
        return b''


def test_cancel_ends_the_job_without_a_requeue(cluster, tmp_path, source):
    workdir = tmp_path / 'a run; of "$HOME"'
    job = parse_job_id(launch(cluster, command(workdir, source, **{'config.train.steps': 100_000})))
    cluster.wait('progress', lambda: last_step(workdir) > 0, TIMEOUT)
    assert 'RUNNING' in launch(cluster, command(workdir, source, '--job=status'))
    launch(cluster, command(workdir, source, '--job=cancel'))
    cluster.wait('the end of the job', lambda: cluster.state(job) in ('', 'CANCELLED'), 60)
    assert not (workdir / 'summary.json').exists()


def test_a_sweep_is_a_job_array_with_one_trial_per_task(cluster, tmp_path, source):
    """The ladder's sizes, one task each; each trial is done once."""
    (tmp_path / 'ladder.py').write_text(SWEEP.format(count=4))
    workdir = tmp_path / 'sweep'
    fields = {
        'config': tmp_path / 'ladder.py',
        'config.data.source': source,
        'config.mesh.cpu_devices': 1,
        'config.train.checkpoint_every': 5,
        'config.train.tensorboard': False,
    }
    argv = [
        program.command(None)[0],
        'run.py',
        *(f'--{key}={value}' for key, value in fields.items()),
    ]
    argv += [f'--workdir={workdir}', '--launch=slurm', '--launch_option=at_once=2']
    job = parse_job_id(launch(cluster, argv))
    cluster.wait('the report', lambda: (workdir / 'report.html').exists(), 2 * TIMEOUT)
    cluster.wait('the end of the job', lambda: set(cluster.state(job).split()) <= {'COMPLETED'}, 60)
    records = files.read_jsonl(workdir / 'records.jsonl')
    assert [record['status'] for record in records] == ['done'] * 4
    ledger = files.read_jsonl(workdir / 'ledger.jsonl')
    assert Counter(line['trial'] for line in ledger if line.get('status') == 'done') == {
        record['name']: 1 for record in records
    }
    assert len(list((workdir / 'launch').glob(f'{job}_*.log'))) == 4
