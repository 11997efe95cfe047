"""A continued sweep has its old trials unchanged, and its rules for new ones."""

import json
from pathlib import Path

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import trial_rows
from tests.scaling import sweep_records

BUDGETS = {1e14: (64, 96, 128, 192), 2e14: (64, 96, 128, 192)}


def test_records_are_counted_like_train_flops(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS)
    previous = trial_rows.read_previous_runs(path, {}, '')
    assert previous.runs.provenance['count'] == 'without_positions'
    assert previous.runs.flops == pytest.approx(6 * previous.runs.params * previous.runs.tokens)
    assert trial_rows.get_shared_value(previous, 'batch') == sweep_records.BATCH
    assert trial_rows.get_shared_value(previous, 'width') is None
    assert trial_rows.get_shared_value(previous, 'nothing') is None
    assert trial_rows.find_head_dim(previous) == 32


def test_trials_are_read_from_the_config_or_rebuilt(tmp_path):
    path, trials = sweep_records.write(tmp_path, BUDGETS)
    per_step = sweep_records.BATCH * sweep_records.CONTEXT
    previous = trial_rows.read_previous_runs(path, {}, '')
    assert [
        trial_rows.rebuild_trial(previous, i, 1e14 if i < 4 else 2e14, per_step) for i in range(8)
    ] == trials
    bare = previous._replace(trials={})
    rebuilt = trial_rows.rebuild_trial(bare, 1, 1e14, per_step)
    assert rebuilt == {key: value for key, value in trials[1].items() if key != 'model.init_std'}
    other = trial_rows.rebuild_trial(
        bare, 1, 1.3e14, per_step
    )  # not the run's own length: then its steps
    assert other['train.steps'] == previous.rows[1]['steps']
    assert 'train.flops' not in other


def test_rules_by_width_are_continued(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS)
    previous = trial_rows.read_previous_runs(path, {}, '')
    rate, start = (
        trial_rows.interpolate_by_width(previous, 'optimizer.learning_rate'),
        trial_rows.interpolate_by_width(previous, 'model.init_std'),
    )
    assert [rate(width) for width in (160, 384)] == pytest.approx(
        [0.4 / 160, 0.4 / 384], rel=0.02
    )  # 5 decimals are in the rule
    assert rate(32) == pytest.approx(0.4 / 64, rel=0.005)  # never above the highest that was run
    assert start(384) == pytest.approx(0.5 / 384**0.5, rel=0.005)
    assert trial_rows.interpolate_by_width(previous._replace(trials={}), 'model.init_std') is None


def test_run_without_its_shape_is_rejected(tmp_path):
    path, _ = sweep_records.write(tmp_path, BUDGETS, config=False)
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    (tmp_path / 'records.jsonl').write_text(
        ''.join(json.dumps(one | {'heads': None}) + '\n' for one in lines)
    )
    previous = trial_rows.read_previous_runs(path, {}, '')
    with pytest.raises(
        UserError, match='heads is missing; to continue the sweep with this run, it needs name'
    ):
        trial_rows.rebuild_trial(previous, 0, 1e14, 4096)
