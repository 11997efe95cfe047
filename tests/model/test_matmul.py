"""Products with weights: results, gradients, and the form that each platform gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import matmul
from gpt_jax.model.loss import compute_loss
from gpt_jax.model.matmul import broadcast_param, einsum, grouped_matmul


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@functools.partial(jax.jit, static_argnums=0)
def apply_and_differentiate(function, arguments, dy):
    """Return function(*arguments), and the gradients of the arguments given that of the result."""
    y, vjp = jax.vjp(function, *arguments)
    return y, vjp(dy)


SIZES = {'B': 2, 'L': 3, 'M': 3, 'D': 4, 'H': 5, 'G': 5, 'K': 6, 'F': 7}


@pytest.mark.parametrize(
    'terms', ['BLD,DHK->BLHK', 'BMD,DGK->BMGK', 'BLHK,HKD->BLD', 'BLD,DF->BLF', 'BLF,FD->BLD']
)
def test_einsum_and_its_gradients_equal_jax(model_config, terms):
    config = model_config()
    shapes = [[SIZES[letter] for letter in part] for part in terms.replace('->', ',').split(',')]
    *operands, dy = draw(*shapes)
    actual, expected = (
        apply_and_differentiate(function, operands, dy)
        for function in (
            lambda a, b: einsum(terms, a, b, config),
            lambda a, b: jnp.einsum(terms, a, b),
        )
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


@pytest.mark.parametrize('terms', ['BLD,HDK->BLHK', 'BLD,DF->BFL', 'DBL,DF->BLF'])
def test_einsum_rejects_unsupported_terms(model_config, terms):
    shapes = [[SIZES[letter] for letter in part] for part in terms.split('->')[0].split(',')]
    with pytest.raises(ValueError, match="must have the form 'xs,sy->xy'"):
        einsum(terms, *(jnp.ones(shape) for shape in shapes), model_config())


@pytest.mark.parametrize('tail', ['D', 'HK'])
def test_broadcast_param_and_its_gradient_equal_jax(tail):
    vector_shape = [SIZES[letter] for letter in tail]
    shape = (2, 3, *vector_shape)
    vector, dy = draw(vector_shape, shape)
    broadcast = lambda v: broadcast_param(v, shape, 'float32')
    y, (gradient,) = apply_and_differentiate(broadcast, [vector], dy)
    np.testing.assert_array_equal(y, np.broadcast_to(vector, shape))
    np.testing.assert_allclose(gradient, dy.sum((0, 1)), atol=1e-5)


@pytest.mark.parametrize(('platform', 'operation'), [('cpu', 'dot_general'), ('tpu', 'reduce')])
def test_gradient_of_broadcast_param_is_a_product_on_cpu_only(platform, operation):
    gradient = jax.jit(
        jax.grad(lambda v: jnp.sum(jnp.sin(broadcast_param(v, (8, 4), 'float32')[:]) ** 2))
    )
    text = gradient.trace(jnp.ones(4)).lower(lowering_platforms=(platform,)).as_text()
    other = {'dot_general': 'stablehlo.reduce(', 'reduce': 'stablehlo.dot_general'}[operation]
    backward = text[text.rindex('stablehlo.cosine') :]
    assert f'stablehlo.{operation}' in backward
    assert other not in backward


# grouped_matmul

OWNERS = [0, 0, 2, 3, 3]  # expert 1 has no block


@pytest.fixture
def blocks():
    """Blocks of rows [P, C, x], matrices [E, x, y], gradients of the product [P, C, y]."""
    return draw((5, 3, 4), (4, 4, 6), (5, 3, 6))


@pytest.mark.parametrize('owners', [OWNERS, None])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_grouped_matmul_and_its_gradients_equal_a_loop_over_experts(
    model_config, blocks, owners, dtype
):
    config, (a, w, dy) = model_config(matmul_dtype=dtype), blocks
    owner_P = None if owners is None else np.array(owners)
    a, dy = (a[:4], dy[:4]) if owners is None else (a, dy)
    multiply = lambda a, w: grouped_matmul(a, w, owner_P, config)
    dy = dy.astype(dtype).astype(np.float32)  # both compute with the rounded one
    y, gradients = jax.device_get(apply_and_differentiate(multiply, (a, w), dy))
    a, w, dy = (np.asarray(t.astype(dtype), np.float64) for t in (a, w, dy))
    da, dw = np.zeros_like(a), np.zeros_like(w)
    for block, expert in enumerate(owners or range(4)):
        np.testing.assert_allclose(y[block], a[block] @ w[expert], atol=1e-5)
        da[block] = dy[block] @ w[expert].T
        dw[expert] += a[block].T @ dy[block]
    for gradient, expected in zip(gradients, (da, dw), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize('inner', [1, 2])
def test_ragged_form_of_grouped_matmul_equals_the_loop(blocks, inner):
    a, w, dy = blocks
    owner_P = np.array(OWNERS)

    @jax.jit
    def multiply(rows, w, dy):
        looped = (
            matmul._rows_looped(rows, w, owner_P, inner=inner),
            matmul._outer_looped(rows, dy, owner_P, experts=4),
        )
        ragged = (
            matmul._rows_ragged(rows, w, owner_P, inner=inner),
            matmul._outer_ragged(rows, dy, owner_P, experts=4),
        )
        return looped, ragged

    looped, ragged = multiply((a, dy)[inner - 1], w, dy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), looped, ragged)


@pytest.mark.parametrize(('platform', 'ragged'), [('tpu', 3), ('cuda', 0), ('cpu', 0)])
def test_only_a_tpu_gets_ragged_products(model_config, blocks, platform, ragged):
    a, w, _ = blocks

    def objective(a, w):
        return jnp.sum(grouped_matmul(a, w, jnp.array(OWNERS), model_config()) ** 2)

    gradient = jax.jit(jax.grad(objective, (0, 1)))
    text = gradient.trace(a, w).lower(lowering_platforms=(platform,)).as_text()
    assert text.count('"chlo.ragged_dot"(') == ragged
    assert ('stablehlo.while' in text) != bool(ragged)


# Gradients that are not needed


def count_work(function, arguments, differentiated):
    """Count the matrix products of the gradient, and the numbers that its forward pass stores."""

    def of_differentiated(*values):
        replaced = list(arguments)
        for index, value in zip(differentiated, values, strict=True):
            replaced[index] = value
        return function(*replaced)

    values = tuple(arguments[index] for index in differentiated)
    gradient = jax.grad(of_differentiated, argnums=tuple(range(len(values))))
    residuals = jax.tree.leaves(
        jax.eval_shape(lambda *values: jax.vjp(of_differentiated, *values)[1], *values)
    )
    products = str(jax.make_jaxpr(gradient)(*values)).count('dot_general')
    return products, sum(leaf.size for leaf in residuals)


SUBSETS = ((0,), (1,), (0, 1))
X, W = np.ones((2, 3, 4), np.float32), np.ones((4, 7), np.float32)
BLOCKS, MATRICES = np.ones((5, 3, 4), np.float32), np.ones((5, 4, 6), np.float32)


@pytest.mark.parametrize(
    ('function', 'arguments', 'forms'),
    [
        # einsum has two forms in the jaxpr, by platform
        (lambda c: lambda x, w: jnp.sum(einsum('BLD,DF->BLF', x, w, c)), (X, W), 2),
        (lambda c: lambda x, w: jnp.sum(grouped_matmul(x, w, None, c)), (BLOCKS, MATRICES), 1),
    ],
    ids=['einsum', 'grouped_matmul'],
)
def test_one_product_forward_and_one_per_needed_gradient(model_config, function, arguments, forms):
    x, w = arguments
    work = [count_work(function(model_config()), arguments, subset) for subset in SUBSETS]
    assert [products // forms for products, _ in work] == [2, 2, 3]
    assert [stored for _, stored in work] == [w.size, x.size, w.size + x.size]


@pytest.mark.parametrize('chunk', [0, 1])
def test_the_loss_skips_gradients_of_a_frozen_head_and_of_frozen_features(model_config, chunk):
    config = model_config(loss_chunk=chunk, vocab_size=11)
    targets, weights = np.zeros((2, 3), np.int32), np.ones((2, 3), np.float32)

    def objective(x, w):
        return compute_loss(x, w, targets, weights, config).objective

    arguments = (X, np.ones((11, 4), np.float32))
    assert [count_work(objective, arguments, subset)[0] for subset in SUBSETS] == [2, 2, 3]


def test_a_zero_incoming_gradient_gives_zero_gradients(model_config):
    """The product's result is computed, but the objective does not depend on it."""
    config = model_config()

    def function(x, w):
        y = einsum('BLD,DF->BLF', x, w, config)
        return jnp.sum(x) + jnp.sum(jax.lax.stop_gradient(y))

    dx, dw = jax.device_get(jax.jit(jax.grad(function, argnums=(0, 1)))(X, W))
    assert (dx == 1).all()
    assert (dw == 0).all()
