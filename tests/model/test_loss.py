"""Is the chunked loss the plain one, in value and gradient, without the logits of the whole batch in memory?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import loss as losses


def objective(*arguments):
    return losses.summed_losses(*arguments).objective


def data(vocab, length=12):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, length, 8))
    w = jax.random.normal(keys[1], (vocab, 8))
    targets = jax.random.randint(keys[2], (3, length), 0, 50)
    return x, w, targets, jax.random.uniform(keys[3], (3, length))


@pytest.mark.parametrize('chunk', [0, 1, 4, 5, 12, 100])
@pytest.mark.parametrize('vocab_multiple', [1, 64])
def test_value_and_gradient_equal_the_plain_formula_in_float64(model_config, chunk, vocab_multiple):
    config = model_config(loss_chunk=chunk, vocab_size=50, vocab_multiple=vocab_multiple)
    x, w, targets, weights = data(config.dims['V'])
    value, (dx, dw) = jax.value_and_grad(objective, argnums=(0, 1))(x, w, targets, weights, config)

    x64, w64 = np.asarray(x, np.float64), np.asarray(w, np.float64)[:50]
    z = x64 @ w64.T
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    hit = np.eye(50)[np.asarray(targets)]
    expected = -(np.log((p * hit).sum(-1)) * np.asarray(weights)).sum()
    dz = (p - hit) * np.asarray(weights)[..., None]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(dx, dz @ w64, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dw[:50], np.einsum('blv,bld->vd', dz, x64), rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(dw[50:]) == 0)


def test_incoming_gradient_scales_the_outgoing(model_config):
    config = model_config(loss_chunk=4, vocab_size=50)
    x, w, targets, weights = data(50)
    one = jax.grad(objective)(x, w, targets, weights, config)
    three = jax.grad(lambda x: 3 * objective(x, w, targets, weights, config))(x)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-6)


def test_chunks_keep_the_logits_out_of_memory(model_config):
    shapes = {'x': (4, 256, 16), 'w': (4096, 16), 't': (4, 256)}
    x, w = jnp.zeros(shapes['x']), jnp.zeros(shapes['w'])
    targets, weights = jnp.zeros(shapes['t'], jnp.int32), jnp.ones(shapes['t'])
    whole = 4 * 256 * 4096 * 4

    def temporaries(chunk):
        config = model_config(loss_chunk=chunk, vocab_size=4096)
        gradient = jax.jit(jax.grad(lambda x, w: objective(x, w, targets, weights, config), argnums=(0, 1)))
        return gradient.lower(x, w).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(0) > whole > 4 * temporaries(16)
