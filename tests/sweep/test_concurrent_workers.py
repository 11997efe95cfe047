"""Several workers on one sweep: each trial runs once, also if workers are killed or frozen."""

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

from gpt_jax.core import files
from gpt_jax.sweep import claims as claims_module
from gpt_jax.sweep import process, worker
from gpt_jax.sweep.claims import Claims
from gpt_jax.sweep.dashboard import Dashboard
from gpt_jax.sweep.ledger import Ledger, SweepLimits, Trial

FAKE = Path(__file__).with_name('fake_trial.py')
SCRIPT = """
import io, math, sys
from pathlib import Path
from gpt_jax.sweep import process, worker
from gpt_jax.sweep.dashboard import Dashboard
from gpt_jax.sweep.ledger import SweepLimits, Trial
worker.WAIT_SECONDS, process.POLL_SECONDS, process.GRACE_SECONDS = 0.05, 0.02, 0.5
folder, names = Path(sys.argv[1]), sys.argv[2].split(',')
trials = [[Trial(name, f'hash of {name}', 1.0, '')] for name in names]
limits = SweepLimits(math.inf, float(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
only = frozenset(sys.argv[6].split(',')) if len(sys.argv) > 6 else None
display = Dashboard(io.StringIO(), 'x', dict.fromkeys(names, 1.0))
command = [sys.executable, FAKE, str(folder)]
records = worker.run_trials(trials, command, folder, limits, display, only)
print(sum(record['status'] == 'done' for record in records))
""".replace('FAKE', repr(str(FAKE)))


def start(folder, names, hours=math.inf, flops=math.inf, stale=1.0, only=None):
    argv = [
        sys.executable,
        '-c',
        SCRIPT,
        str(folder),
        ','.join(names),
        str(hours),
        str(flops),
        str(stale),
    ]
    return subprocess.Popen(
        [*argv, *([only] if only else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    outputs = [process.communicate(timeout=60) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return outputs


def count_done(folder):
    return Counter(
        event['trial']
        for event in files.read_jsonl(folder / 'ledger.jsonl')
        if event.get('status') == 'done'
    )


def count_starts(folder):
    return Counter((folder / 'starts.txt').read_text().split())


def test_three_workers_share_the_trials(tmp_path):
    names = [f'good-{index}' for index in range(12)] + ['bad-1', 'diverges-1']
    outs = finish([start(tmp_path, names) for _ in range(3)])
    assert [out for out, _ in outs] == ['12\n'] * 3  # each stays to the end and counts all
    assert count_starts(tmp_path) == dict.fromkeys(
        names, 1
    )  # failed ones too: only a later call tries them again
    assert count_done(tmp_path) == dict.fromkeys(names[:12], 1)
    assert len(list((tmp_path / 'ledger').iterdir())) > 1
    lines = files.read_jsonl(tmp_path / 'ledger.jsonl')
    assert sorted(map(json.dumps, lines)) == sorted(map(json.dumps, Ledger(tmp_path).read_events()))


def test_trials_of_killed_workers_are_taken_over(tmp_path):
    """After SIGKILL of a worker, four times, others take its trial over; each is done once."""
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
    # A trial whose worker was killed after the summary was written is done without an end event.
    assert max(count_done(tmp_path).values()) == 1
    assert_no_overlaps(tmp_path)


def assert_no_overlaps(folder):
    """Check that no trial began while another worker was running it."""
    for claims in Claims(folder, 60.0).list_all().values():
        starts = [claim.path.stat().st_mtime for claim in claims]
        lives = sorted(
            (start, start + claim.held_seconds())
            for start, claim in zip(starts, claims, strict=True)
        )
        assert all(end <= begin + 0.05 for (_, end), (begin, _) in itertools.pairwise(lives))


def test_frozen_worker_is_superseded_and_stops_when_it_wakes(tmp_path):
    first = start(tmp_path, ['short-1'], stale=1.0)
    until = time.monotonic() + 20
    while not (tmp_path / 'starts.txt').exists() and time.monotonic() < until:
        time.sleep(0.05)
    child = int(Path(f'/proc/{first.pid}/task/{first.pid}/children').read_text().split()[0])
    for pid in (first.pid, child):  # as on a frozen machine
        os.kill(pid, signal.SIGSTOP)
    # The second takes the first for a process of another machine, known only by its heartbeat.
    second = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'from gpt_jax.sweep import claims; claims.is_dead = lambda _: False\n' + SCRIPT,
            str(tmp_path),
            'short-1',
            'inf',
            'inf',
            '1.0',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while count_starts(tmp_path)['short-1'] < 2 and time.monotonic() < until:
        time.sleep(0.05)
    for pid in (child, first.pid):
        os.kill(pid, signal.SIGCONT)
    finish([first, second])
    assert count_starts(tmp_path) == {'short-1': 2}
    assert count_done(tmp_path) == {'short-1': 1}
    events = [event['event'] for event in files.read_jsonl(tmp_path / 'ledger.jsonl')]
    assert sorted(events) == ['begun', 'begun', 'ended', 'lost']


def test_trial_of_a_stopped_worker_is_resumed_by_another(tmp_path):
    first = start(tmp_path, ['short-1', 'good-1'])
    until = time.monotonic() + 20
    while not (tmp_path / 'starts.txt').exists() and time.monotonic() < until:
        time.sleep(0.05)
    second = start(tmp_path, ['short-1', 'good-1'])
    time.sleep(0.5)
    first.terminate()
    first.communicate(timeout=20)
    assert first.returncode == 1  # Preempted; run.py exits with 75
    finish([second])
    assert count_done(tmp_path) == {'short-1': 1, 'good-1': 1}


def test_flops_budget_is_shared_by_all_workers(tmp_path):
    names = [f'good-{index}' for index in range(6)]
    finish([start(tmp_path, names, flops=3.0) for _ in range(3)])
    assert sum(count_done(tmp_path).values()) == 3
    lines = files.read_jsonl(tmp_path / 'records.jsonl')
    assert Counter(line['status'].split(':')[0] for line in lines) == {'done': 3, 'no budget': 3}


def test_hours_budget_counts_running_trials_of_other_workers(tmp_path, monkeypatch):
    """Two slow trials at once spend the budget in half the time."""
    monkeypatch.setattr(worker, 'CHECK_SECONDS', 0.1)
    names = ['slow-1', 'slow-2', 'slow-3']
    began = time.monotonic()
    patched = 'from gpt_jax.sweep import worker; worker.CHECK_SECONDS = 0.1\n' + SCRIPT
    argv = [
        sys.executable,
        '-c',
        patched,
        str(tmp_path),
        ','.join(names),
        str(4 / 3600),
        'inf',
        '60',
    ]
    processes = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    finish(processes)
    took = time.monotonic() - began
    assert not count_done(tmp_path)
    seconds = sum(line.get('seconds', 0.0) for line in files.read_jsonl(tmp_path / 'ledger.jsonl'))
    assert 3.0 < seconds < 6.0, took


def test_worker_runs_only_the_selected_trials(tmp_path):
    names = ['good-1', 'good-2', 'good-3']
    finish([start(tmp_path, names, only='good-2')])
    assert count_starts(tmp_path) == {'good-2': 1}
    finish([start(tmp_path, names, only='good-3,good-1')])
    assert [line['name'] for line in files.read_jsonl(tmp_path / 'records.jsonl')] == names


def test_trial_that_keeps_stopping_is_started_a_few_times_only(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'POLL_SECONDS', 0.02)
    limits = SweepLimits(math.inf, math.inf, math.inf, 60.0)
    display = Dashboard(io.StringIO(), 'x', {'a': 1.0})
    records = worker.run_trials(
        [[Trial('a', 'h', 1.0, '')]], ['sh', '-c', 'exit 75'], tmp_path, limits, display
    )
    assert records == [
        {'name': 'a', 'status': 'failed: stopped by itself 5 times', 'config_hash': 'h'}
    ]
    assert claims_module.this_process()['pid'] == os.getpid()


@pytest.mark.parametrize('group_size', [1, 3])
def test_watch_ends_a_group_if_one_claim_is_superseded(tmp_path, group_size):
    """All claims of a group get heartbeats; if one is superseded, the process ends."""
    names = [f'slow-{index}' for index in range(group_size)]
    group = [Trial(name, f'hash of {name}', 1.0, '') for name in names]
    display = Dashboard(io.StringIO(), 'x', dict.fromkeys(names, 1.0))
    claims, refreshes = Claims(tmp_path, 60.0), []

    def supersede(text):
        refreshes.append(text)
        if len(refreshes) == 3:  # as by a worker that takes this process for dead
            (tmp_path / 'claims' / f'{names[-1]}.2').write_text(
                '{"machine": "", "pid": 1, "began": ""}'
            )
            (tmp_path / 'claims' / f'{names[-1]}.2.released').write_text('')
        if len(refreshes) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    display.refresh = supersede
    limits = SweepLimits(math.inf, math.inf, math.inf, 60.0)
    with pytest.raises(Exception, match='interrupted'):
        worker.run_trials(
            [group], [sys.executable, str(FAKE), str(tmp_path)], tmp_path, limits, display
        )
    events = [event['event'] for event in files.read_jsonl(tmp_path / 'ledger.jsonl')]
    assert events.count('lost') == group_size
    assert claims.find_latest(names[-1]).number == 3
