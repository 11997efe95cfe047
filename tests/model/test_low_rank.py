"""Low-rank adapters: products with one equal those with the changed weight, and their gradients."""

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
    return jax.random.normal(jax.random.key(seed), [SIZES[letter] for letter in letters])


def make_adapted(letters, rate=0.0, key=None):
    a, b = adapter_letters(letters)
    scale = jnp.float32(SCALE)
    return AdaptedWeight(draw(0, letters), draw(1, a), draw(2, b), scale, key, rate)


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
        scale = jnp.array([0.5, 2.0])
        scale_by_layer = np.reshape(scale, (-1, *[1] * (len(letters) - 1)))
    a, b = (np.asarray(part, np.float64) for part in (weight.a, weight.b))
    terms = '{},{}->{}'.format(*adapter_letters(letters), letters)
    expected = scale_by_layer * np.einsum(terms, a, b)
    delta = compute_lora_delta(weight.a, weight.b, scale, len(letters))
    assert_close(delta, expected, 1e-5)
    merged = weight.replace(scale=scale).astype(jnp.float32)
    assert_close(merged, np.asarray(weight.w) + expected, 1e-5)


@pytest.mark.parametrize('letters', PRODUCT_TERMS)
def test_a_product_and_its_gradients_equal_those_of_the_changed_weight(model_config, letters):
    terms, config = PRODUCT_TERMS[letters], model_config()
    x_letters, _, y_letters = terms.replace('->', ',').split(',')
    weight, x, dy = make_adapted(letters), draw(3, x_letters), draw(4, y_letters)
    y, vjp = jax.vjp(lambda x, weight: einsum(terms, x, weight, config), x, weight)
    dx, d_weight = vjp(dy)
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
    y, vjp = jax.vjp(lambda x, weight: grouped_matmul(x, weight, owner_P, config), x, weight)
    dx, d_weight = vjp(dy)
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
    assert_close(weight[jnp.asarray(ids)], merge(weight, 'VD')[ids], 1e-5)
    assert len(weight) == SIZES['V']
    row_weights = draw(5, 'BL')[:, :2, None]
    gradient = jax.grad(lambda weight: jnp.sum(weight[jnp.asarray(ids)] * row_weights))(weight)
    expected = np.zeros((11, 4))
    np.add.at(expected, ids, np.asarray(row_weights) * np.ones(4))
    np.testing.assert_allclose(
        gradient.a, SCALE * expected @ np.asarray(weight.b).T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('chunk', [0, 1])
@pytest.mark.parametrize('fields', [{}, {'logit_softcap': 2.0, 'z_loss': 0.1}], ids=str)
def test_the_loss_of_a_head_equals_that_of_the_changed_head(model_config, chunk, fields):
    config = model_config(loss_chunk=chunk, vocab_size=SIZES['V'], **fields)
    weight, x = make_adapted('VD'), draw(3, 'BLD')
    targets = jax.random.randint(jax.random.key(6), (2, 3), 0, 11)
    target_weights = draw(7, 'BL') ** 2

    def objective(x, w):
        return losses.compute_loss(x, w, targets, target_weights, config).objective

    value, (dx, d_weight) = jax.value_and_grad(objective, argnums=(0, 1))(x, weight)
    w = jnp.asarray(merge(weight, 'VD'), jnp.float32)
    expected, (expected_dx, dw) = jax.value_and_grad(objective, argnums=(0, 1))(x, w)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(dx, expected_dx)
    assert_close(d_weight.w, dw)
    assert_close(d_weight.a, SCALE * dw @ weight.b.T)
    assert_close(d_weight.b, SCALE * weight.a.T @ dw)
    for function in (losses.compute_logits, losses.compute_decode_logits):
        assert_close(function(x, weight, config), function(x, w, config))


def test_an_adapter_on_a_quantized_weight(model_config):
    """Dettmers et al. 2023: the weight is quantized and frozen, the adapter neither."""
    quantized = make_adapted('DF').replace(w=quantize_weight(draw(0, 'DF'), 'DF', 4))
    dequantized = quantized.replace(w=quantized.w.astype(jnp.float32))
    config = model_config()

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
    multiply = lambda x, weight: einsum('BLD,DF->BLF', x, weight, config)
    without_dropout = multiply(x, make_adapted('DF'))
    base = multiply(x, make_adapted('DF').w)

    @jax.jit
    def with_dropout(key):
        return multiply(x, make_adapted('DF', 0.5, key))

    draws = np.stack([with_dropout(jax.random.key(seed)) for seed in range(4000)])
    assert not np.array_equal(draws[0], draws[1])
    standard_error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - without_dropout) < 5 * standard_error).all()
    weight = make_adapted('DF', 0.5, jax.random.key(0))
    np.testing.assert_array_equal(multiply(jnp.zeros_like(x), weight), 0)
    np.testing.assert_allclose(
        multiply(x, weight.replace(b=jnp.zeros((2, 7)))), base, rtol=1e-6, atol=1e-6
    )
