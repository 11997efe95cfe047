"""A worker runs each trial once: failing, hanging, killed, out of memory, or a killed sweep."""

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

from gpt_jax.core import files
from gpt_jax.core.clock import ActiveClock
from gpt_jax.core.errors import Preempted
from gpt_jax.sweep import process as process_module
from gpt_jax.sweep import worker
from gpt_jax.sweep.dashboard import Dashboard
from gpt_jax.sweep.ledger import Ledger, SweepLimits, Trial

FAKE = Path(__file__).with_name('fake_trial.py')
NO_LIMIT = SweepLimits(hang_seconds=math.inf, hours=math.inf, flops=math.inf, stale_seconds=60.0)
QUICK = NO_LIMIT._replace(hang_seconds=1.0)
TWENTY = [
    'good-1',
    'bad-1',
    'good-2',
    'hang-1',
    'memory-1',
    'good-3',
    'killed-1',
    'diverges-1',
    'good-4',
    'liar-1',
    'good-5',
    'killed-2',
    'good-6',
    'hangonce-1',
    'good-7',
    'full-1',
    'good-8',
    'crashes-1',
    'good-9',
    'bad-2',
]
REASONS = {
    'bad': 'failed: bad input (run.py: config.model.width: must be positive, got -1)',
    'hang': 'hung: no activity for 1 s',
    'hangonce': 'hung: no activity for 1 s',
    'memory': 'failed: out of memory',
    'full': 'failed: disk full (run.py: /x: no space left on this disk)',
    'crashes': 'failed: exit code 1 (ValueError: a bug)',
    'killed': 'failed: killed by SIGKILL',
    'diverges': 'failed: diverged',
    'liar': 'failed: it left no summary',
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(process_module, 'GRACE_SECONDS', 0.5)
    monkeypatch.setattr(process_module, 'POLL_SECONDS', 0.02)


def make_trial(name, flops=1.0, parent=''):
    return Trial(name, f'hash of {name}', flops, parent)


def run(folder, trials, limits=QUICK, stream=None):
    groups = [group if isinstance(group, list) else [group] for group in trials]
    costs = {trial.name: trial.flops for group in groups for trial in group}
    display = Dashboard(stream or io.StringIO(), 'test', costs)
    return worker.run_trials(
        groups, [sys.executable, str(FAKE), str(folder)], folder, limits, display
    )


def statuses(records):
    return {record['name']: record['status'] for record in records}


def count_starts(folder):
    return Counter((folder / 'starts.txt').read_text().split())


def test_twenty_trials_with_every_failure(tmp_path):
    output = io.StringIO()
    trials = [make_trial(name) for name in TWENTY]
    first = statuses(run(tmp_path, trials, stream=output))
    assert first == {name: REASONS.get(name.split('-')[0], 'done') for name in TWENTY}
    assert count_starts(tmp_path) == dict.fromkeys(TWENTY, 1)
    assert files.read_jsonl(tmp_path / 'records.jsonl') == rewrite_records(tmp_path)
    assert 'trial 4 of 20 · hang-1 · hung: no activity for 1 s' in output.getvalue()

    second = statuses(run(tmp_path, trials))  # only the failed trials are tried again
    assert {name for name, status in second.items() if status == 'done'} == {
        name for name in TWENTY if name.split('-')[0] in ('good', 'killed', 'hangonce')
    }
    assert count_starts(tmp_path) == {name: 1 if name.startswith('good') else 2 for name in TWENTY}
    ledger = files.read_jsonl(tmp_path / 'ledger.jsonl')
    assert Counter(line['event'] for line in ledger) == {'begun': 31, 'ended': 31}
    assert all(line['hash'] == f'hash of {line["trial"]}' for line in ledger)


def rewrite_records(folder):
    """Write the records from the folder's files only."""
    return worker.write_records([make_trial(name) for name in TWENTY], folder)


def test_killed_sweep_resumes(tmp_path):
    """SIGKILL at several moments, then a run to the end: each trial is done once."""
    names = ['slow-0'] + [f'good-{index}' for index in range(5)]
    script = tmp_path / 'sweep.py'
    script.write_text(f"""
import io, math, sys
from pathlib import Path
from gpt_jax.sweep.dashboard import Dashboard
from gpt_jax.sweep.ledger import Ledger, SweepLimits, Trial
from gpt_jax.sweep.worker import run_trials
names = {names!r}
trials = [[Trial(name, f'hash of {{name}}', 1.0, '')] for name in names]
limits = SweepLimits(math.inf, math.inf, math.inf, 60.0)
command = [sys.executable, {str(FAKE)!r}, {str(tmp_path)!r}]
display = Dashboard(io.StringIO(), 'x', dict.fromkeys(names, 1.0))
run_trials(trials, command, Path({str(tmp_path)!r}), limits, display)
""")
    ledger = tmp_path / 'ledger.jsonl'
    for pause in (0.7, 1.5, 2.5):
        process = subprocess.Popen([sys.executable, str(script)])
        while not ledger.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
        for line in ledger.read_bytes().splitlines()[:-1]:
            json.loads(line)
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    records = files.read_jsonl(tmp_path / 'records.jsonl')
    assert statuses(records) == dict.fromkeys(names, 'done')
    ended = Counter(
        line['trial']
        for line in files.read_jsonl(tmp_path / 'ledger.jsonl')
        if line.get('status') == 'done'
    )
    assert set(ended) <= set(names)
    assert max(ended.values()) == 1


def test_stopped_sweep_passes_the_signal_on_and_names_the_trial(tmp_path, monkeypatch):
    refreshes = []

    def count_refreshes(_, text):
        refreshes.append(text)
        if len(refreshes) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Dashboard, 'refresh', count_refreshes)
    with pytest.raises(
        Preempted, match='interrupted in trial slow-1; the same command resumes from there'
    ):
        run(tmp_path, [make_trial('good-1'), make_trial('slow-1'), make_trial('good-2')], NO_LIMIT)
    assert count_starts(tmp_path) == {'good-1': 1, 'slow-1': 1}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_flops_budget_admits_cheaper_trials(tmp_path):
    trials = [make_trial('good-1', 4.0), make_trial('good-2', 8.0), make_trial('good-3', 3.0)]
    records = run(tmp_path, trials, NO_LIMIT._replace(flops=10.0))
    assert statuses(records) == {
        'good-1': 'done',
        'good-2': 'no budget: would exceed the 10 FLOPs of sweep.flops',
        'good-3': 'done',
    }
    assert statuses(run(tmp_path, trials, NO_LIMIT))['good-2'] == 'done'
    assert count_starts(tmp_path) == dict.fromkeys(('good-1', 'good-2', 'good-3'), 1)


def test_hours_budget_stops_the_running_trial_and_counts_all_calls(tmp_path):
    trials = [make_trial('slow-1'), make_trial('good-1')]
    limits = NO_LIMIT._replace(hours=1.0 / 3600)
    over_budget = 'no budget: the 0.000277778 hours of sweep.hours are spent'
    assert statuses(run(tmp_path, trials, limits)) == {'slow-1': over_budget, 'good-1': over_budget}
    run(tmp_path, trials, limits)
    assert count_starts(tmp_path) == {'slow-1': 1}


def test_branch_waits_for_its_trunk(tmp_path):
    records = run(
        tmp_path,
        [
            make_trial('bad-1'),
            make_trial('good-1', parent='bad-1'),
            make_trial('good-2', parent='/elsewhere/run'),
        ],
    )
    assert statuses(records)['good-1'] == 'failed: its trunk bad-1 is not done'
    assert statuses(records)['good-2'] == 'done'


def test_group_is_one_process_with_separate_records(tmp_path):
    records = run(tmp_path, [[make_trial('good-1'), make_trial('good-2')], make_trial('good-3')])
    assert statuses(records) == dict.fromkeys(('good-1', 'good-2', 'good-3'), 'done')
    assert count_starts(tmp_path) == {'good-1': 1, 'good-3': 1}


def test_a_machine_that_slept_is_not_a_trial_that_hangs(tmp_path, monkeypatch):
    """The clock jumps by an hour in each trial: in one that works, and in one that hangs."""
    now, looks, jumped = [0.0], [0], []

    def tell_time():
        looks[0] += 1
        now[0] += 0.02
        if looks[0] % 40 == 20:
            now[0] += 3600
            jumped.append(looks[0])
        return now[0]

    monkeypatch.setattr(worker, 'ActiveClock', lambda: ActiveClock(tell_time))
    limits = NO_LIMIT._replace(hang_seconds=12.0, hours=0.5)
    trials = [make_trial('short-1'), make_trial('good-1')]
    assert statuses(run(tmp_path, trials, limits)) == {'short-1': 'done', 'good-1': 'done'}
    assert jumped
    hang = statuses(run(tmp_path / 'hang', [make_trial('hang-1')], limits))
    assert hang == {'hang-1': 'hung: no activity for 12 s'}


def test_reasons_are_what_is_known(tmp_path, monkeypatch):
    describe = process_module._describe_exit
    assert describe(1, tmp_path, 0) == 'exit code 1'
    assert describe(-signal.SIGKILL, tmp_path, 0) == 'killed by SIGKILL'
    assert describe(-signal.SIGKILL, tmp_path, 2) == (
        'killed by SIGKILL; memory ran out meanwhile, and the system killed 2 processes'
    )
    monkeypatch.setattr(files, 'measure_free_bytes', lambda _: 0)
    assert describe(-signal.SIGBUS, tmp_path, 0) == (
        f'killed by SIGBUS; the disk of {tmp_path} is full'
    )
    (tmp_path / 'vmstat').write_text('nr_free_pages 5\noom_kill 3\n')
    monkeypatch.setattr(process_module, 'VMSTAT_FILE', tmp_path / 'vmstat')
    assert process_module._count_oom_kills() == 3


def test_the_trial_itself_decides_about_a_summary_of_another_config(tmp_path):
    run(tmp_path, [make_trial('good-1')])
    other = Trial('good-1', 'another hash', 1.0, '')
    # The fake trial leaves its old summary; a real one refuses the config, or renews the summary.
    assert statuses(run(tmp_path, [other])) == {'good-1': 'failed: it left no summary'}


def test_a_known_divergence_is_not_run_again(tmp_path):
    trial = make_trial('diverges-1')
    run(tmp_path, [trial])
    note = {'config_hash': f'{trial.hash}-data8', 'error': '10 steps in a row'}
    files.write_json(tmp_path / 'trials/diverges-1/diverged.json', note)
    assert statuses(run(tmp_path, [trial])) == {'diverges-1': 'failed: diverged'}
    assert len(Ledger(tmp_path).read_end_events()['diverges-1']) == 1
    run(tmp_path, [trial._replace(hash='another hash')])
    assert len(Ledger(tmp_path).read_end_events()['diverges-1']) == 2
