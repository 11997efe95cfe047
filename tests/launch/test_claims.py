"""Has a trial one holder at a time, and never a dead one for long, whoever is frozen, killed or just faster?"""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from gpt_jax.launch import alive
from gpt_jax.launch.claims import Claims

STALE = 0.6  # seconds
HOLDER = """
import sys, time
from pathlib import Path
from gpt_jax.launch.claims import Claims
claim = Claims(Path(sys.argv[1]), 60.0).take('a')
print(claim.number, flush=True)
time.sleep(60)
"""


def elsewhere(monkeypatch):
    """From here on every other process seems to be on another machine, so that only its beat is known."""
    monkeypatch.setattr(alive, 'dead', lambda _: False)


def test_one_at_a_time(tmp_path):
    first, second = Claims(tmp_path, STALE), Claims(tmp_path, STALE)
    claim = first.take('a')
    assert claim.number == 1
    assert second.take('a') is None
    assert second.take('b').number == 1
    claim.release()
    assert second.take('a').number == 2
    assert first.take('a') is None


def test_names_with_dots_are_not_confused(tmp_path):
    claims = Claims(tmp_path, STALE)
    taken = {name: claims.take(name) for name in ('w8', 'w8.1', 'w8.1.1', 'w8.1.beat')}
    assert all(taken.values())
    assert {name: [one.number for one in made] for name, made in claims.all().items()} == {name: [1] for name in taken}


def test_a_holder_that_does_not_beat_is_followed_and_finds_out(tmp_path, monkeypatch):
    elsewhere(monkeypatch)
    first, second = Claims(tmp_path, STALE), Claims(tmp_path, STALE)
    claim = first.take('a')
    for _ in range(4):  # as long as it beats, nobody takes it
        time.sleep(STALE / 2)
        claim.beat()
        assert second.take('a') is None
    assert not claim.lost()
    time.sleep(STALE + 0.3)
    assert second.take('a').number == 2
    assert claim.lost()
    assert 3 * STALE / 2 < claim.seconds() < 4 * STALE


def test_the_clocks_of_the_machines_do_not_matter(tmp_path, monkeypatch):
    elsewhere(monkeypatch)
    monkeypatch.setattr(time, 'time', lambda: 0.0)
    claim = Claims(tmp_path, STALE).take('a')
    assert Claims(tmp_path, STALE).take('a') is None
    assert claim.seconds() < STALE


def test_a_killed_holder_on_this_machine_is_known_at_once(tmp_path):
    with subprocess.Popen([sys.executable, '-c', HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == '1\n'
        assert Claims(tmp_path, 60.0).take('a') is None
        process.kill()
    assert Claims(tmp_path, 60.0).take('a').number == 2


def test_a_number_that_is_another_process_by_now_is_not_the_holder():
    me = alive.me()
    assert not alive.dead(me)
    assert alive.dead(me | {'began': '1'})
    assert not alive.dead(me | {'machine': 'another', 'began': '1'})
    assert not alive.dead(me | {'machine': ''})


TAKER = """
import os, sys, time
from pathlib import Path
from gpt_jax.launch.claims import Claims
if sys.argv[2] == 'no links':
    def refuse(*_):
        raise OSError('not here')
    os.link = refuse
claims = Claims(Path(sys.argv[1]), 60.0)
print('ready', flush=True)
sys.stdin.readline()
print(*[name for name in sys.argv[3].split(',') if claims.take(name)], flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize('links', ['links', 'no links'])
def test_of_many_processes_exactly_one_gets_each(tmp_path, links):
    names = [f'trial{index}' for index in range(50)]
    argv = [sys.executable, '-c', TAKER, str(tmp_path), links, ','.join(names)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(5)
        ]
        for step in ('ready', 'go'):
            lines = [one.stdout.readline().split() for one in processes]
            for one in processes:
                one.stdin.write('\n')
                one.stdin.flush()
            assert step == 'go' or lines == [['ready']] * 5
    assert sorted(name for line in lines for name in line) == sorted(names)
    pids = {json.loads((tmp_path / 'claims' / f'{name}.1').read_text())['pid'] for name in names}
    assert pids <= {one.pid for one in processes}
