"""Splash attention, interpreted on a CPU, against the chunked kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.model.chunked_attention import chunked_attention
from gpt_jax.model.mask import AttentionMask
from gpt_jax.model.splash_attention import splash_attention, splash_block_size
from gpt_jax.train import build

LENGTH = 256  # two blocks of 128
NO_MASK = AttentionMask(segments_BL=None, window=None, sink_H=None, slopes_H=None)


def draw_inputs(config, length, batch=2):
    """Return (queries, keys, values), and the gradient of the output."""
    rng = np.random.default_rng(0)
    heads = (config.heads, config.kv_heads, config.kv_heads, config.heads)
    *inputs, do_BLHK = (
        rng.standard_normal((batch, length, count, config.head_dim), np.float32) for count in heads
    )
    return inputs, do_BLHK


def attend_and_differentiate(kernel, config, mask, length):
    """Return the output and the gradients by queries, keys and values."""
    inputs, do_BLHK = draw_inputs(config, length)

    def objective(q_BLHK, k_BMGK, v_BMGK):
        o_BLHK = kernel(q_BLHK, k_BMGK, v_BMGK, mask, config)
        return jnp.sum(o_BLHK * do_BLHK), o_BLHK

    value_and_grad = jax.jit(jax.value_and_grad(objective, (0, 1, 2), has_aux=True))
    (_, output), gradients = value_and_grad(*inputs)
    return [output, *gradients]


@pytest.mark.parametrize(
    ('fields', 'window', 'packed', 'length'),
    [
        ({'kv_heads': 2, 'attention_softcap': 5.0}, None, True, LENGTH),
        ({'attention_pattern': ('window',), 'window': 100}, 100, False, LENGTH),
        ({}, None, True, 200),  # not a multiple of a block
    ],
)
def test_splash_equals_the_chunked_kernel(model_config, fields, window, packed, length):
    config = model_config(context=LENGTH, width=64, attention_chunk=128, **fields)
    segments = None
    if packed:
        is_start = np.random.default_rng(1).random((2, length)) < 0.02
        segments = np.cumsum(is_start, axis=1, dtype=np.int32)
    mask = NO_MASK._replace(segments_BL=segments, window=window)
    actual, expected = (
        attend_and_differentiate(kernel, config, mask, length)
        for kernel in (splash_attention, chunked_attention)
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_a_window_hides_earlier_keys(model_config):
    config = model_config(
        context=LENGTH, width=64, attention_chunk=128, attention_pattern=('window',), window=100
    )
    inputs, _ = draw_inputs(config, LENGTH)

    @jax.jit
    def attend(*inputs):
        masks = [NO_MASK._replace(window=window) for window in (100, None)]
        return [splash_attention(*inputs, mask, config) for mask in masks]

    windowed, full = map(np.asarray, attend(*inputs))
    np.testing.assert_allclose(windowed[:, :100], full[:, :100], atol=1e-5)
    assert np.abs(windowed[:, 100:] - full[:, 100:]).max() > 0.01


def test_block_sizes():
    assert [splash_block_size(1024, chunk) for chunk in (0, 64, 300, 512)] == [1024, 128, 256, 512]
    assert splash_block_size(384, 256) == 128


def test_alibi_is_refused(model_config):
    config = model_config(position='alibi')
    inputs, _ = draw_inputs(config, 128)
    with pytest.raises(UserError, match='ALiBi'):
        splash_attention(*inputs, NO_MASK, config)


@pytest.mark.parametrize(
    'mesh',
    [{'mesh.data': 4}, {'mesh.data': 1, 'mesh.fsdp': 4, 'mesh.strategy': 'fsdp'}],
    ids=['replicated', 'fsdp'],
)
def test_a_training_step_with_splash_lowers_on_a_mesh(settings, mesh):
    fields = {
        'model.attention_kernel': 'splash',
        'model.context': 128,
        'model.scan_layers': True,
        'model.remat': 'dots',
    }
    config = settings(fields | mesh)
    parts = build.build_trainer_parts(config)
    batch = build.make_abstract_batch(config, parts.mesh)
    assert parts.train_step.lower(parts.abstract_state, batch).as_text()
