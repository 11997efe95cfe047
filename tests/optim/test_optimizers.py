"""Optimizers equal their papers, follow the roles of parameters, and are found by name or path."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from gpt_jax.core.config import OptimizerConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import OptimizerMultipliers, optimizer_multipliers
from gpt_jax.model import weights
from gpt_jax.optim.optimizers import OPTIMIZERS, make_optimizer
from gpt_jax.optim.schedules import SCHEDULES
from gpt_jax.optim.transforms import clip_by_norm
from gpt_jax.train.build import build_trainer_parts, declare_params
from tests.train.test_step import run_steps


def test_adamw_equals_the_algorithm_of_the_paper(settings):
    config = dataclasses.replace(
        settings().optimizer, schedule='constant', warmup_fraction=0.0, learning_rate=0.01
    )
    params = {'matrix': np.array([[1.0, -2.0]], np.float32), 'bias': np.array([0.5], np.float32)}
    decay, ones = {'matrix': np.float32(1), 'bias': np.float32(0)}, {'matrix': 1.0, 'bias': 1.0}
    optimizer, _ = make_optimizer(config, OptimizerMultipliers(ones, decay, ones), steps=10)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    expected = {name: value.astype(np.float64) for name, value in params.items()}
    moments = dict.fromkeys(params, (0.0, 0.0))
    for t in range(1, 4):
        gradients = {
            'matrix': np.array([[0.3 * t, -0.1]], np.float32),
            'bias': np.array([1.0 / t], np.float32),
        }
        updates, state = update(gradients, state, params)
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
        for name, g in gradients.items():  # Loshchilov and Hutter 2019, algorithm 2
            m = config.beta1 * moments[name][0] + (1 - config.beta1) * g.astype(np.float64)
            v = config.beta2 * moments[name][1] + (1 - config.beta2) * g.astype(np.float64) ** 2
            moments[name] = m, v
            direction = (m / (1 - config.beta1**t)) / (
                np.sqrt(v / (1 - config.beta2**t)) + config.epsilon
            )
            decayed = config.weight_decay * decay[name] * expected[name]
            expected[name] -= 0.01 * (direction + decayed)
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_sgd_has_momentum_and_decoupled_decay(settings):
    config = dataclasses.replace(
        settings().optimizer,
        name='sgd',
        schedule='constant',
        warmup_fraction=0.0,
        learning_rate=0.1,
        weight_decay=0.5,
        beta1=0.9,
    )
    params, ones = {'w': np.float32(2.0)}, {'w': 1.0}
    optimizer, _ = make_optimizer(config, OptimizerMultipliers(ones, ones, ones), steps=10)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    gradients = {'w': np.float32(3.0)}
    first, state = update(gradients, state, params)
    second, _ = update(gradients, state, params)
    assert float(first['w']) == pytest.approx(-0.1 * (3.0 + 0.5 * 2.0))
    assert float(second['w']) == pytest.approx(-0.1 * (0.9 * 3.0 + 3.0 + 0.5 * 2.0))


def test_sgd_rejects_learning_rates_of_adam(settings):
    config, ones = dataclasses.replace(settings().optimizer, name='sgd'), {'w': 1.0}
    with pytest.raises(UserError, match=r"optimizer\.name: must be 'adamw' with .* mup"):
        make_optimizer(config, OptimizerMultipliers({'w': 0.5}, ones, ones), steps=10)


def test_weight_decay_follows_the_role(settings):
    config = settings().model
    roles = weights.param_roles(declare_params(config))
    decay = optimizer_multipliers(roles, config).weight_decay
    assert decay['blocks']['attention']['query'] == 1
    assert decay['embedding']['table_VD'] == 1
    assert decay['blocks']['attention']['query_bias'] == 0
    assert decay['blocks']['norm_1']['scale'] == 0
    assert decay['norm']['bias'] == 0


def test_clipping_scales_to_the_limit_and_leaves_small_gradients():
    gradients, norm = {'a': np.array([3.0]), 'b': np.array([4.0])}, np.float32(5.0)
    clipped = clip_by_norm(gradients, norm, 1.0)
    np.testing.assert_allclose([clipped['a'][0], clipped['b'][0]], [0.6, 0.8], rtol=1e-6)
    assert clip_by_norm(gradients, norm, 10.0)['a'] == 3.0
    assert clip_by_norm(gradients, norm, 0.0) is gradients


@pytest.mark.parametrize(
    ('registry', 'field_name'), [(OPTIMIZERS, 'name'), (SCHEDULES, 'schedule')]
)
def test_registries_have_the_declared_choices(registry, field_name):
    (field,) = (f for f in dataclasses.fields(OptimizerConfig) if f.name == field_name)
    assert tuple(registry) == field.metadata['choices']


def test_unknown_words_name_the_nearest(settings):
    with pytest.raises(UserError, match=r"optimizer\.schedule: .*'cosin'.* 'cosine'"):
        settings({'optimizer.schedule': 'cosin'})
    with pytest.raises(UserError, match=r"optimizer\.name: .*'adam'.* 'adamw'"):
        settings({'optimizer.name': 'adam'})


def make_sign_descent(config, params_info):
    """An optimizer that is not part of the library (Bernstein et al. 2018)."""
    del config, params_info
    return optax.scale_by_sign()


def inverse_sqrt(progress, config):
    """A schedule that is not part of the library."""
    del config
    return 1 / (1 + 3 * progress.decay) ** 0.5


def test_dotted_paths_train_with_other_optimizers_and_schedules(settings):
    config = settings(
        {
            'optimizer.name': 'tests.optim.test_optimizers:make_sign_descent',
            'optimizer.schedule': 'tests.optim.test_optimizers:inverse_sqrt',
            'optimizer.learning_rate': 1e-3,
            'optimizer.warmup_fraction': 0.0,
            'model.layers': 1,
        }
    )
    start = jax.device_get(build_trainer_parts(config).init_state())
    before = start.params
    losses, state = run_steps(config, steps=2, start=start)
    assert np.isfinite(losses).all()
    moved = np.abs(np.asarray(state.params['norm']['bias']) - before['norm']['bias'])
    # Two steps of +-1e-3 and +-1e-3 / sqrt(1 + 3/19): equal signs add up, others cancel.
    step_sizes = 1e-3, 1e-3 / (1 + 3 / 19) ** 0.5
    sums = np.array([sum(step_sizes), step_sizes[0] - step_sizes[1]])
    np.testing.assert_allclose(np.abs(moved[:, None] - sums).min(axis=1), 0, atol=1e-7)


@pytest.mark.parametrize(
    'path', ['tests.optim.test_optimizers:absent', 'absent_package:make', 'adamw_:make']
)
def test_a_dotted_path_that_cannot_be_imported_is_rejected(settings, path):
    with pytest.raises(UserError, match=r'optimizer\.name: .*import'):
        build_trainer_parts(settings({'optimizer.name': path}))
