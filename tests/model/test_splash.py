"""Is splash attention, interpreted on a CPU, the chunked kernel, with its gradients?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.errors import UserError
from gpt_jax.model.attention import KERNELS
from gpt_jax.model.mask import Sight
from gpt_jax.model.splash import block

LENGTH = 256  # two blocks of 128


def given(config, length, batch=2):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(batch, length, heads, config.head_dim) for heads in (config.heads, config.kv_heads, config.kv_heads)]
    tensors = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]
    return tensors, jax.random.normal(keys[3], shapes[0])


def both(config, sight, length):
    """For each kernel its output and the gradients of its product with fixed numbers."""
    tensors, towards = given(config, length)

    def of(name):
        def product(q_BLHK, k_BMGK, v_BMGK):
            o_BLHK = KERNELS[name](q_BLHK, k_BMGK, v_BMGK, sight, config)
            return jnp.sum(o_BLHK * towards), o_BLHK

        return jax.jit(jax.value_and_grad(product, (0, 1, 2), has_aux=True))(*tensors)

    ((_, theirs), their_gradients), ((_, ours), our_gradients) = of('splash'), of('chunked')
    return [theirs, *their_gradients], [ours, *our_gradients]


@pytest.mark.parametrize(
    ('fields', 'window', 'packed', 'length'),
    [
        ({'kv_heads': 2, 'attention_softcap': 5.0}, None, True, LENGTH),
        ({'attention_pattern': ('window',), 'window': 100}, 100, False, LENGTH),
        ({}, None, True, 200),  # no multiple of a block
    ],
)
def test_equals_the_chunked_kernel(model_config, fields, window, packed, length):
    config = model_config(context=LENGTH, width=64, attention_chunk=128, **fields)
    segments = jnp.cumsum(jax.random.bernoulli(jax.random.key(1), 0.02, (2, length)), axis=1) if packed else None
    for a, b in zip(*both(config, Sight(segments, window, None, None), length), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.max(jnp.abs(b))))


def test_a_window_hides_what_full_attention_sees(model_config):
    config = model_config(context=LENGTH, width=64, attention_chunk=128, attention_pattern=('window',), window=100)
    tensors, _ = given(config, LENGTH)
    narrow, wide = (KERNELS['splash'](*tensors, Sight(None, w, None, None), config) for w in (100, None))
    np.testing.assert_allclose(narrow[:, :100], wide[:, :100], atol=1e-5)
    assert float(jnp.max(jnp.abs(narrow[:, 100:] - wide[:, 100:]))) > 0.01


def test_blocks():
    assert [block(1024, chunk) for chunk in (0, 64, 300, 512)] == [1024, 128, 256, 512]
    assert block(384, 256) == 128


def test_alibi_is_refused(model_config):
    config = model_config(position='alibi')
    tensors, _ = given(config, 128)
    with pytest.raises(UserError, match='ALiBi'):
        KERNELS['splash'](*tensors, Sight(None, None, None, None), config)


def test_runs_on_each_devices_own_rows(settings):
    """Under both strategies, the program of a step exists and gathers no keys."""
    for mesh in ({'mesh.data': 4}, {'mesh.data': 1, 'mesh.fsdp': 4, 'mesh.strategy': 'fsdp'}):
        words = {'model.attention_kernel': 'splash', 'model.context': 128, 'model.scan_layers': True}
        s = settings(words | mesh | {'model.remat': 'dots'})
        program = assemble.build(s)
        assert program.step.lower(program.abstract_state, assemble.abstract_batch(s, program.mesh)).as_text()
