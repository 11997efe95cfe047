"""The chunked loss against the plain formula: value, gradient, memory, scores of targets."""

import functools

import jax
import numpy as np
import pytest

from gpt_jax.model.loss import compute_loss, score_targets
from gpt_jax.parallel.axis_group import SINGLE_DEVICE, AxisGroup


def objective(*arguments):
    return compute_loss(*arguments).objective


def draw_data(vocab, length=12):
    """Return features, head, targets and weights."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, length, 8), np.float32)
    w = rng.standard_normal((vocab, 8), np.float32)
    targets = rng.integers(50, size=(3, length))
    return x, w, targets, rng.random((3, length), np.float32)


@functools.partial(jax.jit, static_argnames='config')
def differentiate(*arguments, config):
    """Return the objective and its gradients by the features and the head."""
    return jax.value_and_grad(objective, argnums=(0, 1))(*arguments, config)


@pytest.mark.parametrize('chunk', [0, 1, 4, 5, 12, 100])
@pytest.mark.parametrize('vocab_multiple', [1, 64])
def test_value_and_gradient_equal_the_plain_formula_in_float64(model_config, chunk, vocab_multiple):
    config = model_config(loss_chunk=chunk, vocab_size=50, vocab_multiple=vocab_multiple)
    x, w, targets, weights = draw_data(config.dims['V'])
    value, (dx, dw) = differentiate(x, w, targets, weights, config=config)

    x64, w64 = np.asarray(x, np.float64), np.asarray(w, np.float64)[:50]
    z = x64 @ w64.T
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    one_hot = np.eye(50)[np.asarray(targets)]
    expected = -(np.log((p * one_hot).sum(-1)) * np.asarray(weights)).sum()
    dz = (p - one_hot) * np.asarray(weights)[..., None]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(dx, dz @ w64, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dw[:50], np.einsum('blv,bld->vd', dz, x64), rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(dw[50:]) == 0)


def test_the_incoming_gradient_scales_the_outgoing_one(model_config):
    config = model_config(loss_chunk=4, vocab_size=50)
    x, w, targets, weights = draw_data(50)

    @jax.jit
    def differentiate_multiple(factor):
        return jax.grad(lambda x: factor * objective(x, w, targets, weights, config))(x)

    gradient, tripled = map(np.asarray, (differentiate_multiple(1.0), differentiate_multiple(3.0)))
    np.testing.assert_allclose(tripled, 3 * gradient, rtol=1e-5, atol=1e-6)


def test_chunks_avoid_storing_all_logits(model_config):
    shapes = {'x': (4, 256, 16), 'w': (4096, 16), 't': (4, 256)}
    x, w = np.zeros(shapes['x'], np.float32), np.zeros(shapes['w'], np.float32)
    targets, weights = np.zeros(shapes['t'], np.int32), np.ones(shapes['t'], np.float32)
    logits_bytes = 4 * 256 * 4096 * 4

    def temporary_bytes(chunk):
        config = model_config(loss_chunk=chunk, vocab_size=4096)
        gradient = jax.jit(
            jax.grad(lambda x, w: objective(x, w, targets, weights, config), argnums=(0, 1))
        )
        return gradient.lower(x, w).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(0) > logits_bytes > 4 * temporary_bytes(16)


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize('chunk', [0, 4])
def test_score_targets_equals_log_softmax_and_argmax(model_config, chunk, devices):
    """Rows 3, 20 and 40 of the head are equal: the first of equally probable ids counts."""
    config = model_config(loss_chunk=chunk, vocab_size=50, vocab_multiple=64)
    x, w, targets, _ = draw_data(64)
    w[[3, 20, 40]] = 3 * w[3]
    x[0] = w[3]  # makes them the most probable
    targets[0] = [3, 20, 40] * 4
    targets[1] = np.argmax(x[1] @ w[:50].T, axis=-1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ('v',))
    group = AxisGroup(('v',), devices) if devices > 1 else SINGLE_DEVICE
    sharded, replicated = jax.sharding.PartitionSpec('v'), jax.sharding.PartitionSpec()
    score = jax.shard_map(
        lambda x, w, targets: score_targets(x, w, targets, config, group),
        mesh=mesh,
        in_specs=(replicated, sharded, replicated),
        out_specs=replicated,
        check_vma=False,
    )
    log_p, is_top = jax.jit(score)(x, w, targets)
    z = np.asarray(x, np.float64) @ np.asarray(w, np.float64)[:50].T
    expected = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    expected = np.take_along_axis(expected, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_p, expected, atol=1e-4)
    assert is_top[0].tolist() == [True, False, False] * 4
    assert bool(is_top[1].all())
    assert is_top[2].tolist() == (z[2].argmax(-1) == np.asarray(targets)[2]).tolist()
