"""Low-rank adapters: products with one equal those with the changed weight, and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import loss as losses
from gpt_jax.model.low_rank import (
    ADAPTER_LETTERS,
    AdaptedWeight,
    adapter_letters,
    compute_lora_delta,
)
from gpt_jax.model.matmul import einsum, grouped_matmul
from gpt_jax.model.quantization import CONTRACTED_LETTERS, quantize_weight
from tests.model.architectures import PRODUCT_TERMS

SIZES = {
    'B': 2,
    'L': 3,
    'D': 4,
    'H': 5,
    'G': 2,
    'K': 6,
    'F': 7,
    'E': 3,
    'U': 8,
    'V': 11,
    'N': 2,
    'I': 2,
    'P': 4,
    'C': 5,
}
SCALE = 0.7


def draw(seed, letters):
    shape = [SIZES[letter] for letter in letters]
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def make_adapted(letters, rate=0.0, key=None):
    a, b = adapter_letters(letters)
    scale = np.float32(SCALE)
    return AdaptedWeight(draw(0, letters), draw(1, a), draw(2, b), scale, key, rate)


@functools.partial(jax.jit, static_argnums=0)
def apply_and_differentiate(function, x, weight, dy):
    """Return function(x, weight), and the gradients of both given that of the result."""
    y, vjp = jax.vjp(function, x, weight)
    return y, *vjp(dy)


def merge(weight, letters):
    """The changed weight in float64, from the letters alone."""
    a_letters, b_letters = adapter_letters(letters)
    w, a, b = (np.asarray(part, np.float64) for part in (weight.w, weight.a, weight.b))
    return w + SCALE * np.einsum(f'{a_letters},{b_letters}->{letters}', a, b)


def assert_close(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_every_quantizable_matrix_can_be_adapted():
    assert ADAPTER_LETTERS.keys() == CONTRACTED_LETTERS.keys()


@pytest.mark.parametrize('letters', [*ADAPTER_LETTERS, 'NDHK', 'NHKD', 'NEDF'])
def test_the_delta_has_the_dims_of_the_weight_in_its_order(letters):
    weight, scale, scale_by_layer = make_adapted(letters), SCALE, SCALE
    if letters.startswith('N'):
        scale = np.array([0.5, 2.0], np.float32)
        scale_by_layer = np.reshape(scale, (-1, *[1] * (len(letters) - 1)))
    a, b = (np.asarray(part, np.float64) for part in (weight.a, weight.b))
    terms = '{},{}->{}'.format(*adapter_letters(letters), letters)
    expected = scale_by_layer * np.einsum(terms, a, b)

    @jax.jit
    def compute(weight):
        delta = compute_lora_delta(weight.a, weight.b, weight.scale, len(letters))
        return delta, weight.astype(jnp.float32)

    delta, merged = compute(weight.replace(scale=scale))
    assert_close(delta, expected, 1e-5)
    assert_close(merged, np.asarray(weight.w) + expected, 1e-5)


@pytest.mark.parametrize('letters', PRODUCT_TERMS)
def test_a_product_and_its_gradients_equal_those_of_the_changed_weight(model_config, letters):
    terms, config = PRODUCT_TERMS[letters], model_config()
    x_letters, _, y_letters = terms.replace('->', ',').split(',')
    weight, x, dy = make_adapted(letters), draw(3, x_letters), draw(4, y_letters)
    multiply = lambda x, weight: einsum(terms, x, weight, config)
    y, dx, d_weight = apply_and_differentiate(multiply, x, weight, dy)
    w, (a, b) = merge(weight, letters), adapter_letters(letters)
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dw = np.einsum(f'{x_letters},{y_letters}->{letters}', x, dy)
    assert_close(y, np.einsum(terms, x, w))
    assert_close(dx, np.einsum(f'{y_letters},{letters}->{x_letters}', dy, w))
    assert_close(d_weight.w, dw)
    assert_close(d_weight.a, SCALE * np.einsum(f'{letters},{b}->{a}', dw, weight.b))
    assert_close(d_weight.b, SCALE * np.einsum(f'{a},{letters}->{b}', weight.a, dw))


@pytest.mark.parametrize('letters', ['EDF', 'EFD'])
@pytest.mark.parametrize('owners', [[0, 0, 2, 2], None])
def test_every_expert_has_its_own_adapter(model_config, letters, owners):
    weight = make_adapted(letters)
    blocks = 4 if owners else 3
    x, dy = draw(3, f'PC{letters[1]}')[:blocks], draw(4, f'PC{letters[2]}')[:blocks]
    owner_P = None if owners is None else jnp.array(owners)
    config = model_config()
    multiply = lambda x, weight: grouped_matmul(x, weight, owner_P, config)
    y, dx, d_weight = jax.device_get(apply_and_differentiate(multiply, x, weight, dy))
    w, x, dy = merge(weight, letters), np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dw = np.zeros_like(w)
    for block, expert in enumerate(owners or range(3)):
        assert_close(y[block], x[block] @ w[expert])
        assert_close(dx[block], dy[block] @ w[expert].T)
        dw[expert] += x[block].T @ dy[block]
    a, b = (np.asarray(part, np.float64) for part in (weight.a, weight.b))
    assert_close(d_weight.w, dw)
    assert_close(d_weight.a, SCALE * dw @ b.transpose(0, 2, 1))
    assert_close(d_weight.b, SCALE * a.transpose(0, 2, 1) @ dw)


def test_table_rows_equal_those_of_the_changed_table():
    weight, ids = make_adapted('VD'), np.array([[3, 0], [10, 3]])
    row_weights = draw(5, 'BL')[:, :2, None] * np.ones(4, np.float32)
    look_up = lambda ids, weight: weight[ids]
    rows, _, gradient = apply_and_differentiate(look_up, ids, weight, row_weights)
    assert_close(rows, merge(weight, 'VD')[ids], 1e-5)
    assert len(weight) == SIZES['V']
    expected = np.zeros((11, 4))
    np.add.at(expected, ids, row_weights)
    np.testing.assert_allclose(gradient.a, SCALE * expected @ weight.b.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('chunk', [0, 1])
@pytest.mark.parametrize('fields', [{}, {'logit_softcap': 2.0, 'z_loss': 0.1}], ids=str)
def test_the_loss_of_a_head_equals_that_of_the_changed_head(model_config, chunk, fields):
    config = model_config(loss_chunk=chunk, vocab_size=SIZES['V'], **fields)
    weight, x = make_adapted('VD'), draw(3, 'BLD')
    targets = np.random.default_rng(6).integers(11, size=(2, 3))
    target_weights = draw(7, 'BL') ** 2

    def objective(x, w):
        return losses.compute_loss(x, w, targets, target_weights, config).objective

    @jax.jit
    def compute(x, w):
        logits = [f(x, w, config) for f in (losses.compute_logits, losses.compute_decode_logits)]
        return *jax.value_and_grad(objective, argnums=(0, 1))(x, w), logits

    value, (dx, d_weight), logits = compute(x, weight)
    w = np.float32(merge(weight, 'VD'))
    expected, (expected_dx, dw), expected_logits = compute(x, w)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(dx, expected_dx)
    assert_close(d_weight.w, dw)
    assert_close(d_weight.a, SCALE * dw @ weight.b.T)
    assert_close(d_weight.b, SCALE * weight.a.T @ dw)
    for z, expected_z in zip(logits, expected_logits, strict=True):
        assert_close(z, expected_z)


def test_an_adapter_on_a_quantized_weight(model_config):
    """Dettmers et al. 2023: the weight is quantized and frozen, the adapter neither."""
    adapted, config = make_adapted('DF'), model_config()
    quantized_w = jax.jit(lambda w: quantize_weight(w, 'DF', 4))(adapted.w)
    quantized = adapted.replace(w=quantized_w)
    dequantized = adapted.replace(w=jax.jit(lambda w: w.astype(jnp.float32))(quantized_w))

    @jax.jit
    def value_and_gradients(weight):
        def total(x, a, b):
            return jnp.sum(jnp.sin(einsum('BLD,DF->BLF', x, weight.replace(a=a, b=b), config)))

        inputs = (draw(3, 'BLD'), weight.a, weight.b)
        return jax.tree.leaves(jax.value_and_grad(total, argnums=(0, 1, 2))(*inputs))

    pairs = zip(value_and_gradients(quantized), value_and_gradients(dequantized), strict=True)
    for actual, expected in pairs:
        assert np.abs(expected).max() > 0.1
        assert_close(actual, expected)


def test_dropout_acts_on_the_adapters_input_and_keeps_the_mean(model_config):
    config, x = model_config(), draw(3, 'BLD')
    multiply = jax.jit(lambda x, weight: einsum('BLD,DF->BLF', x, weight, config))
    without_dropout = multiply(x, make_adapted('DF'))
    base = multiply(x, make_adapted('DF').w)
    with_dropout = lambda key: multiply(x, make_adapted('DF', 0.5, key))
    draws = np.asarray(
        jax.jit(lambda key: jax.vmap(with_dropout)(jax.random.split(key, 4000)))(jax.random.key(0))
    )
    assert not np.array_equal(draws[0], draws[1])
    standard_error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - without_dropout) < 5 * standard_error).all()
    weight = make_adapted('DF', 0.5, jax.random.key(0))
    np.testing.assert_array_equal(multiply(np.zeros_like(x), weight), 0)
    without_b = weight.replace(b=np.zeros_like(weight.b))
    np.testing.assert_allclose(multiply(x, without_b), base, rtol=1e-6, atol=1e-6)
