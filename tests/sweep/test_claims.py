"""Claims: one holder per trial, and takeover from dead holders."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

from gpt_jax.core.clock import ActiveClock
from gpt_jax.sweep import claims as claims_module
from gpt_jax.sweep.claims import Claims

STALE = 0.6  # seconds
HOLDER = """
import sys, time
from pathlib import Path
from gpt_jax.sweep.claims import Claims
claim = Claims(Path(sys.argv[1]), 60.0).acquire('a')
print(claim.number, flush=True)
time.sleep(60)
"""


def hide_processes(monkeypatch):
    """Make all processes look as on another machine, so that only heartbeats are known."""
    monkeypatch.setattr(claims_module, 'is_dead', lambda _: False)


def test_claim_has_one_holder(tmp_path):
    first, second = Claims(tmp_path, STALE), Claims(tmp_path, STALE)
    claim = first.acquire('a')
    assert claim.number == 1
    assert second.acquire('a') is None
    assert second.acquire('b').number == 1
    claim.release()
    assert second.acquire('a').number == 2
    assert first.acquire('a') is None


def test_names_with_dots_are_distinct(tmp_path):
    claims = Claims(tmp_path, STALE)
    claimed = {name: claims.acquire(name) for name in ('w8', 'w8.1', 'w8.1.1', 'w8.1.beat')}
    assert all(claimed.values())
    assert {name: [claim.number for claim in made] for name, made in claims.list_all().items()} == {
        name: [1] for name in claimed
    }


def test_holder_without_heartbeat_is_superseded_and_notices(tmp_path, monkeypatch):
    hide_processes(monkeypatch)
    first, second = Claims(tmp_path, STALE), Claims(tmp_path, STALE)
    claim = first.acquire('a')
    for beat in range(4):  # with a heartbeat, the claim cannot be acquired
        time.sleep(STALE / 2)
        claim.heartbeat(10.0 * beat)
        assert second.acquire('a') is None
    assert not claim.is_superseded()
    time.sleep(STALE + 0.3)
    assert second.acquire('a').number == 2
    assert claim.is_superseded()
    assert claim.held_seconds() == 30.0


def test_claims_are_held_for_a_while_after_the_machine_slept(tmp_path, monkeypatch):
    hide_processes(monkeypatch)
    seconds = [0.0]
    clock = ActiveClock(lambda: seconds[0])
    first, second = Claims(tmp_path, STALE), Claims(tmp_path, STALE, clock)
    claim = first.acquire('a')
    slept = time.time() - 3600
    os.utime(tmp_path / 'claims' / 'a.1.beat', (slept, slept))
    seconds[0] += 3600
    assert second.acquire('a') is None  # its holder may be on this machine
    seconds[0] += STALE + 0.1
    assert second.acquire('a').number == 2
    assert claim.is_superseded()


def test_machine_clocks_are_not_used(tmp_path, monkeypatch):
    hide_processes(monkeypatch)
    monkeypatch.setattr(time, 'time', lambda: 0.0)
    claim = Claims(tmp_path, STALE).acquire('a')
    assert Claims(tmp_path, STALE).acquire('a') is None
    assert claim.held_seconds() == 0.0


def test_killed_holder_on_this_machine_is_detected_at_once(tmp_path):
    with subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == '1\n'
        assert Claims(tmp_path, 60.0).acquire('a') is None
        process.kill()
    assert Claims(tmp_path, 60.0).acquire('a').number == 2


def test_reused_pid_is_not_the_holder():
    process = claims_module.this_process()
    assert not claims_module.is_dead(process)
    assert claims_module.is_dead(process | {'began': '1'})
    assert not claims_module.is_dead(process | {'machine': 'another', 'began': '1'})
    assert not claims_module.is_dead(process | {'machine': ''})


TAKER = """
import os, sys, time
from pathlib import Path
from gpt_jax.sweep.claims import Claims
if sys.argv[2] == 'no links':
    def refuse(*_):
        raise OSError('not here')
    os.link = refuse
claims = Claims(Path(sys.argv[1]), 60.0)
print('ready', flush=True)
sys.stdin.readline()
print(*[name for name in sys.argv[3].split(',') if claims.acquire(name)], flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize('links', ['links', 'no links'])
def test_exactly_one_of_many_processes_acquires_each_claim(tmp_path, links):
    names = [f'trial{index}' for index in range(50)]
    argv = [sys.executable, '-c', TAKER, str(tmp_path), links, ','.join(names)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(5)
        ]
        for step in ('ready', 'go'):
            lines = [process.stdout.readline().split() for process in processes]
            for process in processes:
                process.stdin.write('\n')
                process.stdin.flush()
            assert step == 'go' or lines == [['ready']] * 5
    assert sorted(name for line in lines for name in line) == sorted(names)
    pids = {json.loads((tmp_path / 'claims' / f'{name}.1').read_text())['pid'] for name in names}
    assert pids <= {process.pid for process in processes}
