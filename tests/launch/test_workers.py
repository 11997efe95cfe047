"""Do many workers on one folder do a sweep once, whichever of them is killed, frozen or stopped?"""

import io
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gpt_jax import jsonl
from gpt_jax.launch import alive, sweep, trial, worker
from gpt_jax.launch.claims import Claims
from gpt_jax.launch.ledger import Ledger
from gpt_jax.observe.board import Board

FAKE = Path(__file__).with_name('fake_trial.py')
SCRIPT = """
import io, math, sys
from pathlib import Path
from gpt_jax.launch import sweep, trial, worker
from gpt_jax.observe.board import Board
worker.WAIT, trial.POLL, trial.GRACE = 0.05, 0.02, 0.5
folder, names = Path(sys.argv[1]), sys.argv[2].split(',')
trials = [[sweep.Trial(name, f'hash of {name}', 1.0, '')] for name in names]
limits = sweep.Limits(math.inf, float(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
only = frozenset(sys.argv[6].split(',')) if len(sys.argv) > 6 else None
board = Board(io.StringIO(), 'x', dict.fromkeys(names, 1.0))
records = sweep.run(trials, [sys.executable, FAKE, str(folder)], folder, limits, board, only)
print(sum(one['status'] == 'done' for one in records))
""".replace('FAKE', repr(str(FAKE)))


def start(folder, names, hours=math.inf, flops=math.inf, stale=1.0, only=None):
    argv = [sys.executable, '-c', SCRIPT, str(folder), ','.join(names), str(hours), str(flops), str(stale)]
    return subprocess.Popen(
        [*argv, *([only] if only else [])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(processes):
    made = [one.communicate(timeout=60) for one in processes]
    assert all(one.returncode == 0 for one in processes), made
    return made


def ended(folder):
    return Counter(line['trial'] for line in jsonl.read(folder / 'ledger.jsonl') if line.get('status') == 'done')


def starts(folder):
    return Counter((folder / 'starts.txt').read_text().split())


def test_three_workers_share_the_trials_and_do_none_twice(tmp_path):
    names = [f'good-{index}' for index in range(12)] + ['bad-1', 'diverges-1']
    outs = finish([start(tmp_path, names) for _ in range(3)])
    assert [out for out, _ in outs] == ['12\n'] * 3  # each stays to the end, and knows all
    assert starts(tmp_path) == dict.fromkeys(names, 1)  # those that failed, too: a later call tries them again
    assert ended(tmp_path) == dict.fromkeys(names[:12], 1)
    assert len(list((tmp_path / 'ledger').iterdir())) > 1
    lines = jsonl.read(tmp_path / 'ledger.jsonl')
    assert sorted(map(json.dumps, lines)) == sorted(map(json.dumps, Ledger(tmp_path).lines()))


def test_workers_killed_at_random_are_taken_over(tmp_path):
    """kill -9 of a worker, four times: its trial is taken up by others, none is done twice or lost."""
    names = [f'short-{index}' for index in range(4)] + [f'good-{index}' for index in range(3)]
    generator, running = random.Random(0), [start(tmp_path, names) for _ in range(2)]
    for _ in range(4):
        time.sleep(generator.uniform(0.4, 1.0))
        victim = running.pop(generator.randrange(2))
        victim.kill()
        victim.communicate()
        running.append(start(tmp_path, names))
    outs = finish(running)
    assert [out for out, _ in outs] == [f'{len(names)}\n'] * 2
    # One whose worker was killed after it had left its summary is done, though nobody wrote that it ended.
    assert max(ended(tmp_path).values()) == 1
    overlaps(tmp_path)


def overlaps(folder):
    """No trial may have begun while it was under way elsewhere."""
    claims = Claims(folder, 60.0).all()
    for made in claims.values():
        lives = sorted((one.path.stat().st_mtime, one.path.stat().st_mtime + one.seconds()) for one in made)
        assert all(end <= begin + 0.05 for (_, end), (begin, _) in itertools.pairwise(lives))


def test_a_frozen_worker_is_taken_over_and_gives_up_when_it_wakes(tmp_path):
    first = start(tmp_path, ['short-1'], stale=1.0)
    until = time.monotonic() + 20
    while not (tmp_path / 'starts.txt').exists() and time.monotonic() < until:
        time.sleep(0.05)
    child = int(Path(f'/proc/{first.pid}/task/{first.pid}/children').read_text().split()[0])
    for pid in (first.pid, child):  # a machine that is frozen, all of it
        os.kill(pid, signal.SIGSTOP)
    # The second believes it is on another machine; it has only the beat to go by.
    second = subprocess.Popen(
        [sys.executable, '-c', 'from gpt_jax.launch import alive; alive.dead = lambda _: False\n' + SCRIPT,
         str(tmp_path), 'short-1', 'inf', 'inf', '1.0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while starts(tmp_path)['short-1'] < 2 and time.monotonic() < until:
        time.sleep(0.05)
    for pid in (child, first.pid):
        os.kill(pid, signal.SIGCONT)
    finish([first, second])
    assert starts(tmp_path) == {'short-1': 2}
    assert ended(tmp_path) == {'short-1': 1}
    events = [line['event'] for line in jsonl.read(tmp_path / 'ledger.jsonl')]
    assert sorted(events) == ['begun', 'begun', 'ended', 'lost']


def test_a_stopped_workers_trial_is_taken_up_by_another(tmp_path):
    first = start(tmp_path, ['short-1', 'good-1'])
    until = time.monotonic() + 20
    while not (tmp_path / 'starts.txt').exists() and time.monotonic() < until:
        time.sleep(0.05)
    second = start(tmp_path, ['short-1', 'good-1'])
    time.sleep(0.5)
    first.terminate()
    first.communicate(timeout=20)
    assert first.returncode == 1  # Preempted, which run.py makes 75
    finish([second])
    assert ended(tmp_path) == {'short-1': 1, 'good-1': 1}


def test_budgets_hold_over_all_workers(tmp_path):
    names = [f'good-{index}' for index in range(6)]
    finish([start(tmp_path, names, flops=3.0) for _ in range(3)])
    assert sum(ended(tmp_path).values()) == 3
    lines = jsonl.read(tmp_path / 'records.jsonl')
    assert Counter(line['status'].split(':')[0] for line in lines) == {'done': 3, 'no budget': 3}


def test_the_budget_of_hours_counts_those_under_way_elsewhere(tmp_path, monkeypatch):
    """Two slow trials at once use it up in half the time."""
    monkeypatch.setattr(worker, 'LOOK', 0.1)
    names = ['slow-1', 'slow-2', 'slow-3']
    began = time.monotonic()
    patched = 'from gpt_jax.launch import worker; worker.LOOK = 0.1\n' + SCRIPT
    argv = [sys.executable, '-c', patched, str(tmp_path), ','.join(names), str(4 / 3600), 'inf', '60']
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    finish(processes)
    took = time.monotonic() - began
    assert not ended(tmp_path)
    seconds = sum(line.get('seconds', 0.0) for line in jsonl.read(tmp_path / 'ledger.jsonl'))
    assert 3.0 < seconds < 6.0, took


def test_a_task_runs_only_its_own_and_leaves_the_rest(tmp_path):
    names = ['good-1', 'good-2', 'good-3']
    finish([start(tmp_path, names, only='good-2')])
    assert starts(tmp_path) == {'good-2': 1}
    finish([start(tmp_path, names, only='good-3,good-1')])
    assert [line['name'] for line in jsonl.read(tmp_path / 'records.jsonl')] == names


def test_a_ledger_from_before_there_were_many_writers_counts(tmp_path):
    old = {'time': '2025-01-01T00:00:00.000+00:00', 'event': 'ended', 'trial': 'a', 'hash': 'h', 'status': 'failed: x',
           'seconds': 3600.0}  # fmt: skip
    jsonl.append(tmp_path / 'ledger.jsonl', old)
    ledger = Ledger(tmp_path)
    ledger.note('b', 'h', 'begun', 1)
    assert [line['trial'] for line in jsonl.read(tmp_path / 'ledger.jsonl')] == ['a', 'b']
    limits = sweep.Limits(math.inf, 1.0, math.inf, 60.0)
    board = Board(io.StringIO(), 'x', {'good-1': 1.0})
    records = sweep.run([[sweep.Trial('good-1', 'h', 1.0, '')]], ['false'], tmp_path, limits, board)
    assert records[0]['status'] == 'no budget: the 1 hours of sweep.hours are spent'


def test_a_trial_that_stops_by_itself_is_not_started_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, 'POLL', 0.02)
    limits = sweep.Limits(math.inf, math.inf, math.inf, 60.0)
    board = Board(io.StringIO(), 'x', {'a': 1.0})
    records = sweep.run([[sweep.Trial('a', 'h', 1.0, '')]], ['sh', '-c', 'exit 75'], tmp_path, limits, board)
    assert records == [{'name': 'a', 'status': 'failed: stopped by itself 5 times', 'config_hash': 'h'}]
    assert alive.me()['pid'] == os.getpid()


@pytest.mark.parametrize('together', [1, 3])
def test_the_watch_asks_for_a_stop_and_for_an_end(tmp_path, together):
    """Of a group all claims are kept alive; that one is lost ends them all."""
    names = [f'slow-{index}' for index in range(together)]
    group = [sweep.Trial(name, f'hash of {name}', 1.0, '') for name in names]
    board = Board(io.StringIO(), 'x', dict.fromkeys(names, 1.0))
    claims, ticks = Claims(tmp_path, 60.0), []

    def steal(said):
        ticks.append(said)
        if len(ticks) == 3:  # as another would that believes this process dead
            (tmp_path / 'claims' / f'{names[-1]}.2').write_text('{"machine": "", "pid": 1, "began": ""}')
            (tmp_path / 'claims' / f'{names[-1]}.2.released').write_text('')
        if len(ticks) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    board.tick = steal
    limits = sweep.Limits(math.inf, math.inf, math.inf, 60.0)
    with pytest.raises(Exception, match='interrupted'):
        sweep.run([group], [sys.executable, str(FAKE), str(tmp_path)], tmp_path, limits, board)
    events = [line['event'] for line in jsonl.read(tmp_path / 'ledger.jsonl')]
    assert events.count('lost') == together
    assert claims.latest(names[-1]).number == 3
