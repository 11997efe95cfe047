"""Routed experts: outputs, dropped tokens, statistics and gradients, against float64 loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.model.experts import dispatch_block_size, expert_capacity, routed_experts
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train import build
from gpt_jax.train.objective import make_loss
from tests.model import reference
from tests.model.architectures import ARCHITECTURES, EXPERTS
from tests.model.test_gpt import make_model

TOKENS, WIDTH = 21, 32


@pytest.fixture
def weights():
    """The weights of one layer for the config of `EXPERTS`: D 32, F 24, E 5."""
    rng = np.random.default_rng(1)
    shapes = {'router': (32, 5), 'gate': (5, 32, 24), 'up': (5, 32, 24), 'down': (5, 24, 32)}
    return {name: np.float32(0.3 * rng.standard_normal(shape)) for name, shape in shapes.items()}


@pytest.fixture
def x():
    return np.random.default_rng(2).standard_normal((3, 7, WIDTH), np.float32)


@functools.partial(jax.jit, static_argnames='config')
def apply_layer(weights, x, config):
    params = {name: jnp.asarray(value) for name, value in weights.items()}
    return routed_experts(lambda name, *_: params[name], x, config=config, policy=UNSHARDED)


# Output


def apply_with_capacity(weights, x, config):
    """Return the output and the share of dropped choices.

    Rows are given to every first choice by position, then to every second one.
    """
    x = np.asarray(x, np.float64).reshape(-1, WIDTH)
    free_rows = dict.fromkeys(range(config.experts), expert_capacity(TOKENS, config))
    choices = [list(reference.choose_experts(s, config).items()) for s in x @ weights['router']]
    y, dropped = np.zeros_like(x), 0
    for rank in range(config.experts_per_token):
        for t, token_choices in enumerate(choices):
            expert, weight = token_choices[rank]
            if free_rows[expert]:
                free_rows[expert] -= 1
                y[t] += weight * reference.expert_output(x[t], weights, expert, config)
            else:
                dropped += 1
    return y.reshape(3, 7, WIDTH), dropped / (TOKENS * config.experts_per_token)


@pytest.mark.parametrize(
    ('per_token', 'factor'), [(1, 0.4), (1, 1.2), (2, 0.4), (2, 0.9), (4, 0.9), (4, 1.2)]
)
def test_a_capacity_drops_later_choices_then_later_tokens(
    model_config, weights, x, per_token, factor
):
    config = model_config(
        **EXPERTS,
        capacity_factor=factor,
        experts_per_token=per_token,
        normalize_experts=per_token > 1,
    )
    y, statistics = apply_layer(weights, x, config)
    expected, dropped = apply_with_capacity(weights, x, config)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert float(statistics['dropped_tokens']) == pytest.approx(dropped)
    assert dropped < 1
    assert dropped > 0 or factor > 1


@pytest.mark.parametrize(
    'tokens', [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, TOKENS))]
)
def test_dropless_equals_a_capacity_that_drops_nothing(model_config, weights, x, tokens):
    """Their blocks and products differ; from one token, as in decoding, to all."""
    x = x.reshape(1, TOKENS, WIDTH)[:, :tokens]
    dropless = model_config(**EXPERTS)
    large_capacity = dataclasses.replace(dropless, capacity_factor=100.0)

    def differentiate(config):
        """Return the value and the gradients, and the routing statistics."""

        def objective(weights, x):
            y, statistics = apply_layer(weights, x, config)
            return jnp.sum(jnp.sin(y)), statistics

        value_and_grad = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (value, statistics), gradients = jax.jit(value_and_grad)(weights, x)
        return (value, gradients), statistics

    expected, capacity_statistics = differentiate(large_capacity)
    actual, dropless_statistics = differentiate(dropless)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), actual, expected)
    assert float(capacity_statistics['dropped_tokens']) == 0
    assert 'dropped_tokens' not in dropless_statistics


def test_only_training_drops_tokens(model_config):
    config = model_config(**ARCHITECTURES['switch'], layers=1, load_balance=0.0, router_z=0.0)
    params, _ = make_model(dataclasses.replace(config, capacity_factor=0.3))
    batch = {'inputs': np.arange(32).reshape(2, 16), 'targets': np.arange(32).reshape(2, 16)}

    def compute_sums(train, factor):
        loss = make_loss(
            dataclasses.replace(config, capacity_factor=factor), UNSHARDED, train=train
        )
        return jax.jit(loss)(params, batch, jax.random.key(0))[1]

    training, evaluation = compute_sums(True, 0.3), compute_sums(False, 0.3)
    dropless = compute_sums(True, 0.0)
    assert float(training['dropped_tokens']) > 0
    assert float(evaluation['loss']) == float(dropless['loss'])
    assert float(evaluation['loss']) != float(training['loss'])


def test_block_size_grows_with_the_tokens_and_never_exceeds_them():
    assert [dispatch_block_size(n, 8) for n in (1, 2, 128, 1024, 65536)] == [1, 2, 32, 64, 512]
    assert dispatch_block_size(6, 128) <= 6


# Statistics


def compute_statistics(logits, config):
    """The routing statistics by their definitions, from the router's logits [tokens, E]."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    shares = np.zeros(config.experts)
    for token_logits in logits:
        for expert in reference.choose_experts(token_logits, config):
            shares[expert] += 1 / (len(logits) * config.experts_per_token)
    return {
        'load_balance': config.experts * (shares * p.mean(axis=0)).sum(),
        'router_z': (np.log(np.exp(logits).sum(axis=1)) ** 2).mean(),
        'router_entropy': -(p * np.log(p)).sum(axis=1).mean(),
        'busiest_expert': config.experts * shares.max(),
        'idle_experts': (shares == 0).mean(),
    }


def test_statistics_equal_their_definitions(model_config, weights, x):
    # An expert that few or no tokens choose.
    weights['router'][:, 3] = -3 * x.reshape(-1, WIDTH).mean(axis=0)
    x = x + 3
    config = model_config(**EXPERTS, load_balance=0.1)
    statistics = apply_layer(weights, x, config)[1]
    logits = np.asarray(x, np.float64).reshape(-1, WIDTH) @ weights['router']
    expected = compute_statistics(logits, config)
    actual = {name: float(value) for name, value in statistics.items()}
    assert actual == pytest.approx(expected, rel=1e-4)


def test_even_routing_has_a_load_balance_of_one(model_config, weights):
    even = np.zeros((1, 5, WIDTH), np.float32)
    token = np.arange(5)
    even[0, token, token] = 1  # token i chooses experts i and i + 1
    weights['router'] = np.zeros((WIDTH, 5), np.float32)
    weights['router'][token, token] = 2
    weights['router'][token, (token + 1) % 5] = 1
    statistics = apply_layer(weights, even, model_config(**EXPERTS))[1]
    assert float(statistics['load_balance']) == pytest.approx(1)
    assert float(statistics['busiest_expert']) == pytest.approx(1)
    assert float(statistics['idle_experts']) == 0


# Gradients


@pytest.mark.parametrize(
    ('name', 'fields'),
    [
        ('shared_experts', {'layers': 2, 'normalize_experts': True}),
        pytest.param('shared_experts', {'layers': 1}, marks=pytest.mark.slow),
        pytest.param('experts', {'layers': 2}, marks=pytest.mark.slow),
    ],
)
def test_gradients_equal_finite_differences_of_a_float64_gpt(model_config, name, fields):
    """Along a random direction of all weights, with both routing losses."""
    routing_losses = {'load_balance': 0.3, 'router_z': 0.2}
    config = model_config(**ARCHITECTURES[name] | fields | routing_losses)
    params, _ = make_model(config)
    tokens = np.random.default_rng(3).integers(0, 97, (2, 12))
    rng = np.random.default_rng(4)
    direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)

    def objective(step):
        moved = jax.tree.map(lambda a, d: np.asarray(a, np.float64) + step * d, params, direction)
        total, router_logits = 0.0, []
        for row in tokens:
            router_logits.append([])
            z = reference.logits(moved, row, config, router_logits[-1])
            total += (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(row)), row]).sum()
        layers = [
            compute_statistics(np.concatenate(rows), config)
            for rows in zip(*router_logits, strict=True)
        ]
        return total + tokens.size * sum(
            coefficient * np.mean([layer[name] for layer in layers])
            for name, coefficient in (('load_balance', 0.3), ('router_z', 0.2))
        )

    loss = make_loss(config, UNSHARDED, train=True)
    layout = build.make_param_layout(config, UNSHARDED)
    batch = {'inputs': tokens, 'targets': tokens}

    @jax.jit
    def differentiate(params):
        objective = lambda params: loss(params, batch, jax.random.key(0))
        results, gradients = jax.value_and_grad(objective, has_aux=True)(layout.unstack(params))
        return results, layout.stack(gradients)

    (value, sums), gradients = differentiate(params)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    derivative = sum(float((np.asarray(g) * d).sum()) for g, d in pairs)
    assert float(value) == pytest.approx(objective(0), rel=1e-5)
    assert derivative == pytest.approx((objective(1e-5) - objective(-1e-5)) / 2e-5, rel=1e-4)
    assert float(sums['loss']) < float(value)


@pytest.mark.parametrize('factor', [0.0, 1.0])
def test_bfloat16_stays_within_its_rounding_error(model_config, weights, x, factor):
    """The router stays float32, so the choices are those of float32."""

    def output_and_gradients(dtype):
        config = model_config(
            **EXPERTS, capacity_factor=factor, matmul_dtype=dtype, activation_dtype=dtype
        )

        def objective(weights):
            y = apply_layer(weights, x, config)[0].astype(jnp.float32)
            return jnp.sum(jnp.square(y)), y

        gradients, y = jax.jit(jax.grad(objective, has_aux=True))(weights)
        return jax.device_get({'output': y} | gradients)

    exact, rounded = output_and_gradients('float32'), output_and_gradients('bfloat16')
    for name, value in exact.items():
        error = np.abs(rounded[name] - value).max() / np.abs(value).max()
        assert 0 < error < 0.03, name


def test_an_expert_without_tokens_has_a_gradient_of_zero(model_config, weights, x):
    weights['router'][0, 2] = -100
    x[..., 0] = 1
    config = model_config(**EXPERTS)
    gradients = jax.jit(jax.grad(lambda w: jnp.sum(apply_layer(w, x, config)[0] ** 2)))(weights)
    for name in ('gate', 'up', 'down'):
        largest = np.abs(np.asarray(gradients[name])).max(axis=(1, 2))
        assert largest[2] == 0
        assert np.all(largest[[0, 1, 3, 4]] > 0)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'feedforward': 'experts'},
            'config.model.experts: must be positive exactly when feedforward is experts, got 0',
        ),
        (
            EXPERTS | {'experts_per_token': 6},
            'config.model.experts_per_token: must be in [1, 5], got 6',
        ),
        (
            EXPERTS | {'experts_per_token': 1},
            'config.model.normalize_experts: must be False with experts_per_token 1',
        ),
        (
            {'shared_experts': 1},
            'config.model.shared_experts: must be 0 unless feedforward is experts, got 1',
        ),
    ],
)
def test_inconsistent_fields_are_refused(model_config, fields, message):
    with pytest.raises(UserError) as error:
        model_config(**fields)
    assert str(error.value).startswith(message)
