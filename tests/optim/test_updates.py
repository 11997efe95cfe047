"""Is AdamW the paper's, with decay by the role of a weight?"""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.errors import UserError
from gpt_jax.model import weights
from gpt_jax.optim import updates
from gpt_jax.parametrization import Factors, factors


def test_adamw_equals_the_papers_algorithm(settings):
    config = dataclasses.replace(settings().optimizer, schedule='constant', warmup_fraction=0.0, learning_rate=0.01)
    params = {'matrix': np.array([[1.0, -2.0]], np.float32), 'bias': np.array([0.5], np.float32)}
    decay, ones = {'matrix': np.float32(1), 'bias': np.float32(0)}, {'matrix': 1.0, 'bias': 1.0}
    transformation, _ = updates.make(config, Factors(ones, decay, ones), steps=10)
    state = transformation.init(params)
    expected = {name: value.astype(np.float64) for name, value in params.items()}
    moments = dict.fromkeys(params, (0.0, 0.0))
    for t in range(1, 4):
        gradients = {'matrix': np.array([[0.3 * t, -0.1]], np.float32), 'bias': np.array([1.0 / t], np.float32)}
        step, state = transformation.update(gradients, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, step)
        for name, g in gradients.items():  # Loshchilov & Hutter 2019, algorithm 2
            m = config.beta1 * moments[name][0] + (1 - config.beta1) * g.astype(np.float64)
            v = config.beta2 * moments[name][1] + (1 - config.beta2) * g.astype(np.float64) ** 2
            moments[name] = m, v
            direction = (m / (1 - config.beta1**t)) / (np.sqrt(v / (1 - config.beta2**t)) + config.epsilon)
            expected[name] -= 0.01 * (direction + config.weight_decay * decay[name] * expected[name])
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_decay_follows_the_role(settings):
    config = settings().model
    decay = factors(weights.roles(assemble.declarations(config)), config).decay
    assert decay['blocks']['attention']['query'] == 1
    assert decay['embedding']['table_VD'] == 1
    assert decay['blocks']['attention']['query_bias'] == 0
    assert decay['blocks']['norm_1']['scale'] == 0
    assert decay['norm']['bias'] == 0


def test_clip_scales_to_the_limit_and_leaves_small_gradients():
    gradients = {'a': np.array([3.0]), 'b': np.array([4.0])}
    clipped = updates.clip(gradients, np.float32(5.0), limit=1.0)
    np.testing.assert_allclose([clipped['a'][0], clipped['b'][0]], [0.6, 0.8], rtol=1e-6)
    assert updates.clip(gradients, np.float32(5.0), limit=10.0)['a'] == 3.0
    assert updates.clip(gradients, np.float32(5.0), limit=0.0) is gradients


def test_unknown_words_name_the_nearest(settings):
    with pytest.raises(UserError, match=r"schedule: no 'cosin'.*nearest is 'cosine'"):
        settings({'optimizer.schedule': 'cosin'})
    with pytest.raises(UserError, match=r"name: no 'adam'.*nearest is 'adamw'"):
        settings({'optimizer.name': 'adam'})
