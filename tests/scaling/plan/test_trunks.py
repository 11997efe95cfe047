"""Are the savings of a trunk and its branches what a hand counts?"""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling.plan import planner, trunks
from gpt_jax.scaling.plan.planner import Shape

SHAPE = Shape(2, 64, 2, 128, 256)
FLAGS = {'batch': 8, 'warmup': 100, 'rate': 0.006, 'hardware': {'peak': 1e12, 'utilization': 0.5, 'devices': 2},
         'price': 3.0}  # fmt: skip


def test_savings_are_those_of_a_hand_count():
    # 1,100 and 2,100 steps of 1,024 tokens: cooldowns of a fifth after the warmup are 200 and 400 steps.
    result = trunks.cooldowns((2100 * 1024, 1100 * 1024), SHAPE, **FLAGS)
    assert result['trunk_steps'] == 1700
    assert [(one['horizon'], one['steps'], one['branch_step'], one['own_steps']) for one in result['branches']] == [
        (1100 * 1024, 1100, 900, 200), (2100 * 1024, 2100, 1700, 400)
    ]  # fmt: skip
    assert result['branches'][1]['own_tokens'] == 400 * 1024
    assert result['planned']['steps'] == 1700 + 200 + 400
    assert result['separate']['steps'] == 1100 + 2100
    assert result['share'] == pytest.approx(2300 / 3200)
    per_token = planner.flops_per_token(SHAPE)
    assert result['planned']['flops'] == 2300 * 1024 * per_token['6N']
    hours = 3200 * 1024 * per_token['with_attention'] / 1e12 / 3600
    assert result['separate']['hours'] == pytest.approx(hours)
    assert result['separate']['cost'] == pytest.approx(hours * 2 * 3.0)


def test_one_horizon_saves_nothing():
    assert trunks.cooldowns((1e6,), SHAPE, **FLAGS)['share'] == 1


def test_rules_stand_in_for_flags():
    given = FLAGS | {'batch': None, 'warmup': None, 'rate': None}
    shape = trunks.shape(None, None, None, 1e8, count='total', context=2048, vocab=50257)
    result = trunks.cooldowns((4e9, 8e9), shape, **given)
    flops = planner.flops_per_token(shape)['6N'] * 8e9
    assert result['batch'] == planner.batch_for(flops, 2048)
    assert result['learning_rate'] == pytest.approx(planner.rate_for(flops), rel=0.005)
    assert result['warmup_steps'] == round(0.02 * result['branches'][1]['steps'])
    much = trunks.cooldowns((1e8, 8e9), shape, **given)
    assert much['warmup_steps'] == round(0.1 * much['branches'][0]['steps'])


@pytest.mark.parametrize(
    ('horizons', 'message'),
    [
        ((5_000, 1e7), '5,000 tokens are 5 steps of 1,024; longer horizons'),
        ((50_000, 1e7), 'too few for 100 of warmup; longer horizons'),
        ((1e6, 1_000_010), 'the same number of steps'),
    ],
)
def test_horizons_that_make_no_branches(horizons, message):
    with pytest.raises(UserError, match=message):
        trunks.cooldowns(horizons, SHAPE, **FLAGS)


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        ((2, None, None, None), 'say which model'),
        ((2, 64, 2, 1e6), 'leave out --layers'),
        ((2, 64, 3, None), '--heads=3: does not divide'),
    ],
)
def test_a_model_is_said_once_and_wholly(said, message):
    with pytest.raises(UserError, match=message):
        trunks.shape(*said, count='total', context=128, vocab=256)
