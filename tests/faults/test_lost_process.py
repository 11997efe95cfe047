"""Does a run of several processes end cleanly, in time and ready to go on, when one of them is lost?

`pytest -m slow -n 0 tests/faults/test_lost_process.py` freezes them, too.
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

from gpt_jax import runtime, watchdog
from gpt_jax.errors import UserError
from gpt_jax.launch.local import free_port
from tests import program

MINUTES = 0.25  # train.stall_minutes: 15 seconds
GRACE = 25  # seconds more that a busy machine may take to end a process
SLEEPER = """
import sys, time
from gpt_jax import watchdog
with watchdog.Watchdog(float(sys.argv[1]), 'process 0 of 2') as dog:
    dog.beat()
    dog.beat()
    for _ in range(int(sys.argv[2])):
        time.sleep(0.2)
        dog.beat()
    time.sleep(60)
"""


def pair(tmp_path, source, **fields):
    """Two processes of one long run, that have made their first steps."""
    port = free_port()
    workdir = tmp_path / 'run'
    fields = {'config.data.source': source, 'config.train.steps': 100_000, 'config.mesh.cpu_devices': 1,
              'config.train.stall_minutes': MINUTES, 'config.train.log_every': 1} | fields  # fmt: skip
    processes = [
        program.start(program.command(workdir, **fields, distributed=f'127.0.0.1:{port},2,{index}'))
        for index in range(2)
    ]
    until = time.monotonic() + 120
    while program.lines(workdir) < 5 and time.monotonic() < until:
        time.sleep(0.1)
        if any(one.poll() is not None for one in processes):
            break
    if program.lines(workdir) < 5:
        raise AssertionError('\n'.join(ended(one, 0.1)[2] for one in processes))
    return processes, port


def ended(process, within):
    """(exit code, seconds, standard error) of a process that has to end by itself."""
    began = time.monotonic()
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
    _, err = process.communicate()
    return process.returncode, time.monotonic() - began, err


def test_the_others_leave_with_75_when_one_is_killed(tmp_path, source):
    processes, port = pair(tmp_path, source)
    assert listening(port) == ['127.0.0.1']  # the coordinator: where it was told, and nowhere else
    lose(processes, signal.SIGKILL, victim=0)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_the_other_leaves_with_75_when_one_is_frozen(tmp_path, source, victim):
    lose(pair(tmp_path, source)[0], signal.SIGSTOP, victim)


def lose(processes, number, victim):
    processes[victim].send_signal(number)
    try:
        code, _, err = ended(processes[1 - victim], 60 * MINUTES + GRACE)
    finally:
        processes[victim].kill()
        processes[victim].communicate()
    assert code == 75, err
    last = err.strip().splitlines()[-1]
    assert re.match(r'run.py: .*lost.*; run it again to go on from the last checkpoint', last), err


def listening(port):
    """The addresses at which anyone listens to the port."""
    found = set()
    for path in ('/proc/net/tcp', '/proc/net/tcp6'):
        for line in Path(path).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == '0A' and address.endswith(f':{port:04X}'):
                last = bytes.fromhex(address.partition(':')[0][-8:])[::-1]  # of IPv6 too, where it stands for IPv4
                found.add(socket.inet_ntoa(last))
    return sorted(found)


def test_nobody_at_the_coordinators_address(tmp_path, source):
    fields = {'config.data.source': source, 'config.mesh.cpu_devices': 1, 'config.train.stall_minutes': MINUTES / 2}
    process = program.start(program.command(tmp_path / 'run', **fields, distributed=f'127.0.0.1:{free_port()},2,1'))
    code, _, err = ended(process, 60 * MINUTES + GRACE)
    assert code == 75, err
    assert 'process 1 of 2: no coordinator at 127.0.0.1:' in err.strip().splitlines()[-1]


def test_others_that_never_come(tmp_path, source):
    fields = {'config.data.source': source, 'config.mesh.cpu_devices': 1, 'config.train.stall_minutes': MINUTES / 2}
    process = program.start(program.command(tmp_path / 'run', **fields, distributed=f'127.0.0.1:{free_port()},2,0'))
    code, _, err = ended(process, 60 * MINUTES + GRACE)
    assert code == 75, err
    assert 'process 0 of 2' in err.strip().splitlines()[-1]


def test_a_process_in_which_nothing_moves_shows_its_stacks_and_leaves():
    run = subprocess.run([sys.executable, '-c', SLEEPER, '0.5', '8'], capture_output=True, text=True, timeout=30)
    assert run.returncode == 75
    assert 'File "<string>", line 10 in <module>' in run.stderr  # where it sleeps
    assert 'process 0 of 2: nothing has moved for 0.5 s' in run.stderr.splitlines()[-1]


def test_the_watchdog_lets_go_of_what_ends():
    with watchdog.Watchdog(0.1, 'one') as dog:
        dog.beat()
    time.sleep(0.5)
    with watchdog.Watchdog(0.0, 'never'):
        time.sleep(0.3)


def test_only_errors_of_lost_processes_are_named_so():
    class JaxRuntimeError(RuntimeError):
        pass

    assert watchdog._lost_fellows(JaxRuntimeError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer'))
    assert not watchdog._lost_fellows(JaxRuntimeError('INVALID_ARGUMENT: shapes differ'))
    assert not watchdog._lost_fellows(RuntimeError('gloo'))


@pytest.mark.parametrize('word', ['nowhere', 'host,2,0', 'host:1,2', 'host:1,2,2', 'host:1,x,0', ':1,2,0', 'host:,2,0'])
def test_a_meeting_that_is_none_is_refused(word):
    with pytest.raises(UserError, match='--distributed'):
        runtime._meeting(word)


def test_the_first_node_of_slurms_lists():
    lists = {'n1': 'n1', 'n1,n2': 'n1', 'n[1-2]': 'n1', 'n[01,03-05],x7': 'n01', 'gpu-a[7]': 'gpu-a7'}
    assert {nodes: runtime._first_node(nodes) for nodes in lists} == lists
    assert runtime._meeting('10.0.0.1:80,4,3') == ('10.0.0.1:80', 4, 3)


def test_an_own_name_that_means_loopback_is_no_place_to_listen(monkeypatch):
    monkeypatch.setattr(runtime.socket, 'gethostbyname', lambda _: '127.0.1.1')
    monkeypatch.setattr(runtime, '_own_address', lambda: '10.1.2.3')
    assert runtime._bind('me:5000') == '10.1.2.3:5000'
    monkeypatch.setattr(runtime.socket, 'gethostbyname', lambda _: '127.0.0.1')
    assert runtime._bind('localhost:5000') == '127.0.0.1:5000'
    monkeypatch.setitem(os.environ, 'JAX_COORDINATOR_PORT', '8476')
    assert runtime._bind(None) == '10.1.2.3:8476'
