"""The KV cache: a model that continues from it computes what it would compute from scratch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import kv_cache, weights
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.loss import compute_logits
from gpt_jax.parallel.sharding import UNSHARDED
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

LENGTHS = np.array([9, 4, 1])  # of the prompts in one batch


@pytest.fixture
def text():
    return jax.random.randint(jax.random.key(5), (3, 16), 0, 97)


def make_cached_forward(config):
    """Return (params, tokens, cache, count_B, prefill) -> (logits, cache)."""
    model = GPT(config, UNSHARDED, train=False)

    def forward(params, tokens, cache, count_B, *, prefill):
        variables = {'params': params}
        output = model.apply(variables, tokens, cache=cache, count_B=count_B, prefill=prefill)
        return compute_logits(output.x_BLD, output.w_VD, config), output.cache

    return jax.jit(forward, static_argnames='prefill')


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_cached_logits_equal_the_full_forward_pass(model_config, text, name):
    """Prompts of different lengths in one batch, then chunks of one and of three tokens."""
    config = model_config(**ARCHITECTURES[name])
    params, forward = make_model(config)
    expected = np.asarray(forward(params, text))
    cached_forward, params = make_cached_forward(config), unstack_layers(params, config.layers)

    cache = kv_cache.init_cache(config, batch=3, capacity=20, chunk=3)
    # Padding after the prompts must not matter.
    prompts = jnp.where(jnp.arange(12) < LENGTHS[:, None], text[:, :12], 96)
    logits, cache = cached_forward(params, prompts, cache, jnp.asarray(LENGTHS), prefill=True)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], atol=2e-4)
    starts = LENGTHS.copy()
    for chunk in (1, 3, 1):
        spans = [slice(start, start + chunk) for start in starts]
        tokens = jnp.stack([text[row, span] for row, span in enumerate(spans)])
        logits, cache = cached_forward(params, tokens, cache, None, prefill=False)
        for row, span in enumerate(spans):
            np.testing.assert_allclose(logits[row], expected[row, span], atol=2e-4)
        starts += chunk
    assert np.array_equal(cache.length_B, starts)


@pytest.mark.parametrize('name', ['gpt2', 'mistral', 'sink', 'alibi'])
def test_removed_tokens_have_no_effect(model_config, text, name):
    """Lowering `length_B` removes the newest tokens."""
    config = model_config(**ARCHITECTURES[name])
    params, forward = make_model(config)
    text_after = text.at[1:, 9].set(96)
    expected = np.asarray(forward(params, text_after))
    cached_forward, params = make_cached_forward(config), unstack_layers(params, config.layers)
    empty = kv_cache.init_cache(config, batch=3, capacity=16, chunk=3)
    _, prompt_cache = cached_forward(params, text[:, :9], empty, None, prefill=True)
    added, counts = jnp.full((3, 3), 96), jnp.array([3, 2, 1])
    _, cache = cached_forward(params, added, prompt_cache, counts, prefill=False)
    cache = cache.replace(length_B=prompt_cache.length_B + jnp.array([0, 1, 1]))
    tokens = jnp.stack([text_after[0, 9:12], text_after[1, 10:13], text_after[2, 10:13]])
    logits, _ = cached_forward(params, tokens, cache, None, prefill=False)
    for row, start in enumerate((9, 10, 10)):
        np.testing.assert_allclose(logits[row], expected[row, start : start + 3], atol=2e-4)


def test_window_layers_have_few_slots_and_rows_can_be_gathered(model_config):
    config = model_config(**ARCHITECTURES['sink'])
    cache = kv_cache.init_cache(config, batch=2, capacity=1000, chunk=2)
    assert [layer.k_BGMK.shape[2] for layer in cache.layers] == [config.window + 1, 1000]
    cache = cache.replace(length_B=jnp.array([3, 7]))
    assert kv_cache.gather_rows(cache, jnp.array([1, 1])).length_B.tolist() == [7, 7]


def test_the_cache_has_key_value_heads_only(model_config):
    grouped, full = (
        kv_cache.init_cache(model_config(kv_heads=n), batch=1, capacity=8, chunk=1) for n in (1, 4)
    )
    count_bytes = lambda cache: sum(a.nbytes for a in jax.tree.leaves(cache.layers))
    assert 4 * count_bytes(grouped) == count_bytes(full)


def test_the_letters_of_every_weight_are_dims_of_the_config(model_config):
    for fields in ARCHITECTURES.values():
        config = model_config(**fields)
        model = GPT(config, UNSHARDED, train=False)
        tokens = jnp.zeros((1, 4), jnp.int32)
        boxed = jax.eval_shape(lambda m=model, t=tokens: m.init(jax.random.key(0), t))['params']
        letters = jax.tree.leaves(weights.logical_axes(boxed))
        assert all(set(word) <= set(config.dims) for word in letters)
