"""Config files of planned sweeps can be loaded, and train what was planned."""

import pytest

from gpt_jax.core import config_cli, model_counts
from gpt_jax.core.config import parse_config, to_raw
from gpt_jax.scaling.plan import cooldown_plan, planner, trial_rows, write_config
from gpt_jax.scaling.plan.shapes import Architecture, Shape
from tests.scaling import sweep_records
from tests.scaling.plan import test_cooldown_plan, test_isoflop_plan, test_planner

LARGE = test_isoflop_plan.FRAME._replace(context=2048, vocab=50257, head_dim=None, layers=None)


def settings(text, vocab):
    assert max(map(len, text.splitlines())) <= 100
    space = {}
    exec(compile(text, 'planned.py', 'exec'), space)
    config = to_raw(space['get_config']())
    return {
        name: parse_config(one, vocab) for name, one in config_cli.expand_trials(config).items()
    }


def planned(case, tmp_path):
    """A published plan with a batch per budget; one that continues runs, on a named base."""
    if case == 'published':
        return test_isoflop_plan.isoflop((1e18, 1e19), family=LARGE, batch=None), '', 50257
    path, _ = sweep_records.write(tmp_path, test_isoflop_plan.SMALL)
    return (
        test_isoflop_plan.isoflop((1e14, 2e14, 8e14), trial_rows.read_previous_runs(path, {}, '')),
        'cpu',
        sweep_records.VOCAB,
    )


@pytest.mark.parametrize('case', ['published', 'recentred'])
def test_isoflop_config_uses_every_budget_to_within_half_a_step(case, tmp_path):
    result, base, vocab = planned(case, tmp_path)
    text = write_config.render_isoflop_config(result, 'configs/planned.py', base)
    trials_by_name = settings(text, vocab)
    rows = [(one['flops'], row) for one in result['budgets'] for row in one['trials']]
    assert list(trials_by_name) == [row['name'] for _, row in rows]
    assert len(text.splitlines()) <= 40 + len(rows)
    for budget, row in rows:
        one = trials_by_name[row['name']]
        step = model_counts.flops_per_token(one.model)['6N'] * one.tokens_per_step
        assert abs(one.steps * step - budget) <= step / 2
        assert (one.steps, one.steps * one.tokens_per_step) == (row['steps'], row['tokens'])
        assert model_counts.parameters(one.model)['without_positions'] == row['params']
        assert one.optimizer.learning_rate == row['learning_rate']
        assert one.train.batch_size == row['batch']


def test_cooldown_config_has_the_trunk_and_its_branches():
    shape = Shape(2, 64, 2, 128, 256)
    result = cooldown_plan.plan_cooldowns((1_126_400, 2_150_400), shape, **test_cooldown_plan.FLAGS)
    for base in ('', 'cpu'):
        trials_by_name = settings(
            write_config.render_cooldown_config(result, 'configs/trunk.py', base), 256
        )
        trunk, *branches = trials_by_name.values()
        assert list(trials_by_name) == [one['name'] for one in result['trials']]
        assert trunk.steps == result['trunk_steps']
        assert tuple(trunk.train.keep_steps) == tuple(
            one['branch_step'] for one in result['branches']
        )
        assert [one.steps for one in branches] == [1100, 2100]
        assert trunk.optimizer.schedule == 'constant'
        assert all(one.optimizer.schedule == 'wsd' for one in branches)
        assert all(one.train.branch_from == '2x64-trunk' for one in branches)
        assert all(one.tokens_per_step == 1024 for one in trials_by_name.values())


def test_run_config_scales_the_architecture_of_a_named_base():
    architecture = Architecture(config_cli.read_config_file('configs/llama_1b.py')['model'])
    flags = test_planner.FLAGS | {'vocab': 128_256, 'context': 2048}
    result = planner.plan_run(test_planner.OPTIMUM, flops=3e21, architecture=architecture, **flags)
    text = write_config.render_run_config(result, 'planned', 'llama_1b', architecture)
    space = {}
    exec(compile(text, 'planned.py', 'exec'), space)
    config = parse_config(to_raw(space['get_config']()), vocab_size=1)
    assert model_counts.parameters(config.model)['total'] == result['shape_params']['total']
    assert config.model.kv_heads < config.model.heads
    assert config.model.mlp_width == 4 * config.model.width
    assert config.steps * config.tokens_per_step == result['shape_tokens']
