"""Trials of ladders, grids and cooldowns: names, config keys and the steps of branches."""

import pytest

from gpt_jax.core import config_cli
from gpt_jax.core.config import parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import design
from tests.conventions.test_configs import load

SIZES = [(2, 32, 2), (4, 64, 4)]


def test_ladder_applies_the_size_rule():
    assert design.make_ladder(
        SIZES, lambda layers, width, heads: {'optimizer.learning_rate': layers / width / heads}
    ) == (
        {
            'name': '2x32',
            'model.layers': 2,
            'model.width': 32,
            'model.heads': 2,
            'optimizer.learning_rate': 1 / 32,
        },
        {
            'name': '4x64',
            'model.layers': 4,
            'model.width': 64,
            'model.heads': 4,
            'optimizer.learning_rate': 1 / 64,
        },
    )


def test_isoflop_has_every_size_at_its_budgets():
    trials = design.make_isoflop({4e12: SIZES, 1e12: SIZES[:1]})
    assert [(trial['name'], trial['train.flops']) for trial in trials] == [
        ('1e12-2x32', 1e12),
        ('4e12-2x32', 4e12),
        ('4e12-4x64', 4e12),
    ]


def test_grid_has_every_combination_of_every_trial():
    trials = design.make_grid(
        {'seed': (0, 1), 'optimizer.learning_rate': (0.001, 1e-10)}, design.make_ladder(SIZES[:1])
    )
    assert [trial['name'] for trial in trials] == [
        '2x32-seed0-rate0.001',
        '2x32-seed0-rate1e-10',
        '2x32-seed1-rate0.001',
        '2x32-seed1-rate1e-10',
    ]
    assert {trial['model.width'] for trial in trials} == {32}
    assert [trial['name'] for trial in design.make_grid({'model.norm': ('rms', 'layer')})] == [
        'rms',
        'layer',
    ]


def test_variants_have_every_trial_under_every_recipe():
    trials = design.make_variants(
        {'plain': {}, 'rms': {'model.norm': 'rms'}}, design.make_ladder(SIZES)
    )
    assert [trial['name'] for trial in trials] == [
        'plain-2x32',
        'plain-4x64',
        'rms-2x32',
        'rms-4x64',
    ]
    assert ['model.norm' in trial for trial in trials] == [False, False, True, True]


def test_cooldowns_share_the_warmup_and_begin_at_saved_steps():
    trunk, short, long = design.make_cooldowns(
        {'name': 'a'}, (2_000_000, 500_000), tokens_per_step=1000, warmup_steps=100
    )
    assert (trunk['train.steps'], trunk['train.keep_steps']) == (1600, (400, 1600))
    assert [trial['name'] for trial in (short, long)] == ['a-5e5', 'a-2e6']
    assert (short['train.branch_step'], short['train.steps']) == (400, 500)  # 0.8 x 500
    assert (long['train.branch_step'], long['train.steps']) == (1600, 2000)
    for trial in (trunk, short, long):
        assert trial['optimizer.warmup_fraction'] * trial['train.steps'] == pytest.approx(100)


@pytest.mark.parametrize(
    ('horizons', 'message'), [((50_000,), 'too few for 100 steps of warmup'), ((), 'no horizons')]
)
def test_impossible_cooldowns_are_rejected(horizons, message):
    with pytest.raises(UserError, match=message):
        design.make_cooldowns({'name': 'a'}, horizons, tokens_per_step=1000, warmup_steps=100)


@pytest.mark.parametrize(
    ('number', 'word'), [(250_000, '2.5e5'), (4e12, '4e12'), (1e13, '1e13'), (6_400_000, '6.4e6')]
)
def test_format_label(number, word):
    assert design.format_label(number) == word


@pytest.mark.parametrize(
    'name', ['isoflop_cpu', 'compute_optimal_cpu', 'lr_transfer_cpu', 'model_size_cpu']
)
def test_sweep_configs_have_valid_trials(name):
    trials = config_cli.expand_trials(load(name))
    assert len(trials) >= 20
    for trial in list(trials)[:3] + list(trials)[-3:]:
        parse_config(trials[trial], vocab_size=256)


def test_flop_budget_sets_the_steps(settings):
    config = settings({'train.steps': 0, 'train.tokens': 0, 'train.flops': 1e11})
    from gpt_jax.core import model_counts

    per_step = model_counts.flops_per_token(config.model)['6N'] * config.tokens_per_step
    assert abs(config.steps * per_step - 1e11) <= per_step / 2
    assert config.train.is_flop_budgeted
    with pytest.raises(
        UserError, match=r'train\.tokens: must be positive if steps and flops are 0'
    ):
        settings({'train.steps': 0, 'train.tokens': 0, 'train.flops': 0.0})
