"""Is a product with an adapter that with the changed weight, in value and gradient, wherever weights are used?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model import loss as losses
from gpt_jax.model.lowrank import FACTORS, Adapted, change, factors
from gpt_jax.model.products import einsum, grouped
from gpt_jax.model.quantized import SUMMED, quantize

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


def random(key, letters):
    return jax.random.normal(jax.random.key(key), [SIZES[letter] for letter in letters])


def adapted(letters, rate=0.0, key=None):
    a, b = factors(letters)
    return Adapted(random(0, letters), random(1, a), random(2, b), jnp.float32(SCALE), key, rate)


def merged(node, letters):
    """The changed weight in float64, by the letters alone."""
    a, b = factors(letters)
    w, left, right = (np.asarray(part, np.float64) for part in (node.w, node.a, node.b))
    return w + SCALE * np.einsum(f'{a},{b}->{letters}', left, right)


def test_every_matrix_that_can_be_quantized_can_be_adapted():
    assert FACTORS.keys() == SUMMED.keys()


@pytest.mark.parametrize('letters', [*FACTORS, 'NDHK', 'NHKD', 'NEDF'])
def test_the_change_has_the_weights_dims_in_its_order(letters):
    node = adapted(letters)
    scale = jnp.array([0.5, 2.0]) if letters.startswith('N') else SCALE
    each = np.reshape(scale, (-1, *[1] * (len(letters) - 1))) if letters.startswith('N') else SCALE
    a, b = (np.asarray(part, np.float64) for part in (node.a, node.b))
    expected = each * np.einsum('{},{}->{}'.format(*factors(letters), letters), a, b)
    np.testing.assert_allclose(change(node.a, node.b, scale, len(letters)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        node.replace(scale=scale).astype(jnp.float32), np.asarray(node.w) + expected, rtol=1e-5, atol=1e-5
    )


PRODUCTS = {
    'DHK': 'BLD,DHK->BLHK', 'DGK': 'BLD,DGK->BLGK', 'HKD': 'BLHK,HKD->BLD', 'DF': 'BLD,DF->BLF', 'FD': 'BLF,FD->BLD',
    'DU': 'BLD,DU->BLU', 'UD': 'BLU,UD->BLD',
}  # fmt: skip


@pytest.mark.parametrize('letters', PRODUCTS)
def test_a_product_and_its_gradients_are_those_of_the_changed_weight(model_config, letters):
    terms, config = PRODUCTS[letters], model_config()
    left, _, y_letters = terms.replace('->', ',').split(',')
    node, x, dy = adapted(letters), random(3, left), random(4, y_letters)
    y, back = jax.vjp(lambda x, node: einsum(terms, x, node, config), x, node)
    dx, d_node = back(dy)
    w, (a, b) = merged(node, letters), factors(letters)
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dw = np.einsum(f'{left},{y_letters}->{letters}', x, dy)
    np.testing.assert_allclose(y, np.einsum(terms, x, w), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, np.einsum(f'{y_letters},{letters}->{left}', dy, w), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.w, dw, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.a, SCALE * np.einsum(f'{letters},{b}->{a}', dw, node.b), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.b, SCALE * np.einsum(f'{a},{letters}->{b}', node.a, dw), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('letters', ['EDF', 'EFD'])
@pytest.mark.parametrize('owners', [[0, 0, 2, 2], None])
def test_experts_have_an_adapter_each(model_config, letters, owners):
    node = adapted(letters)
    x, dy = (random(n, f'PC{letter}')[: 4 if owners else 3] for n, letter in ((3, letters[1]), (4, letters[2])))
    owner_P = None if owners is None else jnp.array(owners)
    y, back = jax.vjp(lambda x, node: grouped(x, node, owner_P, model_config()), x, node)
    dx, d_node = back(dy)
    w, x, dy = merged(node, letters), np.asarray(x, np.float64), np.asarray(dy, np.float64)
    dw = np.zeros_like(w)
    for block, expert in enumerate(owners or range(3)):
        np.testing.assert_allclose(y[block], x[block] @ w[expert], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dx[block], dy[block] @ w[expert].T, rtol=1e-4, atol=1e-4)
        dw[expert] += x[block].T @ dy[block]
    a, b = (np.asarray(part, np.float64) for part in (node.a, node.b))
    np.testing.assert_allclose(d_node.w, dw, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.a, SCALE * dw @ b.transpose(0, 2, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.b, SCALE * a.transpose(0, 2, 1) @ dw, rtol=1e-4, atol=1e-4)


def test_rows_of_a_table_are_those_of_the_changed_table():
    node, ids = adapted('VD'), jnp.array([[3, 0], [10, 3]])
    np.testing.assert_allclose(node[ids], merged(node, 'VD')[np.asarray(ids)], rtol=1e-5, atol=1e-5)
    assert len(node) == SIZES['V']
    rows = jax.grad(lambda node: jnp.sum(node[ids] * random(5, 'BL')[:, :2, None]))(node)
    expected = np.zeros((11, 4))
    np.add.at(expected, np.asarray(ids), np.asarray(random(5, 'BL'))[:, :2, None] * np.ones(4))
    np.testing.assert_allclose(rows.a, SCALE * expected @ np.asarray(node.b).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('chunk', [0, 1])
@pytest.mark.parametrize('fields', [{}, {'logit_softcap': 2.0, 'z_loss': 0.1}], ids=str)
def test_a_heads_loss_and_gradients_are_those_of_the_changed_head(model_config, chunk, fields):
    config = model_config(loss_chunk=chunk, vocab_size=SIZES['V'], **fields)
    node, x = adapted('VD'), random(3, 'BLD')
    targets, weights = jax.random.randint(jax.random.key(6), (2, 3), 0, 11), random(7, 'BL') ** 2

    def objective(x, w):
        return losses.summed_losses(x, w, targets, weights, config).objective

    value, (dx, d_node) = jax.value_and_grad(objective, argnums=(0, 1))(x, node)
    w = jnp.asarray(merged(node, 'VD'), jnp.float32)
    expected, (expected_dx, dw) = jax.value_and_grad(objective, argnums=(0, 1))(x, w)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.w, dw, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.a, SCALE * dw @ node.b.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_node.b, SCALE * node.a.T @ dw, rtol=1e-4, atol=1e-4)
    for form in (losses.logits, losses.scores):
        np.testing.assert_allclose(form(x, node, config), form(x, w, config), rtol=1e-4, atol=1e-4)


def test_an_adapter_on_a_quantized_weight(model_config):
    """Dettmers et al. 2023: the weight has few bits and no gradient, the adapter has both."""
    node = adapted('DF').replace(w=quantize(random(0, 'DF'), 'DF', 4))
    exact = node.replace(w=node.w.astype(jnp.float32))
    config = model_config()

    def found(node):
        def total(x, a, b):
            return jnp.sum(jnp.sin(einsum('BLD,DF->BLF', x, node.replace(a=a, b=b), config)))

        return jax.value_and_grad(total, argnums=(0, 1, 2))(random(3, 'BLD'), node.a, node.b)

    for got, expected in zip(jax.tree.leaves(found(node)), jax.tree.leaves(found(exact)), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_of_the_adapters_input_alone_and_right_in_the_mean(model_config):
    config, x = model_config(), random(3, 'BLD')
    plain = einsum('BLD,DF->BLF', x, adapted('DF'), config)
    base = einsum('BLD,DF->BLF', x, adapted('DF').w, config)

    @jax.jit
    def drawn(key):
        return einsum('BLD,DF->BLF', x, adapted('DF', 0.5, key), config)

    draws = np.stack([drawn(jax.random.key(seed)) for seed in range(4000)])
    assert not np.array_equal(draws[0], draws[1])
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - plain) < 5 * spread).all()
    all_dropped = x.at[:].set(0.0)
    np.testing.assert_array_equal(einsum('BLD,DF->BLF', all_dropped, adapted('DF', 0.5, jax.random.key(0)), config), 0)
    nothing = adapted('DF', 0.5, jax.random.key(0)).replace(b=jnp.zeros((2, 7)))
    np.testing.assert_allclose(einsum('BLD,DF->BLF', x, nothing, config), base, rtol=1e-6, atol=1e-6)
