"""Is a matrix in few bits the nearest there is, and does the model compute with it what it says it holds?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import inference
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT
from gpt_jax.model.products import einsum
from gpt_jax.model.quantized import GROUP, LARGEST, SUMMED, Quantized, operand, quantize
from gpt_jax.parallel.place import ANYWHERE
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make

SIZES = {'V': 50, 'D': 192, 'H': 4, 'G': 2, 'K': 6, 'F': 20, 'E': 3, 'U': 10}


def weight(letters):
    return jax.random.normal(jax.random.key(len(letters)), [SIZES[letter] for letter in letters])


@pytest.mark.parametrize('letters', SUMMED)
@pytest.mark.parametrize('bits', [8, 4])
def test_every_number_is_the_nearest_of_its_group(letters, bits):
    w = weight(letters)
    kept = quantize(w, letters, bits)
    assert kept.shape == w.shape
    assert (kept.shape, len(kept)) == (w.shape, w.shape[0])
    inner = int(np.prod([SIZES[letter] for letter in SUMMED[letters]]))
    group = inner if bits == 8 or inner < GROUP else GROUP
    # Apart from the library: the summed dims last, then cut into groups.
    order = [k for k, letter in enumerate(letters) if letter not in SUMMED[letters]]
    order += [k for k, letter in enumerate(letters) if letter in SUMMED[letters]]
    rows = lambda a: np.asarray(a).transpose(order).reshape(-1, group)  # noqa: E731
    steps = np.abs(rows(w)).max(axis=1, keepdims=True) / LARGEST[bits]
    got = rows(kept.astype(jnp.float32))
    np.testing.assert_allclose(got / steps, np.round(got / steps), atol=1e-4)
    assert (np.abs(got - rows(w)) <= steps / 2 * 1.0001).all()
    assert np.unique(np.round(got / steps)).size > LARGEST[bits]
    assert kept.values.nbytes * 8 == bits * w.size


def test_a_matrix_of_zeros_and_one_of_odd_length():
    assert not quantize(jnp.zeros((4, 6)), 'DF', 8).astype(jnp.float32).any()


@pytest.mark.parametrize(
    ('length', 'groups'), [(5, 1), (65, 2), (96, 2), (127, 2), (134, 3), (2 * 997, 32), (1999, 32)]
)
def test_lengths_that_are_no_whole_number_of_groups(length, groups):
    w = np.array(jax.random.normal(jax.random.key(0), (length, 6)))
    kept = quantize(jnp.asarray(w), 'DF', 4)
    assert (kept.bits, kept.scales.shape) == (4, (groups, 6))
    group = 2 * kept.values.shape[0] // groups
    assert GROUP / 2 < group <= GROUP or length < GROUP
    got = np.asarray(kept.astype(jnp.float32))
    for begin in range(0, length, group):
        rows = slice(begin, begin + group)
        steps = np.abs(w[rows]).max(axis=0) / LARGEST[4]
        assert (np.abs(got[rows] - w[rows]) <= steps / 2 * 1.0001).all()
    assert kept.values.nbytes + kept.scales.nbytes < (0.67 if length > 5 else 1) * w.nbytes / 2
    turned = quantize(jnp.asarray(w.T), 'VD', 4)
    np.testing.assert_array_equal(turned.astype(jnp.float32), got.T)
    np.testing.assert_array_equal(turned[jnp.array([[3, 0]])].astype(jnp.float32), got.T[np.array([[3, 0]])])
    array, scale = operand(kept, jnp.float32)
    np.testing.assert_allclose(array if scale is None else array * scale, got, rtol=1e-6)


@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize(
    ('terms', 'letters'), [('BLD,DHK->BLHK', 'DHK'), ('BLHK,HKD->BLD', 'HKD'), ('BLF,FD->BLD', 'FD')]
)
def test_products_are_those_of_what_is_kept(model_config, terms, letters, bits):
    config = model_config()
    kept = quantize(weight(letters), letters, bits)
    a = jax.random.normal(jax.random.key(9), (2, 3, *(SIZES[letter] for letter in terms[2 : terms.index(',')])))
    expected = einsum(terms, a, kept.astype(jnp.float32), config)
    np.testing.assert_allclose(einsum(terms, a, kept, config), expected, rtol=1e-4, atol=1e-4)


def test_eight_bits_lose_nothing_more_in_bfloat16():
    kept = quantize(weight('DF'), 'DF', 8)
    array, scale = operand(kept, jnp.bfloat16)
    assert array.dtype == jnp.bfloat16
    np.testing.assert_array_equal(array.astype(jnp.float32) * scale, kept.astype(jnp.float32))


def plain(kept):
    """The same numbers as arrays."""
    is_kept = lambda leaf: isinstance(leaf, Quantized)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if is_kept(leaf) else leaf, kept, is_leaf=is_kept)


@pytest.mark.parametrize(
    ('name', 'kind', 'least', 'most'),
    [('gpt2', 'int8', 0, 0.03), ('shared_experts', 'int4', 0.03, 0.8)],
)
def test_a_model_computes_with_what_it_keeps(model_config, name, kind, least, most):
    config = model_config(**ARCHITECTURES[name] | {'layers': 1})
    params, forward = make(config)
    tokens = jax.random.randint(jax.random.key(7), (2, 16), 0, 97)
    exact = np.asarray(forward(params, tokens))

    @jax.jit
    def apart(params, tokens):
        features = GPT(config, ANYWHERE, train=False).apply({'params': params}, tokens)
        return losses.logits(features.x_BLD, features.w_VD, config)

    kept = inference.kept_as(params, config, kind)
    got = np.asarray(apart(kept, tokens))
    np.testing.assert_allclose(got, apart(plain(kept), tokens), rtol=1e-3, atol=1e-3)
    assert least < np.abs(got - exact).mean() / np.abs(exact).mean() < most
