"""Parametrizations: the tables of the papers, and equality at the base shape."""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import (
    ForwardMultipliers,
    OptimizerMultipliers,
    forward_multipliers,
    optimizer_multipliers,
)
from gpt_jax.model import weights
from gpt_jax.optim import optimizers
from gpt_jax.train import build

BASE = {'model.base_width': 16, 'model.base_layers': 2, 'model.base_head_dim': 8}


def make_model_config(settings, name, width=32, layers=4, **fields):
    shape = {
        'model.width': width,
        'model.heads': 4,
        'model.layers': layers,
        'model.parametrization': name,
    }
    return settings(BASE | shape | fields).model


def select_leaves(tree):
    """One weight of each role."""
    return {
        'embedding': tree['embedding']['table_VD'],
        'query': tree['blocks']['attention']['query'],
        'output': tree['blocks']['attention']['output'],
        'down': tree['blocks']['feedforward']['down'],
        'scale': tree['blocks']['norm_1']['scale'],
        'bias': tree['blocks']['feedforward']['up_bias'],
    }


def measure_stds(config):
    init = jax.jit(lambda key: weights.unbox(build.init_params(config, key)))
    params = init(jax.random.key(0))
    return {name: float(np.std(leaf)) for name, leaf in select_leaves(params).items()}


@pytest.fixture
def configs(settings):
    """By parametrization, at twice the base width and depth: m_N = m_L = 2."""
    return {name: make_model_config(settings, name) for name in ('standard', 'mup', 'completep')}


def test_optimizer_multipliers_follow_the_papers(configs):
    roles = weights.param_roles(build.declare_params(configs['mup']))
    mup = optimizer_multipliers(roles, configs['mup'])
    completep = optimizer_multipliers(roles, configs['completep'])
    matrices, vectors = ('query', 'output', 'down'), ('scale', 'bias')
    # Yang et al. 2022, table 8: 1/m for matrices, 1 for the rest.
    expected = {'embedding': 1} | dict.fromkeys(matrices, 0.5) | dict.fromkeys(vectors, 1)
    assert select_leaves(mup.lr) == select_leaves(completep.lr) == expected
    # Dey et al. 2025, table 1: x m_N for matrices, so that lr x decay is constant.
    expected = {'embedding': 1} | dict.fromkeys(matrices, 2) | dict.fromkeys(vectors, 0)
    assert select_leaves(completep.weight_decay) == expected
    assert select_leaves(mup.weight_decay)['query'] == 1
    expected = {'embedding': 0.5} | dict.fromkeys((*matrices, *vectors), 0.25)
    assert select_leaves(completep.epsilon) == expected


def test_forward_multipliers_follow_the_papers(configs):
    expected = {
        'standard': ForwardMultipliers(branch=1, logits=1, attention=1),
        'mup': ForwardMultipliers(branch=1, logits=0.5, attention=1),
        'completep': ForwardMultipliers(branch=0.5, logits=0.5, attention=1),
    }
    assert {name: forward_multipliers(config) for name, config in configs.items()} == expected


def test_initial_stds_follow_the_papers(configs):
    stds = {name: measure_stds(config) for name, config in configs.items()}
    standard, mup, completep = stds['standard'], stds['mup'], stds['completep']
    assert mup['embedding'] == standard['embedding']
    for name in ('query', 'output', 'down'):
        assert mup[name] == pytest.approx(standard[name] / 2**0.5)
    assert completep['query'] == mup['query']
    for name in ('output', 'down'):  # GPT-2's 1/sqrt(layers) applies up to the base depth
        assert completep[name] == pytest.approx(mup[name] * 2**0.5)


def test_attention_scores_are_scaled_by_the_head_dim_beyond_the_base(settings):
    config = make_model_config(settings, 'mup', **{'model.heads': 1})
    assert forward_multipliers(config).attention == 0.5  # sqrt(8 / 32)


def test_the_base_shape_equals_the_standard_model_bitwise(settings):
    shape = {'model.width': 16, 'model.heads': 2, 'model.layers': 2, 'model.scan_layers': True}
    fields = shape | {'train.steps': 3}

    def train(parametrization):
        config = settings(BASE | fields | {'model.parametrization': parametrization})
        parts = build.build_trainer_parts(config)
        tokens = np.random.default_rng(0).integers(97, size=(8, 16), dtype=np.int32)
        batch = next(parts.shard_batches([{'inputs': tokens, 'targets': tokens}]))
        state = parts.init_state()
        for _ in range(3):
            state, _metrics = parts.train_step(state, batch)
        return jax.device_get(state.params)

    standard = train('standard')
    for name in ('mup', 'completep'):
        jax.tree.map(np.testing.assert_array_equal, standard, train(name))


def test_epsilon_is_scaled_per_weight(settings):
    config = settings({'optimizer.epsilon': 0.1, 'optimizer.weight_decay': 0.0}).optimizer
    ones = {'w': 1.0}
    gradients, params = {'w': np.float32(0.02)}, {'w': np.float32(1)}

    def update(epsilon, multiplier):
        multipliers = OptimizerMultipliers(lr=ones, weight_decay=ones, epsilon={'w': multiplier})
        changed = dataclasses.replace(config, epsilon=epsilon)
        transformation, _ = optimizers.make_optimizer(changed, multipliers, 10)
        state = transformation.init(params)
        return float(jax.jit(transformation.update)(gradients, state, params)[0]['w'])

    scaled = update(0.1, 0.25)
    assert scaled == pytest.approx(update(0.025, 1.0), rel=1e-5)
    assert scaled != pytest.approx(update(0.1, 1.0), rel=1e-2)


def test_sgd_is_refused_with_learning_rates_derived_for_adam(settings):
    fields = {'model.parametrization': 'mup', 'model.width': 32, 'optimizer.name': 'sgd'}
    with pytest.raises(UserError, match=r"optimizer\.name: must be 'adamw' with"):
        build.build_trainer_parts(settings(BASE | fields))
