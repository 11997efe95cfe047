"""Quantized and transposed weights: rounding, products, and models that compute with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.inference import engine, placement
from gpt_jax.inference.decode import InferenceModel
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.loss import compute_logits
from gpt_jax.model.matmul import einsum
from gpt_jax.model.quantization import (
    CONTRACTED_LETTERS,
    INT4_GROUP_SIZE,
    MAX_INTEGER,
    QuantizedWeight,
    TransposedWeight,
    can_transpose,
    matmul_operand,
    matmul_transposed,
    quantize_weight,
    transpose_weight,
)
from gpt_jax.parallel.sharding import UNSHARDED
from tests.inference import engines
from tests.model.architectures import ARCHITECTURES, PRODUCT_TERMS
from tests.model.test_gpt import make_model

SIZES = {'V': 50, 'D': 192, 'H': 4, 'G': 2, 'K': 6, 'F': 20, 'E': 3, 'U': 10}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def draw_weight(letters, **sizes):
    return draw(*[(SIZES | sizes)[letter] for letter in letters], seed=len(letters))


@functools.partial(jax.jit, static_argnames=('letters', 'bits'))
def quantize(weight, letters, bits):
    """Return the quantized weight, and its values as float32."""
    quantized = quantize_weight(weight, letters, bits)
    return quantized, quantized.astype(jnp.float32)


@pytest.mark.parametrize('letters', CONTRACTED_LETTERS)
@pytest.mark.parametrize('bits', [8, 4])
def test_every_number_is_rounded_to_the_nearest_of_its_group(letters, bits):
    w = draw_weight(letters)
    quantized, rounded = quantize(w, letters, bits)
    assert (quantized.shape, len(quantized)) == (w.shape, w.shape[0])
    contracted = CONTRACTED_LETTERS[letters]
    inner = int(np.prod([SIZES[letter] for letter in contracted]))
    group = inner if bits == 8 or inner < INT4_GROUP_SIZE else INT4_GROUP_SIZE
    # Independent of the library: the contracted dims last, then split into groups.
    order = sorted(range(len(letters)), key=lambda dim: letters[dim] in contracted)
    split = lambda a: np.asarray(a).transpose(order).reshape(-1, group)
    steps = np.abs(split(w)).max(axis=1, keepdims=True) / MAX_INTEGER[bits]
    rounded = split(rounded)
    np.testing.assert_allclose(rounded / steps, np.round(rounded / steps), atol=1e-4)
    assert (np.abs(rounded - split(w)) <= steps / 2 * 1.0001).all()
    assert np.unique(np.round(rounded / steps)).size > MAX_INTEGER[bits]
    assert quantized.values.nbytes * 8 == bits * w.size


def test_a_matrix_of_zeros_stays_zero():
    assert not np.asarray(quantize(np.zeros((4, 6), np.float32), 'DF', 8)[1]).any()


@jax.jit
def read_quantized(w, ids):
    """Return every form in which a matrix in 4 bits is read, also as a table."""
    quantized = quantize_weight(w, 'DF', 4)
    table = quantize_weight(w.T, 'VD', 4)
    array, scale = matmul_operand(quantized, jnp.float32)
    return (
        quantized,
        quantized.astype(jnp.float32),
        array if scale is None else array * scale,
        table.astype(jnp.float32),
        table[ids].astype(jnp.float32),
    )


@pytest.mark.parametrize(
    ('length', 'groups'), [(5, 1), (65, 2), (96, 2), (127, 2), (134, 3), (2 * 997, 32), (1999, 32)]
)
def test_lengths_that_do_not_divide_into_groups(length, groups):
    w, ids = draw(length, 6), np.array([[3, 0]])
    quantized, *forms = read_quantized(w, ids)
    rounded, operand, table, looked_up = map(np.asarray, forms)
    assert (quantized.bits, quantized.scales.shape) == (4, (groups, 6))
    group = 2 * quantized.values.shape[0] // groups
    assert INT4_GROUP_SIZE / 2 < group <= INT4_GROUP_SIZE or length < INT4_GROUP_SIZE
    for start in range(0, length, group):
        rows = slice(start, start + group)
        steps = np.abs(w[rows]).max(axis=0) / MAX_INTEGER[4]
        assert (np.abs(rounded[rows] - w[rows]) <= steps / 2 * 1.0001).all()
    limit = (0.67 if length > 5 else 1) * w.nbytes / 2
    assert quantized.values.nbytes + quantized.scales.nbytes < limit
    np.testing.assert_array_equal(table, rounded.T)
    np.testing.assert_array_equal(looked_up, rounded.T[ids])
    np.testing.assert_allclose(operand, rounded, rtol=1e-6)


@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize(
    ('terms', 'letters'),
    [('BLD,DHK->BLHK', 'DHK'), ('BLHK,HKD->BLD', 'HKD'), ('BLF,FD->BLD', 'FD')],
)
def test_a_product_equals_that_of_the_dequantized_weight(model_config, terms, letters, bits):
    config = model_config()
    a_shape = (2, 3, *(SIZES[letter] for letter in terms[2 : terms.index(',')]))

    @jax.jit
    def multiply(a, w):
        quantized, dequantized = quantize(w, letters, bits)
        return einsum(terms, a, quantized, config), einsum(terms, a, dequantized, config)

    product, expected = multiply(draw(*a_shape, seed=9), draw_weight(letters))
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_represents_eight_bits_exactly():
    quantized, expected = quantize(draw_weight('DF'), 'DF', 8)
    array, scale = matmul_operand(quantized, jnp.bfloat16)
    assert array.dtype == jnp.bfloat16
    np.testing.assert_array_equal(array.astype(jnp.float32) * scale, expected)


def dequantize(params):
    is_quantized = lambda leaf: isinstance(leaf, QuantizedWeight)
    to_array = lambda leaf: leaf.astype(jnp.float32) if is_quantized(leaf) else leaf
    return jax.tree.map(to_array, params, is_leaf=is_quantized)


@pytest.mark.parametrize(
    ('name', 'dtype', 'least', 'most'),
    [('gpt2', 'int8', 0, 0.03), ('shared_experts', 'int4', 0.03, 0.8)],
)
def test_a_model_computes_with_its_quantized_weights(model_config, name, dtype, least, most):
    config = model_config(**ARCHITECTURES[name] | {'layers': 1})
    params, _ = make_model(config)
    tokens = np.random.default_rng(7).integers(97, size=(2, 16))

    @jax.jit
    def compute(params):
        output = GPT(config, UNSHARDED, train=False).apply({'params': params}, tokens)
        return compute_logits(output.x_BLD, output.w_VD, config)

    exact = np.asarray(compute(unstack_layers(params, config.layers)))
    quantized = placement.quantize_params(params, config, dtype)
    logits = np.asarray(compute(quantized))
    expected = compute(jax.jit(dequantize)(quantized))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    assert least < np.abs(logits - exact).mean() / np.abs(exact).mean() < most


# Transposed weights


@pytest.mark.parametrize('letters', PRODUCT_TERMS)
def test_a_transposed_weight_gives_the_same_product(model_config, letters):
    config, weight = model_config(), draw_weight(letters, D=24)
    a_shape = (2, 3, *weight.shape[: len(CONTRACTED_LETTERS[letters])])

    @jax.jit
    def multiply(a, weight):
        transposed = TransposedWeight(transpose_weight(weight, letters), weight.shape)
        return [einsum(PRODUCT_TERMS[letters], a, w, config) for w in (transposed, weight)]

    result, expected = multiply(draw(*a_shape, seed=1), weight)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_tables_and_experts_are_not_transposed():
    assert {letters for letters in CONTRACTED_LETTERS if can_transpose(letters)} == set(
        PRODUCT_TERMS
    )
    assert not can_transpose('LD')


@pytest.mark.parametrize('rows', [1, 5])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('weight_dtype', placement.WEIGHT_CONVERTERS)
def test_matmul_transposed_equals_the_float64_product(rows, dtype, weight_dtype):
    convert = lambda w: placement.WEIGHT_CONVERTERS[weight_dtype](w, 'VD')
    round_operand = lambda a: np.asarray(a.astype(dtype).astype(jnp.float32), np.float64)
    x, w = jnp.asarray(draw(rows, 64, seed=2)), jax.jit(convert)(draw(40, 64, seed=3))
    result = jax.jit(lambda x, w: matmul_transposed(x, w, dtype) + 1)(x, w)
    assert result.dtype == jnp.float32
    # The compiler decides where it rounds bfloat16 operands.
    tolerance = 2e-5 if dtype == 'float32' else 0.1
    expected = round_operand(x) @ round_operand(w.astype('float32')).T + 1
    np.testing.assert_allclose(result, expected, atol=tolerance)


@pytest.mark.parametrize(('name', 'texts'), [('gpt2', 3), ('llama', 1)])
def test_a_model_with_transposed_weights_generates_the_same(name, texts):
    config = engines.config(**ARCHITECTURES[name], layers=1)
    generated = []
    for transpose in (False, True):
        params = placement.quantize_params(make_model(config)[0], config, 'float32', transpose)
        device = engine.make_engine(
            InferenceModel(config, UNSHARDED), params, None, engines.on_device, engines.on_device
        )
        prompts = engines.prompts(*[3, 5, 4][:texts])
        generated.append(engines.token_ids(engines.generate(device, prompts, max_length=16)))
    assert generated[0] == generated[1]
