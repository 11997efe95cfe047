"""Preemption by signals, and two processes that save, restore, stop and fail as one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core.errors import UserError
from gpt_jax.train.checkpoint import CheckpointManager, load_checkpoint
from gpt_jax.train.multihost import Preemption, run_on_all_processes, run_on_first_process


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures('hearing')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    with Preemption() as preemption:
        assert not preemption.requested
        assert preemption.signal_name is None
        assert not preemption.requested_on_any_process()
        send(number)
        assert preemption.requested
        assert preemption.requested_on_any_process()
        assert preemption.signal_name == number.name


@pytest.mark.usefixtures('hearing')
def test_the_first_signal_gives_the_name():
    with Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            send(number)
        assert preemption.signal_name == 'SIGTERM'


@pytest.mark.usefixtures('hearing')
def test_a_second_ctrl_c_interrupts():
    with Preemption() as preemption:
        send(signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@pytest.mark.usefixtures('hearing')
def test_the_previous_handlers_are_restored():
    received = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        interrupt_handler = signal.getsignal(signal.SIGINT)
        with Preemption():
            send(signal.SIGTERM)
            send(signal.SIGINT)
            assert received == []
        send(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is interrupt_handler
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.usefixtures('hearing')
def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            send(signal.SIGINT)
            assert not preemption.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures('hearing')
def test_preemption_does_nothing_outside_the_main_thread():
    handler = signal.getsignal(signal.SIGTERM)
    observed = []

    def run_in_thread() -> None:
        with Preemption() as preemption:
            observed.append((preemption.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    thread.join()
    assert observed == [(False, handler)]


@pytest.mark.usefixtures('hearing')
def test_requests_are_not_shared_between_instances():
    with Preemption() as first:
        send(signal.SIGTERM)
    with Preemption() as second:
        assert (first.requested, second.requested) == (True, False)


ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def make_state(step: int) -> dict[str, jax.Array]:
    """Make a state with one row on each of the four devices of both processes."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), PartitionSpec('data'))
    rows = ROWS + np.float32(step)
    return {'w': jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])}


def get_message(action: Any) -> str:
    with pytest.raises(UserError) as error:
        action()
    return str(error.value)


def use_checkpoints(process: int, folder: str) -> dict[str, Any]:
    lines: list[str] = []
    report: dict[str, Any] = {}
    with CheckpointManager(folder, max_to_keep=2, log=lines.append) as checkpoints:
        report['new'] = checkpoints.restore(make_state(0)) is None
        for step in (10, 20, 20):
            checkpoints.save(step, make_state(step), {'batch': step})
        checkpoints.wait()
        report['latest'] = checkpoints.latest_step()
        if process == 0:
            os.remove(f'{folder}/20/state/_METADATA')
        restored = checkpoints.restore(make_state(0))
        assert restored is not None
        shards, expected = (
            state['w'].addressable_shards for state in (restored.state, make_state(10))
        )
        report['correct'] = [
            np.array_equal(a.data, b.data) for a, b in zip(shards, expected, strict=True)
        ]
        report |= {'step': restored.step, 'meta': restored.meta, 'lines': len(lines)}
        if process == 0:
            os.remove(f'{folder}/10/manifest.json')
        report['nothing good'] = get_message(lambda: checkpoints.restore(make_state(0)))
        checkpoints.save(40, make_state(40), {'batch': 40})
    return report


def vote(process: int) -> list[bool]:
    """The second process is asked to stop in step 2."""
    votes = []
    with Preemption() as preemption:
        for step in range(6):
            if step == 2 and process == 1:
                send(signal.SIGTERM)
            votes.append(preemption.requested_on_any_process())
    return votes


def run_process(process: int, port: str, folder: str) -> None:
    jax.distributed.initialize(f'127.0.0.1:{port}', 2, process)
    report: dict[str, Any] = {'votes': vote(process)} | use_checkpoints(process, folder)

    def fail_on_second() -> int:
        if process == 1:
            raise UserError('own message')
        return 3

    report['failure'] = get_message(lambda: run_on_all_processes(fail_on_second))
    report['results'] = [
        run_on_all_processes(lambda: 5 + process),
        run_on_first_process(lambda: 7 + process),
        run_on_first_process(lambda: None),
    ]
    print(json.dumps(report))


def test_two_processes_act_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, 'PYTHONPATH': root, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    commands = [[sys.executable, __file__, process, port, str(tmp_path)] for process in '01']
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        reports = [json.loads(output.splitlines()[-1]) for output in outputs]
    finally:
        for process in processes:
            process.kill()
    for report in reports:
        assert (report['new'], report['latest'], report['step']) == (True, 20, 10)
        assert report['meta'] == {'batch': 10}
        assert report['correct'] == [True, True]
        assert report['votes'] == [False, False, False, True, True, True]
        assert report['results'] == [5, 7, None]
    assert [report['lines'] for report in reports] == [1, 0]
    assert 'no good checkpoint is left' in reports[0]['nothing good']
    assert reports[1]['nothing good'] == reports[0]['failure'].replace('process 1', 'process 0')
    assert reports[1]['failure'] == 'own message'
    restored = load_checkpoint(tmp_path, {'w': jnp.zeros(ROWS.shape)})
    assert np.array_equal(restored.state['w'], ROWS + 40)


if __name__ == '__main__':
    run_process(int(sys.argv[1]), *sys.argv[2:])
