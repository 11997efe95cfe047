"""Do trials that train at once give what they give one by one, stop and go on, and fail each for itself?"""

import signal
import time

import pytest

from gpt_jax import jsonl
from gpt_jax.errors import UserError
from gpt_jax.modes import together
from tests import program

SWEEP = """
from configs import gpt_tiny
from gpt_jax.scaling.plan import design

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'many'
    trials = design.grid({'seed': (0, 1), 'optimizer.learning_rate': (1e-3, %s)})
    config.sweep.trials = trials[::%d]
    config.sweep.together = %d
    return config
"""


def sweep(folder, source, rate, limit, every, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'many.py').write_text(SWEEP % (rate, every, limit))
    given = {'config': folder / 'many.py', 'config.data.source': source, 'config.train.checkpoint_every': 10}
    return program.command(folder / 'run', **given | {key.replace('__', '.'): value for key, value in fields.items()})


def records(folder):
    return {one['name']: one for one in jsonl.read(folder / 'run/records.jsonl')}


def test_together_equals_one_by_one_to_rounding(tmp_path, source):
    program.run(sweep(tmp_path / 'single', source, 3e-3, 1, 3))
    arguments = sweep(tmp_path / 'many', source, 3e-3, 2, 3)
    process = program.start(arguments)
    folder = tmp_path / 'many/run/trials/seed0-rate0.001'
    while not list((folder / 'checkpoints').glob('[0-9]*')) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (75, 0)
    program.run(arguments)  # goes on from what all of them had saved
    single, many = records(tmp_path / 'single'), records(tmp_path / 'many')
    assert single.keys() == many.keys()
    for name, one in many.items():
        assert one['together'] == 2
        assert one['config_hash'] == single[name]['config_hash']
        assert one['validation_loss'] == pytest.approx(single[name]['validation_loss'], rel=2e-5)
        rows = [jsonl.read(tmp_path / which / f'run/trials/{name}/metrics.jsonl') for which in ('single', 'many')]
        assert [row['step'] for row in rows[0]] == [row['step'] for row in rows[1]]
        for left, right in zip(*rows, strict=True):
            assert right['loss'] == pytest.approx(left['loss'], rel=2e-5)
            assert right['learning_rate'] == pytest.approx(left['learning_rate'], rel=1e-6)
    assert len({one['validation_loss'] for one in many.values()}) == 2
    log = (tmp_path / 'many/run/trials/seed0-rate0.001/log.txt').read_text()
    assert log.count('2 runs at once on 2 devices') in (1, 2)


def test_one_that_diverges_is_marked_and_the_others_are_done(tmp_path, source):
    fields = {'config__train__max_skipped_in_row': 2, 'config__train__log_every': 1, 'config__train__steps': 12}
    _, err = program.run(sweep(tmp_path, source, 1e38, 4, 1, **fields), code=3)
    assert {name: one['status'] for name, one in records(tmp_path).items()} == {
        'seed0-rate0.001': 'done', 'seed0-rate1e38': 'failed: diverged',
        'seed1-rate0.001': 'done', 'seed1-rate1e38': 'failed: diverged',
    }  # fmt: skip
    assert '2 of 4 trials failed' in err


def config(seed, rate=1e-3, width=32, branch='', weights=''):
    return {'seed': seed, 'init_from': weights, 'optimizer': {'learning_rate': rate}, 'model': {'width': width},
            'task': {'source': ''}, 'suite': {'tasks': []},
            'train': {'keep_steps': [], 'branch_from': branch, 'patience': 0}}  # fmt: skip


def test_only_what_differs_in_seed_and_rate_goes_together():
    trials = {
        'a': config(0), 'wide': config(0, width=64), 'b': config(1), 'c': config(0, rate=2e-3), 'd': config(2),
        'branch': config(3, branch='a'), 'tuned': config(0, weights='runs/other'),
    }  # fmt: skip
    assert together.groups(trials, 3) == [['a', 'b', 'c'], ['wide'], ['d'], ['branch'], ['tuned']]
    assert together.groups(trials, 1) == [[name] for name in trials]


def test_what_begins_elsewhere_is_not_begun_at_random(tmp_path):
    trials = {name: config(seed, weights='runs/other') for seed, name in enumerate('ab')}
    with pytest.raises(UserError, match=r'--trial=a,b: init_from \(a\) takes a process of its own'):
        together.train(trials, tmp_path, print)
