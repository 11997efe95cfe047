"""Trials trained at once: equal to separate runs up to rounding, resumable, failing separately."""

import pytest

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.trainer import vmapped_trials
from tests import in_process

SWEEP = """
from configs import gpt_tiny
from gpt_jax.scaling.plan import design

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'many'
    trials = design.make_grid({'seed': (0, 1), 'optimizer.learning_rate': (1e-3, %s)})
    config.sweep.trials = trials[::%d]
    config.sweep.trials_per_process = %d
    return config
"""


def sweep_command(folder, source, rate, limit, every, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'many.py').write_text(SWEEP % (rate, every, limit))
    values = {
        'config': folder / 'many.py',
        'config.data.source': source,
        'config.model.layers': 1,
        'config.train.steps': 30,
        'config.train.checkpoint_every': 5,
        'config.train.eval_every': 10,
    }
    return in_process.command(folder / 'run', **values | fields)


def read_records(folder):
    records = files.read_jsonl(folder / 'run/records.jsonl')
    return {record['name']: record for record in records}


def test_equals_separate_runs_up_to_rounding(tmp_path, source):
    names = ('seed0-rate0.001', 'seed1-rate0.003')
    single = sweep_command(tmp_path / 'single', source, 3e-3, 1, 3)
    for name in names:
        in_process.run([*single, f'--trial={name}'])
    tracker = {'config.train.trackers': 'tests.train.fake_tracker:FileTracker'}
    many = sweep_command(tmp_path / 'many', source, 3e-3, 2, 3, **tracker)
    arguments = [*many, f'--trial={",".join(names)}']
    in_process.run_until(arguments, 13)
    _, err = in_process.run(arguments)  # resumes from the newest step that all have saved
    assert '2 runs at once on 2 devices' in err
    for sweep in (single, many):
        in_process.run(sweep)  # finds both trials done, and writes the records
    single, many = read_records(tmp_path / 'single'), read_records(tmp_path / 'many')
    assert single.keys() == many.keys()
    for name, record in many.items():
        assert record['trials_per_process'] == 2
        assert record['config_hash'] == single[name]['config_hash']
        assert record['validation_loss'] == pytest.approx(single[name]['validation_loss'], rel=2e-5)
        rows = [
            files.read_jsonl(tmp_path / which / f'run/trials/{name}/metrics.jsonl')
            for which in ('single', 'many')
        ]
        assert [row['step'] for row in rows[0]] == [row['step'] for row in rows[1]]
        sent = files.read_jsonl(tmp_path / f'many/run/trials/{name}/service.jsonl')
        assert [row['step'] for row in sent if 'step' in row] == [row['step'] for row in rows[1]]
        assert {(row['name'], row['group']) for row in sent if 'open' in row} == {(name, 'run')}
        for left, right in zip(*rows, strict=True):
            assert right['loss'] == pytest.approx(left['loss'], rel=2e-5)
            assert right['learning_rate'] == pytest.approx(left['learning_rate'], rel=1e-6)
    assert len({record['validation_loss'] for record in many.values()}) == 2


def test_diverged_trials_are_marked_and_the_others_finish(tmp_path, source):
    fields = {
        'config.train.max_skipped_in_row': 2,
        'config.train.log_every': 1,
        'config.train.steps': 12,
    }
    _, err = in_process.run(sweep_command(tmp_path, source, 1e38, 2, 3, **fields), code=3)
    assert {name: row['status'] for name, row in read_records(tmp_path).items()} == {
        'seed0-rate0.001': 'done',
        'seed1-rate1e38': 'failed: diverged',
    }
    assert '1 of 2 trials failed' in err
    log = (tmp_path / 'run/trials/seed0-rate0.001/log.txt').read_text()
    assert '2 runs at once on 2 devices' in log  # in one process of the sweep


def make_config(seed, rate=1e-3, width=32, branch='', weights=''):
    return {
        'seed': seed,
        'init_from': weights,
        'optimizer': {'learning_rate': rate},
        'model': {'width': width},
        'task': {'source': ''},
        'suite': {'tasks': []},
        'train': {'keep_steps': [], 'branch_from': branch, 'early_stopping_patience': 0},
    }


def test_only_trials_that_differ_in_seed_and_rate_are_grouped():
    trials = {
        'a': make_config(0),
        'wide': make_config(0, width=64),
        'b': make_config(1),
        'c': make_config(0, rate=2e-3),
        'd': make_config(2),
        'branch': make_config(3, branch='a'),
        'tuned': make_config(0, weights='runs/other'),
    }
    assert vmapped_trials.group_trials(trials, 3) == [
        ['a', 'b', 'c'],
        ['wide'],
        ['d'],
        ['branch'],
        ['tuned'],
    ]
    assert vmapped_trials.group_trials(trials, 1) == [[name] for name in trials]


def test_pretrained_weights_need_a_separate_process(tmp_path):
    trials = {name: make_config(seed, weights='runs/other') for seed, name in enumerate('ab')}
    with pytest.raises(UserError, match=r'--trial=a,b: init_from \(a\) needs a process of its own'):
        vmapped_trials.train_trials(trials, tmp_path, print)
