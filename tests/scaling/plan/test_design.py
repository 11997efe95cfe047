"""Are the trials those that were asked for, each with a name of its own, and is a branch's arithmetic right?"""

import pytest

from gpt_jax import assemble, overrides
from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import design
from tests.house.test_configs import load

SIZES = [(2, 32, 2), (4, 64, 4)]


def test_ladder_takes_what_follows_from_a_size():
    assert design.ladder(SIZES, lambda layers, width, heads: {'optimizer.learning_rate': layers / width / heads}) == (
        {'name': '2x32', 'model.layers': 2, 'model.width': 32, 'model.heads': 2, 'optimizer.learning_rate': 1 / 32},
        {'name': '4x64', 'model.layers': 4, 'model.width': 64, 'model.heads': 4, 'optimizer.learning_rate': 1 / 64},
    )


def test_isoflop_is_every_size_at_its_budgets_the_cheapest_first():
    trials = design.isoflop({4e12: SIZES, 1e12: SIZES[:1]})
    assert [(one['name'], one['train.flops']) for one in trials] == [
        ('1e12-2x32', 1e12), ('4e12-2x32', 4e12), ('4e12-4x64', 4e12),
    ]  # fmt: skip


def test_grid_is_every_combination_on_every_trial():
    trials = design.grid({'seed': (0, 1), 'optimizer.learning_rate': (0.001, 1e-10)}, design.ladder(SIZES[:1]))
    assert [one['name'] for one in trials] == [
        '2x32-seed0-rate0.001', '2x32-seed0-rate1e-10', '2x32-seed1-rate0.001', '2x32-seed1-rate1e-10',
    ]  # fmt: skip
    assert {one['model.width'] for one in trials} == {32}
    assert [one['name'] for one in design.grid({'model.norm': ('rms', 'layer')})] == ['rms', 'layer']


def test_variants_put_every_trial_under_every_recipe():
    trials = design.variants({'plain': {}, 'rms': {'model.norm': 'rms'}}, design.ladder(SIZES))
    assert [one['name'] for one in trials] == ['plain-2x32', 'plain-4x64', 'rms-2x32', 'rms-4x64']
    assert ['model.norm' in one for one in trials] == [False, False, True, True]


def test_cooldowns_share_warmup_and_begin_where_the_trunk_was_saved():
    trunk, short, long = design.cooldowns({'name': 'a'}, (2_000_000, 500_000), tokens_per_step=1000, warmup_steps=100)
    assert (trunk['train.steps'], trunk['train.keep_steps']) == (1620, (420, 1620))
    assert [one['name'] for one in (short, long)] == ['a-5e5', 'a-2e6']
    assert (short['train.branch_step'], short['train.steps']) == (420, 500)  # 100 + 0.8 x 400
    assert (long['train.branch_step'], long['train.steps']) == (1620, 2000)
    for one in (trunk, short, long):
        assert one['optimizer.warmup_fraction'] * one['train.steps'] == pytest.approx(100)


@pytest.mark.parametrize(('horizons', 'message'), [((50_000,), 'too few for 100 of warmup'), ((), 'no horizons')])
def test_cooldowns_that_cannot_be_are_refused(horizons, message):
    with pytest.raises(UserError, match=message):
        design.cooldowns({'name': 'a'}, horizons, tokens_per_step=1000, warmup_steps=100)


@pytest.mark.parametrize(('number', 'word'), [(250_000, '2.5e5'), (4e12, '4e12'), (1e13, '1e13'), (6_400_000, '6.4e6')])
def test_label(number, word):
    assert design.label(number) == word


@pytest.mark.parametrize('name', ['isoflop_cpu', 'compute_optimal_cpu', 'lr_transfer_cpu', 'model_size_cpu'])
def test_the_sweeps_of_this_house_can_be_run(name):
    trials = overrides.trials(load(name))
    assert len(trials) >= 20
    for trial in list(trials)[:3] + list(trials)[-3:]:
        assemble.settings(trials[trial], vocab_size=256)


def test_a_run_by_flops_is_as_long_as_its_flops(settings):
    made = settings({'train.steps': 0, 'train.tokens': 0, 'train.flops': 1e11})
    from gpt_jax.model import accounting

    per_step = accounting.flops_per_token(made.model)['6N'] * made.tokens_per_step
    assert abs(made.steps * per_step - 1e11) <= per_step / 2
    assert made.train.budgeted
    with pytest.raises(UserError, match='steps, tokens and flops are all 0'):
        settings({'train.steps': 0, 'train.tokens': 0, 'train.flops': 0.0})
