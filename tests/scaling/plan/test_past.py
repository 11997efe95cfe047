"""Does a sweep that goes on keep the old trials to the letter, and its rules for the new ones?"""

import json
from pathlib import Path

import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import past
from tests.scaling import sweep_records

BUDGETS = {1e14: (64, 96, 128, 192), 2e14: (64, 96, 128, 192)}


def test_own_records_are_read_in_the_terms_of_train_flops(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS)
    given = past.read(path, {}, '')
    assert given.runs.about['count'] == 'without_positions'
    assert given.runs.flops == pytest.approx(6 * given.runs.params * given.runs.tokens)
    assert past.own(given, 'batch') == sweep_records.BATCH
    assert past.own(given, 'width') is None
    assert past.own(given, 'nothing') is None
    assert past.head_dim(given) == 32


def test_trials_are_those_of_the_config_or_rebuilt(tmp_path):
    path, trials = sweep_records.write(tmp_path, BUDGETS)
    per_step = sweep_records.BATCH * sweep_records.CONTEXT
    given = past.read(path, {}, '')
    assert [past.trial(given, i, 1e14 if i < 4 else 2e14, per_step) for i in range(8)] == trials
    bare = given._replace(trials={})
    rebuilt = past.trial(bare, 1, 1e14, per_step)
    assert rebuilt == {key: value for key, value in trials[1].items() if key != 'model.init_std'}
    other = past.trial(bare, 1, 1.3e14, per_step)  # not the run's own length: then its steps
    assert other['train.steps'] == given.rows[1]['steps']
    assert 'train.flops' not in other


def test_rules_by_width_go_on_as_they_began(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS)
    given = past.read(path, {}, '')
    rate, start = past.by_width(given, 'optimizer.learning_rate'), past.by_width(given, 'model.init_std')
    assert [rate(width) for width in (160, 384)] == pytest.approx(
        [0.4 / 160, 0.4 / 384], rel=0.02
    )  # 5 decimals are in the rule
    assert rate(32) == pytest.approx(0.4 / 64, rel=0.005)  # never above the highest that was run
    assert start(384) == pytest.approx(0.5 / 384**0.5, rel=0.005)
    assert past.by_width(given._replace(trials={}), 'model.init_std') is None


def test_a_run_without_its_shape_cannot_be_kept(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS, config=False)
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    (tmp_path / 'records.jsonl').write_text(''.join(json.dumps(one | {'heads': None}) + '\n' for one in lines))
    given = past.read(path, {}, '')
    with pytest.raises(UserError, match='heads is missing; to keep the run in the sweep it takes name, layers'):
        past.trial(given, 0, 1e14, 4096)
