"""SIGTERM and SIGINT end every command in time, with exit code 75, one line and nothing lost.

`pytest -m slow -n 0 tests/faults/test_signals.py` sends 40 signals at random moments of runs with
long validations, a sweep, an evaluation and a command; the fast tests send a few.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_jax.core import interruption
from gpt_jax.launch.local import find_free_port
from gpt_jax.sweep.process import _read_progress
from tests import in_process, program

SECONDS = 2.0  # within which a process must end, or within the current step
SLACK = 6.0  # beside other tests; the slow test, alone on the machine, has none
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A validation of several seconds, in many batches, after steps of milliseconds.
LONG = {
    'config.model.layers': 1,
    'config.train.steps': 12,
    'config.train.log_every': 1,
    'config.train.checkpoint_every': 4,
    'config.train.eval_every': 6,
    'config.train.eval_tokens': 0,
    'config.train.eval_batch_size': 1,
    'config.data.validation_fraction': 0.03,
}


def end(process: subprocess.Popen[str], number: int) -> tuple[float, str]:
    """Send a signal; return the seconds until the process ended, and its standard error."""
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return time.monotonic() - began, err


def check_end(process: subprocess.Popen[str], seconds: float, err: str) -> None:
    assert process.returncode == 75, err
    assert seconds < SECONDS + SLACK, err
    assert 'Traceback' not in err
    assert err.splitlines()[-1].startswith(('run.py: ', 'gpt-jax'))


def wait_for_note(process: subprocess.Popen[str], workdir: Path, text: str) -> None:
    """Wait until progress.json shows the text."""
    while process.poll() is None:
        if text in _read_progress(workdir):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


@pytest.fixture(scope='module')
def complete(tmp_path_factory, source):
    """The folder of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp('complete') / 'run'
    in_process.run(long_command(workdir, source))
    return workdir


def long_command(workdir, source, **fields):
    return in_process.command(workdir, **LONG | {'config.data.source': source} | fields)


def check_equal(workdir, complete):
    first, second = (program.summary(folder) for folder in (workdir, complete))
    for entry in ('parameters_sha256', 'validation_loss', 'bits_per_byte', 'train_loss', 'curve'):
        assert first[entry] == second[entry]
    metrics = [(folder / 'metrics.jsonl').read_bytes() for folder in (workdir, complete)]
    assert metrics[0] == metrics[1]


def test_a_kill_in_the_final_validation_loses_no_step(source, tmp_path, complete):
    workdir = tmp_path / 'run'
    arguments = long_command(workdir, source)
    process = program.start(arguments)
    wait_for_note(process, workdir, 'step 12/12 · evaluating')
    while not (workdir / 'checkpoints' / '12').exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / 'summary.json').exists()
    assert '"step": 12' not in (workdir / 'metrics.jsonl').read_text()
    _, err = in_process.run(arguments)
    assert 'resuming from the checkpoint of step 12' in err
    check_equal(workdir, complete)


@pytest.mark.usefixtures('hearing')
@pytest.mark.parametrize(
    'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_in_a_validation_of_unsaved_steps_saves_them(source, tmp_path, complete, number):
    workdir = tmp_path / 'run'
    arguments = long_command(workdir, source)
    process = program.start(arguments)
    wait_for_note(process, workdir, 'step 6/12 · evaluating')
    seconds, err = end(process, number)
    check_end(process, seconds, err)
    assert 'stopped and saved at step 6 of 12, before validation was done' in err
    in_process.run(arguments)
    check_equal(workdir, complete)


@pytest.mark.usefixtures('hearing')
def test_signals_during_the_imports_and_the_compilation(source, tmp_path):
    arguments = long_command(tmp_path / 'run', source)
    for delay, number in ((0.3, SIGNALS[1]), (2.5, SIGNALS[0])):
        process = program.start(arguments)
        time.sleep(delay)
        seconds, err = end(process, number)
        check_end(process, seconds, err)


@pytest.mark.usefixtures('hearing')
def test_a_main_thread_that_does_not_listen_is_ended_in_time(tmp_path):
    script = tmp_path / 'stuck.py'
    script.write_text(
        'import ctypes\n'
        'from gpt_jax.core import command, interruption\n'
        'interruption.install("stuck")\n'
        'def wait():\n'
        '    lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)\n'
        '    print("ready", flush=True)\n'
        '    while True: c.pthread_mutex_lock(lock)  # the second call never returns\n'
        'command.run_command("stuck", wait)\n'
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': str(program.ROOT)},
    )
    assert process.stdout.readline() == 'ready\n'
    time.sleep(0.5)  # until it is in the second call
    seconds, err = end(process, signal.SIGTERM)
    assert process.returncode == 75
    assert interruption.EXIT_SECONDS <= seconds < SECONDS + SLACK
    assert err == 'stuck: interrupted by SIGTERM; run the same command again\n'


@pytest.mark.slow
def test_two_processes_stop_together_in_a_validation(source, tmp_path):
    port = find_free_port()
    fields = {'config.mesh.cpu_devices': 1, 'config.mesh.data': 2, 'config.train.steps': 6}
    fields['config.train.eval_batch_size'] = 2
    processes = [
        program.start(
            long_command(
                tmp_path / 'run', source, **fields, distributed=f'127.0.0.1:{port},2,{index}'
            )
        )
        for index in range(2)
    ]
    wait_for_note(processes[0], tmp_path / 'run', 'step 6/6 · evaluating')
    seconds, err = end(processes[1], signal.SIGTERM)
    check_end(processes[1], seconds, err)
    _, other = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 75
    for text in (err, other):
        assert 'stopped and saved at step 6 of 6, before validation was done' in text


def test_a_signal_in_the_final_validation_is_named(source, tmp_path):
    """The state is saved, so that the signal raises, and passes the counter that heard it."""
    process = program.start(long_command(tmp_path / 'run', source))
    wait_for_note(process, tmp_path / 'run', 'step 12/12 · evaluating')
    seconds, err = end(process, signal.SIGTERM)
    check_end(process, seconds, err)
    assert err.endswith('run.py: interrupted by SIGTERM; run the same command again\n')


@pytest.mark.slow
@pytest.mark.usefixtures('hearing')
@pytest.mark.parametrize('what', ['train', 'keep_best', 'sweep', 'vmapped', 'evaluate', 'eval'])
def test_signals_at_random_moments(what, source, tmp_path, complete):
    """Each kind of command receives 7 signals, 42 in all."""
    arguments = make_command(what, source, tmp_path, complete)
    generator, late = random.Random(what), []
    began = time.monotonic()
    program.run(arguments)
    duration = time.monotonic() - began
    for index, number in zip(range(7), itertools.cycle(SIGNALS), strict=False):
        shutil.rmtree(tmp_path / 'run', ignore_errors=True)
        process = program.start(arguments)
        # Earlier, Python itself is starting: it cannot have a handler yet.
        time.sleep(generator.uniform(0.5, 0.9 * duration))
        seconds, err = end(process, number)
        print(what, index, number, process.returncode, f'{seconds:.2f}', err[-300:])
        is_late = seconds > SECONDS or 'Traceback' in err
        if process.returncode not in (0, 75) or is_late:  # 0: it had ended before
            late.append((index, number, process.returncode, round(seconds, 2), err[-800:]))
    assert not late
    if what in ('train', 'keep_best'):
        in_process.run(arguments)
        check_equal(tmp_path / 'run', complete)


def make_command(what, source, tmp_path, complete):
    if what in ('train', 'keep_best'):
        return long_command(tmp_path / 'run', source, config__train__keep_best=what == 'keep_best')
    if what == 'evaluate':
        return long_command(complete, source, mode='evaluate')
    if what == 'eval':
        tasks = ['--tasks=sentiment,pairs,translation', '--max_examples=100']
        return [sys.executable, '-m', 'gpt_jax', 'eval', str(complete), *tasks]
    sweep = program.write_seeds_sweep(tmp_path)
    trials = {'trial': 's0,s1'} if what == 'vmapped' else {}
    config = {'config': sweep, 'config.seed': None}
    return long_command(tmp_path / 'run', source, **config, **trials)
