"""The savings of a trunk and its branches, compared with a count by hand."""

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import cooldown_plan, planner
from gpt_jax.scaling.plan.shapes import GPT2, Shape

SHAPE = Shape(2, 64, 2, 128, 256)
FLAGS = {
    'batch': 8,
    'warmup': 100,
    'rate': 0.006,
    'hardware': {'peak': 1e12, 'utilization': 0.5, 'devices': 2},
    'price': 3.0,
}


def test_savings_equal_a_count_by_hand():
    # 1,000 and 2,000 steps of 1,024 tokens: cooldowns of a fifth are 200 and 400 steps.
    result = cooldown_plan.plan_cooldowns((2000 * 1024, 1000 * 1024), SHAPE, **FLAGS)
    assert result['trunk_steps'] == 1600
    assert [
        (one['horizon'], one['steps'], one['branch_step'], one['own_steps'])
        for one in result['branches']
    ] == [(1000 * 1024, 1000, 800, 200), (2000 * 1024, 2000, 1600, 400)]
    assert result['branches'][1]['own_tokens'] == 400 * 1024
    assert result['planned']['steps'] == 1600 + 200 + 400
    assert result['separate']['steps'] == 1000 + 2000
    assert result['share'] == pytest.approx(2200 / 3000)
    per_token = GPT2.flops_per_token(SHAPE)
    assert result['planned']['flops'] == 2200 * 1024 * per_token['6N']
    hours = 3000 * 1024 * per_token['with_attention'] / 1e12 / 3600
    assert result['separate']['hours'] == pytest.approx(hours)
    assert result['separate']['cost'] == pytest.approx(hours * 2 * 3.0)


def test_one_horizon_saves_nothing():
    assert cooldown_plan.plan_cooldowns((1e6,), SHAPE, **FLAGS)['share'] == 1


def test_defaults_follow_the_rules():
    flags = FLAGS | {'batch': None, 'warmup': None, 'rate': None}
    shape = cooldown_plan.choose_shape(
        None, None, None, 1e8, count='total', context=2048, vocab=50257
    )
    result = cooldown_plan.plan_cooldowns((4e9, 8e9), shape, **flags)
    flops = GPT2.flops_per_token(shape)['6N'] * 8e9
    assert result['batch'] == planner.suggest_batch_size(flops, 2048)
    assert result['learning_rate'] == pytest.approx(planner.suggest_learning_rate(flops), rel=0.005)
    assert result['warmup_steps'] == round(0.02 * result['branches'][1]['steps'])
    unequal = cooldown_plan.plan_cooldowns((1e8, 8e9), shape, **flags)
    assert unequal['warmup_steps'] == round(0.1 * unequal['branches'][0]['steps'])


@pytest.mark.parametrize(
    ('horizons', 'message'),
    [
        ((5_000, 1e7), '5,000 tokens are 5 steps of 1,024; give longer horizons'),
        ((50_000, 1e7), 'too few for 100 steps of warmup; give longer'),
        ((1e6, 1_000_010), 'the same number of steps'),
    ],
)
def test_impossible_horizons_are_rejected(horizons, message):
    with pytest.raises(UserError, match=message):
        cooldown_plan.plan_cooldowns(horizons, SHAPE, **FLAGS)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ((2, None, None, None), 'needs a model'),
        ((2, 64, 2, 1e6), 'must not be combined with --layers'),
        ((2, 64, 3, None), '--heads: must divide the width 64, got 3'),
    ],
)
def test_model_is_given_once_and_completely(sizes, message):
    with pytest.raises(UserError, match=message):
        cooldown_plan.choose_shape(*sizes, count='total', context=128, vocab=256)
