"""Are plans what the closed form says, and their counts what the model really has?"""

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.model import accounting
from gpt_jax.scaling import optimal
from gpt_jax.scaling.plan import planner
from tests.scaling import synthetic

FLAGS = {'cost': optimal.SIX, 'drawn': [], 'count': 'total', 'context': 1024, 'vocab': 50257, 'peak': 1e15,
         'utilization': 0.4, 'devices': 8, 'price': 2.0}  # fmt: skip


@pytest.mark.parametrize('flops', [1e18, 1e21, 1e24])
def test_the_optimum_is_the_closed_form(flops):
    result = planner.plan(synthetic.TRUTH, flops=flops, **FLAGS)
    t = synthetic.TRUTH
    g = (t['alpha'] * t['A'] / (t['beta'] * t['B'])) ** (1 / (t['alpha'] + t['beta']))
    n = g * (flops / 6) ** (t['beta'] / (t['alpha'] + t['beta']))
    assert result['params'] == pytest.approx(n, rel=1e-3)
    assert result['tokens'] == pytest.approx(flops / (6 * n), rel=1e-3)
    assert result['loss'] == pytest.approx(float(synthetic.loss(n, flops / (6 * n))), rel=1e-6)
    by_tokens = planner.plan(synthetic.TRUTH, tokens=result['tokens'], **FLAGS)
    assert by_tokens['flops'] == pytest.approx(flops, rel=1e-6)


@pytest.mark.parametrize('flops', np.geomspace(1e18, 1e25, 15))
def test_the_shape_comes_near_and_suits_the_hardware(flops):
    result = planner.plan(synthetic.TRUTH, flops=flops, **FLAGS)
    shape = planner.Shape(**result['shape'])
    assert result['shape_params']['total'] == pytest.approx(result['params'], rel=0.12)
    assert shape.width % 64 == 0
    assert shape.width % shape.heads == 0
    assert shape.width // shape.heads in planner.HEAD_DIMS
    assert 6 * result['shape_params']['total'] * result['shape_tokens'] == pytest.approx(flops, rel=0.01)
    assert result['shape_loss'] <= result['loss'] * 1.001


def test_gpt2_counts_and_flops_are_those_of_the_table(model_config):
    shape = planner.Shape(12, 768, 12, 1024, 50257)
    assert planner.parameters(shape) == {
        'total': 124_439_808, 'non_embedding': 85_056_000, 'without_positions': 123_653_376
    }  # fmt: skip
    assert planner.flops_per_token(shape)['6N'] == 741_920_256
    assert planner.flops_per_token(shape)['with_attention'] == 855_166_464
    assert planner.flops_per_token(shape)['causal'] == 798_543_360
    config = model_config(layers=12, width=768, heads=12, context=1024, vocab_size=50257)
    counts = accounting.parameters(config)
    assert all(counts[name] == value for name, value in planner.parameters(shape).items())
    assert planner.flops_per_token(shape) == accounting.flops_per_token(config)


def test_hours_and_cost():
    flops = planner.hours_to_flops(24, peak=1e15, utilization=0.4, devices=8)
    assert flops == pytest.approx(24 * 3600 * 0.4 * 8e15)
    result = planner.plan(synthetic.TRUTH, flops=flops, **FLAGS)
    assert result['hours'] == pytest.approx(24, rel=0.25)  # the attention's FLOPs are not in 6ND
    assert result['cost'] == pytest.approx(result['hours'] * 8 * 2.0)


def test_a_budget_too_small_for_the_vocabulary():
    with pytest.raises(UserError, match='smaller --vocab or more compute'):
        planner.plan(synthetic.TRUTH, flops=1e12, **FLAGS)


def test_the_config_file_is_one_that_runs():
    from gpt_jax import assemble, overrides

    result = planner.plan(synthetic.TRUTH, flops=1e18, **FLAGS)
    space = {}
    exec(compile(planner.config_file(result, 'planned'), 'planned.py', 'exec'), space)
    settings = assemble.settings(overrides.plain(space['get_config']()), vocab_size=1)
    assert accounting.parameters(settings.model)['total'] == result['shape_params']['total']
    assert settings.steps * settings.tokens_per_step == result['shape_tokens']
