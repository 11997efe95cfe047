"""Are our own gradients those of the plain product and sum, and is each platform given its own form?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model.products import einsum, spread

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
