"""Plans equal the closed form, and their counts those of the model."""

import numpy as np
import pytest

from gpt_jax.core import model_counts
from gpt_jax.core.config import parse_config, to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.scaling.plan import planner, shapes
from gpt_jax.scaling.plan.shapes import GPT2, Shape
from gpt_jax.scaling.plan.write_config import render_run_config
from tests.scaling import synthetic

OPTIMUM = planner.LawOptimum(synthetic.TRUTH)
FLAGS = {
    'count': 'total',
    'context': 1024,
    'vocab': 50257,
    'peak': 1e15,
    'utilization': 0.4,
    'devices': 8,
    'price': 2.0,
}


@pytest.mark.parametrize('flops', [1e18, 1e21, 1e24])
def test_optimum_equals_the_closed_form(flops):
    result = planner.plan_run(OPTIMUM, flops=flops, **FLAGS)
    t = synthetic.TRUTH
    g = (t['alpha'] * t['A'] / (t['beta'] * t['B'])) ** (1 / (t['alpha'] + t['beta']))
    n = g * (flops / 6) ** (t['beta'] / (t['alpha'] + t['beta']))
    assert result['params'] == pytest.approx(n, rel=1e-3)
    assert result['tokens'] == pytest.approx(flops / (6 * n), rel=1e-3)
    assert result['loss'] == pytest.approx(float(synthetic.loss(n, flops / (6 * n))), rel=1e-6)
    by_tokens = planner.plan_run(OPTIMUM, tokens=result['tokens'], **FLAGS)
    assert by_tokens['flops'] == pytest.approx(flops, rel=1e-6)


def test_optimum_of_runs_contains_the_truth_and_is_that_of_their_tokens():
    optimum = planner.PosteriorOptimum(synthetic.isoflop(budgets=4, sizes=5))
    result = planner.plan_run(optimum, flops=1e23, **FLAGS)
    truth = planner.plan_run(OPTIMUM, flops=1e23, **FLAGS)
    for name in ('params', 'tokens', 'loss'):
        low, high = result[f'{name}_interval']
        assert low < truth[name] < high
        assert low < result[name] < high
    assert result['identified']
    assert result['rollouts']['inside'] > 0
    by_tokens = planner.plan_run(optimum, tokens=result['tokens'], **FLAGS)
    assert by_tokens['flops'] == pytest.approx(1e23, rel=0.02)


@pytest.mark.parametrize('flops', np.geomspace(1e18, 1e25, 15))
def test_shape_is_near_the_optimum_and_suits_the_hardware(flops):
    result = planner.plan_run(OPTIMUM, flops=flops, **FLAGS)
    shape = Shape(**result['shape'])
    assert result['shape_params']['total'] == pytest.approx(result['params'], rel=0.12)
    assert shape.width % 64 == 0
    assert shape.width % shape.heads == 0
    assert shape.width // shape.heads in shapes.HEAD_DIMS
    assert 6 * result['shape_params']['total'] * result['shape_tokens'] == pytest.approx(
        flops, rel=0.01
    )
    assert result['shape_loss'] <= result['loss'] * 1.001


def test_gpt2_counts_and_flops(model_config):
    shape = Shape(12, 768, 12, 1024, 50257)
    assert GPT2.count_parameters(shape) == {
        'total': 124_439_808,
        'non_embedding': 85_056_000,
        'without_positions': 123_653_376,
    }
    assert GPT2.flops_per_token(shape)['6N'] == 741_920_256
    assert GPT2.flops_per_token(shape)['with_attention'] == 855_166_464
    assert GPT2.flops_per_token(shape)['causal'] == 798_543_360
    config = model_config(layers=12, width=768, heads=12, context=1024, vocab_size=50257)
    counts = model_counts.parameters(config)
    assert all(counts[name] == value for name, value in GPT2.count_parameters(shape).items())
    assert GPT2.flops_per_token(shape) == model_counts.flops_per_token(config)


def test_hours_and_cost():
    flops = planner.convert_hours_to_flops(24, peak=1e15, utilization=0.4, devices=8)
    assert flops == pytest.approx(24 * 3600 * 0.4 * 8e15)
    result = planner.plan_run(OPTIMUM, flops=flops, **FLAGS)
    assert result['hours'] == pytest.approx(24, rel=0.25)  # the attention's FLOPs are not in 6ND
    assert result['cost'] == pytest.approx(result['hours'] * 8 * 2.0)


def test_budget_too_small_for_the_vocabulary():
    with pytest.raises(UserError, match='smaller --vocab or more compute'):
        planner.plan_run(OPTIMUM, flops=1e12, **FLAGS)


def test_config_file_can_be_run():

    result = planner.plan_run(OPTIMUM, flops=1e18, **FLAGS)
    space = {}
    exec(compile(render_run_config(result, 'planned'), 'planned.py', 'exec'), space)
    settings = parse_config(to_raw(space['get_config']()), vocab_size=1)
    assert model_counts.parameters(settings.model)['total'] == result['shape_params']['total']
    assert settings.steps * settings.tokens_per_step == result['shape_tokens']
