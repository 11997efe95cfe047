"""The KV cache: a model that continues from it computes what it would compute from scratch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import kv_cache
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.loss import compute_logits
from gpt_jax.parallel.sharding import UNSHARDED
from tests.model import reference
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

# Every layer has its own cache; window layers have fewer slots than full ones.
TWO_LAYERS = ('gpt2', 'gpt3_banded', 'sink')
LENGTHS = np.array([9, 4, 1])  # of the prompts in one batch


@pytest.fixture
def text():
    return np.random.default_rng(5).integers(97, size=(3, 16), dtype=np.int32)


def make_cached_forward(config):
    """Return (params, tokens, cache, count_B, prefill) -> (logits, cache)."""
    model = GPT(config, UNSHARDED, train=False)

    def forward(params, tokens, cache, count_B, *, prefill):
        variables = {'params': unstack_layers(params, config.layers)}
        output = model.apply(variables, tokens, cache=cache, count_B=count_B, prefill=prefill)
        return compute_logits(output.x_BLD, output.w_VD, config), output.cache

    return jax.jit(forward, static_argnames='prefill')


# These differ from another one in nothing that a cache could change: in the order of the norms, the
# feed-forward layer, the frequencies of the positions, or a bias of the projections.
SAME_CACHE = (
    'gpt_neox',
    'linear_scaling',
    'ntk_scaling',
    'llama3_scaling',
    'qwen2',
    'reglu_with_biases',
    'glu',
    'bilinear',
    'exact_gelu',
    'shared_experts',
    'switch',
)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SAME_CACHE else name
        for name in ARCHITECTURES
    ],
)
def test_cached_logits_equal_those_of_a_float64_gpt(model_config, text, name):
    """Prompts of different lengths in one batch, then chunks of one token and of several."""
    config = model_config(layers=2 if name in TWO_LAYERS else 1, **ARCHITECTURES[name])
    params, _ = make_model(config)
    expected = np.stack([reference.logits(params, row, config) for row in text])
    cached_forward = make_cached_forward(config)

    cache = kv_cache.init_cache(config, batch=3, capacity=20, chunk=3)
    # Padding after the prompts must not matter.
    prompts = np.where(np.arange(12) < LENGTHS[:, None], text[:, :12], 96)
    logits, cache = cached_forward(params, prompts, cache, LENGTHS, prefill=True)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], atol=2e-4)
    starts = LENGTHS.copy()
    for chunk in (1, 3, 1) if name in TWO_LAYERS else (1, 1):
        spans = [slice(start, start + chunk) for start in starts]
        tokens = np.stack([text[row, span] for row, span in enumerate(spans)])
        logits, cache = cached_forward(params, tokens, cache, None, prefill=False)
        for row, span in enumerate(spans):
            np.testing.assert_allclose(logits[row], expected[row, span], atol=2e-4)
        starts += chunk
    assert np.array_equal(cache.length_B, starts)


@pytest.mark.parametrize('name', ['gpt2', 'sink', 'alibi'])
def test_removed_tokens_have_no_effect(model_config, text, name):
    """Lowering `length_B` removes the newest tokens."""
    config = model_config(layers=2 if name in TWO_LAYERS else 1, **ARCHITECTURES[name])
    params, _ = make_model(config)
    text_after = text.copy()
    text_after[1:, 9] = 96
    expected = np.stack([reference.logits(params, row, config) for row in text_after])
    cached_forward = make_cached_forward(config)
    empty = kv_cache.init_cache(config, batch=3, capacity=16, chunk=3)
    _, prompt_cache = cached_forward(params, text[:, :9], empty, None, prefill=True)
    added, counts = np.full((3, 3), 96), np.array([3, 2, 1])
    _, cache = cached_forward(params, added, prompt_cache, counts, prefill=False)
    cache = cache.replace(length_B=prompt_cache.length_B + np.array([0, 1, 1]))
    tokens = np.stack([text_after[0, 9:12], text_after[1, 10:13], text_after[2, 10:13]])
    logits, _ = cached_forward(params, tokens, cache, np.full(3, 3), prefill=False)
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
