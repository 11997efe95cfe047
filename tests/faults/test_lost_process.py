"""A run of several processes that loses one exits in time, and can be resumed.

`pytest -m slow -n 0 tests/faults/test_lost_process.py` also freezes processes.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_jax.core import jax_setup, watchdog
from gpt_jax.core.errors import UserError
from gpt_jax.launch.local import find_free_port
from tests import program

STALL_MINUTES = 0.25
GRACE_SECONDS = 25  # additional time for a busy machine
SLEEPER = """
import sys, time
from gpt_jax.core import watchdog
with watchdog.Watchdog(float(sys.argv[1]), 'process 0 of 2') as dog:
    dog.beat()
    dog.beat()
    for _ in range(int(sys.argv[2])):
        time.sleep(0.2)
        dog.beat()
    time.sleep(60)
"""


def start_pair(tmp_path, source, **fields):
    """Start two processes of one long run and wait for the first steps."""
    port = find_free_port()
    workdir = tmp_path / 'run'
    fields = {
        'config.data.source': source,
        'config.model.layers': 1,
        'config.train.steps': 100_000,
        'config.train.eval_every': 0,
        'config.mesh.cpu_devices': 1,
        'config.train.stall_minutes': STALL_MINUTES,
        'config.train.log_every': 1,
    } | fields
    processes = [
        program.start(program.command(workdir, **fields, distributed=f'127.0.0.1:{port},2,{index}'))
        for index in range(2)
    ]
    deadline = time.monotonic() + 120
    while program.lines(workdir) < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
        if any(process.poll() is not None for process in processes):
            break
    if program.lines(workdir) < 5:
        raise AssertionError('\n'.join(wait(process, 0.1)[1] for process in processes))
    return processes, port


def wait(process, seconds):
    """Return (exit code, standard error) of a process that must exit by itself in time."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    _, stderr = process.communicate()
    return process.returncode, stderr


def test_the_others_exit_with_75_if_one_is_killed(tmp_path, source):
    processes, port = start_pair(tmp_path, source)
    assert list_listeners(port) == ['127.0.0.1']  # the coordinator listens at its address only
    lose(processes, signal.SIGKILL, victim=0)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_the_other_exits_with_75_if_one_is_frozen(tmp_path, source, victim):
    processes, _ = start_pair(tmp_path, source)
    lose(processes, signal.SIGSTOP, victim)


def lose(processes, number, victim):
    """Send a signal to one process and check how the other one exits."""
    processes[victim].send_signal(number)
    try:
        code, stderr = wait(processes[1 - victim], 60 * STALL_MINUTES + GRACE_SECONDS)
    finally:
        processes[victim].kill()
        processes[victim].communicate()
    assert code == 75, stderr
    message = stderr.strip().splitlines()[-1]
    expected = r'run.py: .*lost.*; run it again to resume from the last checkpoint'
    assert re.match(expected, message), stderr


def list_listeners(port):
    """List the addresses at which a process listens on the port."""
    addresses = set()
    for path in ('/proc/net/tcp', '/proc/net/tcp6'):
        for line in Path(path).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == '0A' and address.endswith(f':{port:04X}'):
                # The last four bytes are the IPv4 address, also of a mapped IPv6 address.
                ipv4 = bytes.fromhex(address.partition(':')[0][-8:])[::-1]
                addresses.add(socket.inet_ntoa(ipv4))
    return sorted(addresses)


def test_a_process_whose_peers_are_absent_exits_with_75(tmp_path, source):
    """Process 1 finds no coordinator; process 0 of another run is the coordinator, but alone."""
    fields = {
        'config.data.source': source,
        'config.mesh.cpu_devices': 1,
        'config.train.stall_minutes': STALL_MINUTES / 2,
    }
    started = {}
    for process in (1, 0):
        address = f'127.0.0.1:{find_free_port()},2,{process}'
        command = program.command(tmp_path / f'run_{process}', **fields, distributed=address)
        started[process] = program.start(command)
    messages = {1: 'process 1 of 2: no coordinator at 127.0.0.1:', 0: 'process 0 of 2'}
    results = {
        process: wait(child, 60 * STALL_MINUTES + GRACE_SECONDS)
        for process, child in started.items()
    }
    for process, (code, stderr) in results.items():
        assert code == 75, stderr
        assert messages[process] in stderr.strip().splitlines()[-1]


def test_a_stalled_process_prints_its_stacks_and_exits():
    run = subprocess.run(
        [sys.executable, '-c', SLEEPER, '0.5', '8'], capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 75
    assert 'File "<string>", line 10 in <module>' in run.stderr  # where it sleeps
    assert 'process 0 of 2: no progress for 0.5 s' in run.stderr.splitlines()[-1]


def test_the_watchdog_ends_with_its_context():
    with watchdog.Watchdog(0.1, 'one') as dog:
        dog.beat()
    time.sleep(0.5)
    with watchdog.Watchdog(0.0, 'never'):
        time.sleep(0.3)


def test_only_errors_of_lost_processes_are_translated():
    class JaxRuntimeError(RuntimeError):
        pass

    assert watchdog._is_lost_peer(
        JaxRuntimeError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer')
    )
    assert not watchdog._is_lost_peer(JaxRuntimeError('INVALID_ARGUMENT: shapes differ'))
    assert not watchdog._is_lost_peer(RuntimeError('gloo'))


@pytest.mark.parametrize(
    'word', ['nowhere', 'host,2,0', 'host:1,2', 'host:1,2,2', 'host:1,x,0', ':1,2,0', 'host:,2,0']
)
def test_an_invalid_rendezvous_is_rejected(word):
    with pytest.raises(UserError, match='--distributed'):
        jax_setup._find_rendezvous(word)


def test_the_first_node_of_slurm_lists():
    lists = {
        'n1': 'n1',
        'n1,n2': 'n1',
        'n[1-2]': 'n1',
        'n[01,03-05],x7': 'n01',
        'gpu-a[7]': 'gpu-a7',
    }
    assert {nodes: jax_setup._first_node(nodes) for nodes in lists} == lists
    assert jax_setup._find_rendezvous('10.0.0.1:80,4,3') == ('10.0.0.1:80', 4, 3)


def test_the_coordinator_does_not_listen_on_a_loopback_alias(monkeypatch):
    monkeypatch.setattr(jax_setup.socket, 'gethostbyname', lambda _: '127.0.1.1')
    monkeypatch.setattr(jax_setup, '_own_address', lambda: '10.1.2.3')
    assert jax_setup._bind('me:5000') == '10.1.2.3:5000'
    monkeypatch.setattr(jax_setup.socket, 'gethostbyname', lambda _: '127.0.0.1')
    assert jax_setup._bind('localhost:5000') == '127.0.0.1:5000'
    monkeypatch.setitem(os.environ, 'JAX_COORDINATOR_PORT', '8476')
    assert jax_setup._bind(None) == '10.1.2.3:8476'
