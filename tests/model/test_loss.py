"""Is the chunked loss the plain one, in value and gradient, without the logits of the whole batch in memory?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import loss as losses
from gpt_jax.parallel.team import ALONE, Team


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
    np.testing.assert_allclose(three, 3 * one, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('chunk', [0, 4])
def test_predictions_are_the_plain_log_softmax_and_argmax(model_config, chunk, devices):
    """Rows 3, 20 and 40 of the vocabulary are equal: of ids as likely as another the first counts, on any device."""
    config = model_config(loss_chunk=chunk, vocab_size=50, vocab_multiple=64)
    x, w, targets, _ = data(64)
    w = w.at[20].set(w[3]).at[40].set(w[3])
    x = x.at[0].set(10 * w[3])  # so that they are the likeliest
    targets = targets.at[0].set(jnp.array([3, 20, 40] * 4)).at[1].set(jnp.argmax(x[1] @ w[:50].T, axis=-1))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ('v',))
    team = Team(('v',), devices) if devices > 1 else ALONE
    cut, whole = jax.sharding.PartitionSpec('v'), jax.sharding.PartitionSpec()
    found = jax.shard_map(
        lambda x, w, targets: losses.predictions(x, w, targets, config, team),
        mesh=mesh, in_specs=(whole, cut, whole), out_specs=whole, check_vma=False,
    )  # fmt: skip
    log_p, hit = jax.jit(found)(x, w, targets)
    z = np.asarray(x, np.float64) @ np.asarray(w, np.float64)[:50].T
    expected = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        log_p, np.take_along_axis(expected, np.asarray(targets)[..., None], -1)[..., 0], atol=1e-4
    )
    assert hit[0].tolist() == [True, False, False] * 4
    assert bool(hit[1].all())
    assert hit[2].tolist() == (z[2].argmax(-1) == np.asarray(targets)[2]).tolist()
