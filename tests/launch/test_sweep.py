"""Is each trial run once, whatever becomes of it: failing, hanging, killed, out of memory, or its sweep killed?"""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gpt_jax import jsonl
from gpt_jax.errors import Preempted, UserError
from gpt_jax.launch import sweep, trial
from gpt_jax.observe.board import Board

FAKE = Path(__file__).with_name('fake_trial.py')
NO_LIMIT = sweep.Limits(hang_seconds=math.inf, hours=math.inf, flops=math.inf, stale_seconds=60.0)
QUICK = NO_LIMIT._replace(hang_seconds=1.0)
TWENTY = [
    'good-1', 'bad-1', 'good-2', 'hang-1', 'memory-1', 'good-3', 'killed-1', 'diverges-1', 'good-4', 'liar-1',
    'good-5', 'killed-2', 'good-6', 'hangonce-1', 'good-7', 'memory-2', 'good-8', 'diverges-2', 'good-9', 'bad-2',
]  # fmt: skip
REASONS = {
    'bad': 'failed: bad input (run.py: config.model.width: must be positive, got -1)',
    'hang': 'hung: no sign of life for 1 s',
    'hangonce': 'hung: no sign of life for 1 s',
    'memory': 'failed: out of memory',
    'killed': 'failed: killed (signal 9), as the system does where memory runs out',
    'diverges': 'failed: diverged',
    'liar': 'failed: it left no summary',
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(trial, 'GRACE', 0.5)
    monkeypatch.setattr(trial, 'POLL', 0.02)


def one(name, flops=1.0, parent=''):
    return sweep.Trial(name, f'hash of {name}', flops, parent)


def run(folder, trials, limits=QUICK, stream=None):
    groups = [each if isinstance(each, list) else [each] for each in trials]
    costs = {each.name: each.flops for group in groups for each in group}
    board = Board(stream or io.StringIO(), 'test', costs)
    return sweep.run(groups, [sys.executable, str(FAKE), str(folder)], folder, limits, board)


def statuses(records):
    return {record['name']: record['status'] for record in records}


def starts(folder):
    return Counter((folder / 'starts.txt').read_text().split())


def test_twenty_trials_with_every_mishap_lose_nothing_and_do_nothing_twice(tmp_path):
    said = io.StringIO()
    trials = [one(name) for name in TWENTY]
    first = statuses(run(tmp_path, trials, stream=said))
    assert first == {name: REASONS.get(name.split('-')[0], 'done') for name in TWENTY}
    assert starts(tmp_path) == dict.fromkeys(TWENTY, 1)
    assert jsonl.read(tmp_path / 'records.jsonl') == run_again_without_work(tmp_path)
    assert 'trial 4 of 20 · hang-1 · hung: no sign of life for 1 s' in said.getvalue()

    second = statuses(run(tmp_path, trials))  # those that failed are tried once more, and only those
    assert {name for name, status in second.items() if status == 'done'} == {
        name for name in TWENTY if name.split('-')[0] in ('good', 'killed', 'hangonce')
    }
    assert starts(tmp_path) == {name: 1 if name.startswith('good') else 2 for name in TWENTY}
    ledger = jsonl.read(tmp_path / 'ledger.jsonl')
    assert Counter(line['event'] for line in ledger) == {'begun': 31, 'ended': 31}
    assert all(line['hash'] == f'hash of {line["trial"]}' for line in ledger)


def run_again_without_work(folder):
    """The records as they are made from what lies in the folder."""
    return sweep.write_records([one(name) for name in TWENTY], folder)


def test_a_sweep_that_is_killed_at_any_moment_goes_on(tmp_path):
    """SIGKILL to the sweep while it works, again and again, until all is done: each trial is done once."""
    names = ['slow-0'] + [f'good-{index}' for index in range(5)]
    script = tmp_path / 'sweep.py'
    script.write_text(f"""
import io, math, sys
from pathlib import Path
from gpt_jax.launch import sweep
from gpt_jax.observe.board import Board
names = {names!r}
trials = [[sweep.Trial(name, f'hash of {{name}}', 1.0, '')] for name in names]
limits = sweep.Limits(math.inf, math.inf, math.inf, 60.0)
command = [sys.executable, {str(FAKE)!r}, {str(tmp_path)!r}]
sweep.run(trials, command, Path({str(tmp_path)!r}), limits, Board(io.StringIO(), 'x', dict.fromkeys(names, 1.0)))
""")
    for pause in (0.7, 1.5, 2.5):
        process = subprocess.Popen([sys.executable, str(script)])
        time.sleep(pause)
        process.kill()
        process.wait()
        for line in (tmp_path / 'ledger.jsonl').read_bytes().splitlines()[:-1]:
            json.loads(line)
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    records = jsonl.read(tmp_path / 'records.jsonl')
    assert statuses(records) == dict.fromkeys(names, 'done')
    ended = Counter(line['trial'] for line in jsonl.read(tmp_path / 'ledger.jsonl') if line.get('status') == 'done')
    assert set(ended) <= set(names)
    assert max(ended.values()) == 1


def test_a_stopped_sweep_passes_the_signal_on_and_says_where_it_stopped(tmp_path, monkeypatch):
    beats = []

    def tick(_, said):
        beats.append(said)
        if len(beats) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Board, 'tick', tick)
    with pytest.raises(Preempted, match='interrupted in trial slow-1; the same command goes on'):
        run(tmp_path, [one('good-1'), one('slow-1'), one('good-2')], NO_LIMIT)
    assert starts(tmp_path) == {'good-1': 1, 'slow-1': 1}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_budget_of_flops_lets_cheaper_trials_pass(tmp_path):
    trials = [one('good-1', 4.0), one('good-2', 8.0), one('good-3', 3.0)]
    records = run(tmp_path, trials, NO_LIMIT._replace(flops=10.0))
    assert statuses(records) == {
        'good-1': 'done', 'good-2': 'no budget: it would pass the 10 FLOPs of sweep.flops', 'good-3': 'done',
    }  # fmt: skip
    assert statuses(run(tmp_path, trials, NO_LIMIT))['good-2'] == 'done'
    assert starts(tmp_path) == dict.fromkeys(('good-1', 'good-2', 'good-3'), 1)


def test_the_budget_of_hours_stops_the_trial_under_way_and_is_counted_over_all_calls(tmp_path):
    trials = [one('slow-1'), one('good-1')]
    limits = NO_LIMIT._replace(hours=1.0 / 3600)
    spent = 'no budget: the 0.000277778 hours of sweep.hours are spent'
    assert statuses(run(tmp_path, trials, limits)) == {'slow-1': spent, 'good-1': spent}
    run(tmp_path, trials, limits)
    assert starts(tmp_path) == {'slow-1': 1}


def test_a_branch_waits_for_its_trunk(tmp_path):
    records = run(tmp_path, [one('bad-1'), one('good-1', parent='bad-1'), one('good-2', parent='/elsewhere/run')])
    assert statuses(records)['good-1'] == 'failed: its trunk bad-1 is not done'
    assert statuses(records)['good-2'] == 'done'


def test_trials_of_a_group_are_one_process_and_separate_records(tmp_path):
    records = run(tmp_path, [[one('good-1'), one('good-2')], one('good-3')])
    assert statuses(records) == dict.fromkeys(('good-1', 'good-2', 'good-3'), 'done')
    assert starts(tmp_path) == {'good-1': 1, 'good-3': 1}


def test_a_folder_of_another_config_is_refused(tmp_path):
    run(tmp_path, [one('good-1')])
    with pytest.raises(UserError, match='of another config'):
        run(tmp_path, [sweep.Trial('good-1', 'another hash', 1.0, '')])
