"""Are our own gradients those of the plain product and sum, and is each platform given its own form?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import products
from gpt_jax.model.products import einsum, grouped, spread

SIZES = {'B': 2, 'L': 3, 'M': 3, 'D': 4, 'H': 5, 'G': 5, 'K': 6, 'F': 7}


@pytest.mark.parametrize('terms', ['BLD,DHK->BLHK', 'BMD,DGK->BMGK', 'BLHK,HKD->BLD', 'BLD,DF->BLF', 'BLF,FD->BLD'])
def test_einsum_and_its_gradients_are_jax_s(model_config, terms):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [[SIZES[letter] for letter in part] for part in terms.replace('->', ',').split(',')]
    a, b, dy = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    y, back = jax.vjp(lambda a, b: einsum(terms, a, b, model_config()), a, b)
    expected, expected_back = jax.vjp(lambda a, b: jnp.einsum(terms, a, b), a, b)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(back(dy), expected_back(dy), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize('terms', ['BLD,HDK->BLHK', 'BLD,DF->BFL', 'DBL,DF->BLF'])
def test_einsum_refuses_terms_that_it_would_get_wrong(model_config, terms):
    shapes = [[SIZES[letter] for letter in part] for part in terms.split('->')[0].split(',')]
    with pytest.raises(ValueError, match='wants'):
        einsum(terms, *(jnp.ones(shape) for shape in shapes), model_config())


@pytest.mark.parametrize('tail', ['D', 'HK'])
def test_spread_and_its_gradient_are_jax_s(tail):
    vector = jax.random.normal(jax.random.key(0), [SIZES[letter] for letter in tail])
    shape = (2, 3, *vector.shape)
    dy = jax.random.normal(jax.random.key(1), shape)
    y, back = jax.vjp(lambda v: spread(v, shape, 'float32'), vector)
    np.testing.assert_array_equal(y, jnp.broadcast_to(vector, shape))
    np.testing.assert_allclose(back(dy)[0], dy.sum((0, 1)), atol=1e-5)


@pytest.mark.parametrize(('platform', 'operation'), [('cpu', 'dot_general'), ('tpu', 'reduce')])
def test_a_spread_gradient_is_a_product_on_a_cpu_alone(platform, operation):
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(spread(v, (8, 4), 'float32')[:]) ** 2)))
    text = gradient.trace(jnp.ones(4)).lower(lowering_platforms=(platform,)).as_text()
    other = {'dot_general': 'stablehlo.reduce(', 'reduce': 'stablehlo.dot_general'}[operation]
    backward = text[text.rindex('stablehlo.cosine') :]
    assert f'stablehlo.{operation}' in backward
    assert other not in backward


OWNERS = [0, 0, 2, 3, 3]  # expert 1 has no block


@pytest.fixture
def blocks():
    """Blocks of rows [P, C, x], matrices [E, x, y], gradients of the product [P, C, y]."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(5, 3, 4), (4, 4, 6), (5, 3, 6)]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize('owners', [OWNERS, None])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_grouped_and_its_gradients_are_those_of_the_experts_one_by_one(model_config, blocks, owners, dtype):
    config, (a, w, dy) = model_config(matmul_dtype=dtype), blocks
    owner_P = None if owners is None else jnp.array(owners)
    a, dy = (a[:4], dy[:4]) if owners is None else (a, dy)
    y, back = jax.vjp(lambda a, w: grouped(a, w, owner_P, config), a, w)
    a, w, dy = (np.asarray(t.astype(dtype), np.float64) for t in (a, w, dy))
    da, dw = np.zeros_like(a), np.zeros_like(w)
    for block, expert in enumerate(owners or range(4)):
        np.testing.assert_allclose(y[block], a[block] @ w[expert], atol=1e-5)
        da[block], dw[expert] = dy[block] @ w[expert].T, dw[expert] + a[block].T @ dy[block]
    for got, wanted in zip(back(jnp.asarray(dy, jnp.float32)), (da, dw), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize('inner', [1, 2])
def test_a_tpu_s_form_of_grouped_is_the_loop_s(blocks, inner):
    a, w, dy = blocks
    a, owner_P = (a, dy)[inner - 1], jnp.array(OWNERS)
    one, other = (form(a, w, owner_P, inner=inner) for form in (products._looped, products._ragged))
    np.testing.assert_allclose(one, other, atol=1e-5)
    one, other = (form(a, dy, owner_P, experts=4) for form in (products._looped_outer, products._ragged_outer))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(('platform', 'ragged'), [('tpu', 3), ('cuda', 0), ('cpu', 0)])
def test_only_a_tpu_is_given_ragged_products(model_config, blocks, platform, ragged):
    a, w, _ = blocks
    gradient = jax.jit(jax.grad(lambda a, w: jnp.sum(grouped(a, w, jnp.array(OWNERS), model_config()) ** 2), (0, 1)))
    text = gradient.trace(a, w).lower(lowering_platforms=(platform,)).as_text()
    assert text.count('"chlo.ragged_dot"(') == ragged
    assert ('stablehlo.while' in text) != bool(ragged)
