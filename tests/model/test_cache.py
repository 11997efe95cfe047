"""Does a model that keeps what it has read compute what it would compute from the beginning?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import cache, weights
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.parallel.place import ANYWHERE
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make

LENGTHS = np.array([9, 4, 1])  # of the prompts in one batch


@pytest.fixture
def text():
    return jax.random.randint(jax.random.key(5), (3, 16), 0, 97)


def program(config):
    model = GPT(config, ANYWHERE, train=False)

    def read(params, tokens, kept, count, *, fresh):
        features = model.apply({'params': params}, tokens, cache=kept, count_B=count, fresh=fresh)
        return losses.logits(features.x_BLD, features.w_VD, config), features.cache

    return jax.jit(read, static_argnames='fresh')


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_cached_reading_equals_the_full_forward_at_every_position(model_config, text, name):
    """Prompts of different lengths in one batch, then chunks of one and of three tokens."""
    config = model_config(**ARCHITECTURES[name])
    params, forward = make(config)
    expected = np.asarray(forward(params, text))
    read, apart = program(config), unstack(params, config.layers)

    kept = cache.empty(config, batch=3, capacity=20, chunk=3)
    prompt = jnp.where(jnp.arange(12) < LENGTHS[:, None], text[:, :12], 96)  # what is no token must not matter
    got, kept = read(apart, prompt, kept, jnp.asarray(LENGTHS), fresh=True)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(got[row, :length], expected[row, :length], atol=2e-4)
    at = LENGTHS.copy()
    for chunk in (1, 3, 1):
        tokens = jnp.stack([text[row, at[row] : at[row] + chunk] for row in range(3)])
        got, kept = read(apart, tokens, kept, None, fresh=False)
        for row in range(3):
            np.testing.assert_allclose(got[row], expected[row, at[row] : at[row] + chunk], atol=2e-4)
        at += chunk
    assert np.array_equal(kept.length_B, at)


@pytest.mark.parametrize('name', ['gpt2', 'mistral', 'sink', 'alibi'])
def test_forgotten_tokens_leave_no_trace(model_config, text, name):
    config = model_config(**ARCHITECTURES[name])
    params, forward = make(config)
    read, apart = program(config), unstack(params, config.layers)
    kept = cache.empty(config, batch=3, capacity=16, chunk=3)
    _, kept = read(apart, text[:, :9], kept, None, fresh=True)
    _, after = read(apart, jnp.full((3, 3), 96), kept, jnp.array([3, 2, 1]), fresh=False)
    after = after.replace(length_B=kept.length_B + jnp.array([0, 1, 1]))
    text = text.at[1:, 9].set(96)
    wanted = np.asarray(forward(params, text))
    tokens = jnp.stack([text[0, 9:12], text[1, 10:13], text[2, 10:13]])
    got, _ = read(apart, tokens, after, None, fresh=False)
    for row, start in enumerate((9, 10, 10)):
        np.testing.assert_allclose(got[row], wanted[row, start : start + 3], atol=2e-4)


def test_a_window_s_cache_stays_small_and_rows_are_picked(model_config):
    config = model_config(**ARCHITECTURES['sink'])
    kept = cache.empty(config, batch=2, capacity=1000, chunk=2)
    assert [layer.k_BGMK.shape[2] for layer in kept.layers] == [config.window + 1, 1000]
    marked = kept.replace(length_B=jnp.array([3, 7]))
    assert cache.rows(marked, jnp.array([1, 1])).length_B.tolist() == [7, 7]


def test_grouped_queries_share_what_is_kept(model_config):
    few, many = (cache.empty(model_config(kv_heads=n), batch=1, capacity=8, chunk=1) for n in (1, 4))
    size = lambda kept: sum(a.nbytes for a in jax.tree.leaves(kept.layers))  # noqa: E731
    assert 4 * size(few) == size(many)


def test_weights_of_every_architecture_are_declared(model_config):
    for fields in ARCHITECTURES.values():
        config = model_config(**fields)
        boxed = weights.letters(jax.eval_shape(lambda config=config: _init(config)))
        assert all(set(letters) <= set(config.dims) for letters in jax.tree.leaves(boxed))


def _init(config):
    return GPT(config, ANYWHERE, train=False).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))['params']
