"""Do the config files of planned sweeps load, and train what was planned?"""

import pytest

from gpt_jax import assemble, overrides
from gpt_jax.model import accounting
from gpt_jax.scaling.plan import past, sweepfile, trunks
from gpt_jax.scaling.plan.planner import Shape
from tests.scaling import sweep_records
from tests.scaling.plan import test_sweeps, test_trunks

LARGE = test_sweeps.FRAME._replace(context=2048, vocab=50257, head_dim=None, layers=None)


def settings(text, vocab):
    assert max(map(len, text.splitlines())) <= 120
    space = {}
    exec(compile(text, 'planned.py', 'exec'), space)
    config = overrides.plain(space['get_config']())
    return {name: assemble.settings(one, vocab) for name, one in overrides.trials(config).items()}


def planned(case, tmp_path):
    """A published plan with a batch per budget; one that goes on with runs, on a base of its own."""
    if case == 'published':
        return test_sweeps.isoflop((1e18, 1e19), frame=LARGE, batch=None), 'base', 50257
    path, _ = sweep_records.write(tmp_path, test_sweeps.SMALL)
    return test_sweeps.isoflop((1e14, 2e14, 8e14), past.read(path, {}, '')), 'cpu', sweep_records.VOCAB


@pytest.mark.parametrize('case', ['published', 'recentred'])
def test_an_isoflop_config_trains_every_budget_to_within_half_a_step(case, tmp_path):
    result, base, vocab = planned(case, tmp_path)
    text = sweepfile.isoflop(result, 'configs/planned.py', base)
    made = settings(text, vocab)
    rows = [(one['flops'], row) for one in result['budgets'] for row in one['trials']]
    assert list(made) == [row['name'] for _, row in rows]
    assert len(text.splitlines()) <= 40 + len(rows)
    for budget, row in rows:
        one = made[row['name']]
        step = accounting.flops_per_token(one.model)['6N'] * one.tokens_per_step
        assert abs(one.steps * step - budget) <= step / 2
        assert (one.steps, one.steps * one.tokens_per_step) == (row['steps'], row['tokens'])
        assert accounting.parameters(one.model)['without_positions'] == row['params']
        assert one.optimizer.learning_rate == row['learning_rate']
        assert one.train.batch == row['batch']


def test_a_cooldown_config_makes_the_trunk_and_its_branches():
    shape = Shape(2, 64, 2, 128, 256)
    result = trunks.cooldowns((1_126_400, 2_150_400), shape, **test_trunks.FLAGS)
    for base in ('base', 'cpu'):
        made = settings(sweepfile.cooldowns(result, 'configs/trunk.py', base), 256)
        trunk, *branches = made.values()
        assert list(made) == [one['name'] for one in result['trials']]
        assert trunk.steps == result['trunk_steps']
        assert tuple(trunk.train.keep_steps) == tuple(one['branch_step'] for one in result['branches'])
        assert [one.steps for one in branches] == [1100, 2100]
        assert trunk.optimizer.schedule == 'constant'
        assert all(one.optimizer.schedule == 'wsd' for one in branches)
        assert all(one.train.branch_from == '2x64-trunk' for one in branches)
        assert all(one.tokens_per_step == 1024 for one in made.values())
