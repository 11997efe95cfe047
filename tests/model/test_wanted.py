"""Is nothing computed for a gradient that nobody asks for?"""

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.model import loss as losses
from gpt_jax.model.products import einsum, grouped


def products(function, arguments, by):
    """How many products of matrices the compiled gradient holds, and the numbers that its forward pass hands on."""
    chosen = lambda *given: function(*(given[by.index(n)] if n in by else one for n, one in enumerate(arguments)))  # noqa: E731
    given = tuple(arguments[n] for n in by)
    gradient = jax.grad(chosen, argnums=tuple(range(len(by))))
    kept = jax.tree.leaves(jax.vjp(chosen, *given)[1])
    return str(jax.make_jaxpr(gradient)(*given)).count('dot_general'), sum(leaf.size for leaf in kept)


X, W = jnp.ones((2, 3, 4)), jnp.ones((4, 7))
BLOCKS, MATRICES = jnp.ones((5, 3, 4)), jnp.ones((5, 4, 6))


@pytest.mark.parametrize(
    ('function', 'arguments', 'each'),
    [
        (lambda c: lambda x, w: jnp.sum(einsum('BLD,DF->BLF', x, w, c)), (X, W), 2),  # in two forms, by platform
        (lambda c: lambda x, w: jnp.sum(grouped(x, w, None, c)), (BLOCKS, MATRICES), 1),
    ],
    ids=['einsum', 'grouped'],
)
def test_one_product_forward_and_one_for_each_gradient(model_config, function, arguments, each):
    x, w = arguments
    found = {by: products(function(model_config()), arguments, by) for by in ((0,), (1,), (0, 1))}
    assert [count // each for count, _ in found.values()] == [2, 2, 3]
    assert [kept for _, kept in found.values()] == [w.size, x.size, w.size + x.size]


@pytest.mark.parametrize('chunk', [0, 1])
def test_a_head_that_stays_has_no_gradient_and_features_that_nobody_trains_neither(model_config, chunk):
    config = model_config(loss_chunk=chunk, vocab_size=11)
    targets, weights = jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3))

    def objective(x, w):
        return losses.summed_losses(x, w, targets, weights, config).objective

    arguments = (X, jnp.ones((11, 4)))
    counts = [products(objective, arguments, by)[0] for by in ((0,), (1,), (0, 1))]
    assert counts == [2, 2, 3]


def test_no_gradient_comes_back_where_none_was_sent(model_config):
    """The product's result is looked at, and not learned from."""
    config = model_config()

    def function(x, w):
        y = einsum('BLD,DF->BLF', x, w, config)
        return jnp.sum(x) + jnp.sum(jax.lax.stop_gradient(y))

    dx, dw = jax.grad(function, argnums=(0, 1))(X, W)
    assert (dx == 1).all()
    assert (dw == 0).all()
