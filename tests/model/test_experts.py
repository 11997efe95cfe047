"""Does every token get its experts' outputs by their weights, and is exactly what finds no room dropped?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.errors import UserError
from gpt_jax.model.experts import block_size, capacity, experts
from gpt_jax.parallel.place import ANYWHERE
from tests.model import reference
from tests.model.architectures import ARCHITECTURES, EXPERTS
from tests.model.test_gpt import make


@pytest.fixture
def weights():
    """Of one layer, D 32, F 24, E 5, as the config of `EXPERTS` wants them."""
    rng = np.random.default_rng(1)
    shapes = {'router': (32, 5), 'gate': (5, 32, 24), 'up': (5, 32, 24), 'down': (5, 24, 32)}
    return {name: np.float32(0.3 * rng.standard_normal(shape)) for name, shape in shapes.items()}


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(2), (3, 7, 32))


def layer(weights, x, config):
    declared = {name: jnp.asarray(value) for name, value in weights.items()}
    return experts(lambda name, *_: declared[name], x, config=config, place=ANYWHERE)


def with_capacity(weights, x, config):
    """(output, share of the choices that were dropped): every first choice by position, then every second one."""
    x, room = np.asarray(x, np.float64).reshape(-1, 32), dict.fromkeys(range(config.experts), capacity(21, config))
    taken = [reference.choices(one, config) for one in x @ weights['router']]
    y, dropped = np.zeros_like(x), 0
    for rank in range(config.experts_per_token):
        for t, choices in enumerate(taken):
            expert, weight = list(choices.items())[rank]
            if room[expert]:
                room[expert] -= 1
                y[t] += weight * reference.expert_output(x[t], weights, expert, config)
            else:
                dropped += 1
    return y.reshape(3, 7, 32), dropped / (21 * config.experts_per_token)


@pytest.mark.parametrize('factor', [0.4, 0.9, 1.2])
@pytest.mark.parametrize('taken', [1, 2, 4])
def test_a_capacity_drops_the_later_choices_then_the_later_tokens(model_config, weights, x, factor, taken):
    config = model_config(**EXPERTS, capacity_factor=factor, experts_per_token=taken, normalize_experts=taken > 1)
    y, statistics = layer(weights, x, config)
    expected, dropped = with_capacity(weights, x, config)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert float(statistics['dropped_tokens']) == pytest.approx(dropped)
    assert dropped < 1
    assert dropped > 0 or factor > 1


@pytest.mark.parametrize('tokens', [2, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 21))])
def test_dropless_is_a_capacity_that_holds_everything(model_config, weights, x, tokens):
    """Their blocks differ, and so do the products; one token, as in decoding, up to all."""
    x = x.reshape(1, 21, 32)[:, :tokens]
    config = model_config(**EXPERTS)
    roomy = dataclasses.replace(config, capacity_factor=100.0)

    def objective(config):
        return lambda weights, x: jnp.sum(jnp.sin(layer(weights, x, config)[0]))

    one, other = (jax.value_and_grad(objective(c), argnums=(0, 1))(weights, x) for c in (config, roomy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, other)
    assert float(layer(weights, x, roomy)[1]['dropped_tokens']) == 0
    assert 'dropped_tokens' not in layer(weights, x, config)[1]


def test_statistics_are_as_defined(model_config, weights, x):
    weights['router'][:, 3] = -3 * np.asarray(x).reshape(-1, 32).mean(axis=0)  # an expert that few or none choose
    x = x + 3
    config = model_config(**EXPERTS, load_balance=0.1)
    found = layer(weights, x, config)[1]
    s = np.asarray(x, np.float64).reshape(-1, 32) @ weights['router']
    wanted = statistics(s, config)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-4)


def statistics(s, config):
    """By their definitions, from the router's logits [tokens, E]."""
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    f = np.zeros(config.experts)
    for one in s:
        for expert in reference.choices(one, config):
            f[expert] += 1 / (len(s) * config.experts_per_token)
    return {
        'load_balance': config.experts * (f * p.mean(axis=0)).sum(),
        'router_z': (np.log(np.exp(s).sum(axis=1)) ** 2).mean(),
        'router_entropy': -(p * np.log(p)).sum(axis=1).mean(),
        'busiest_expert': config.experts * f.max(),
        'idle_experts': (f == 0).mean(),
    }


def test_an_even_routing_has_a_load_balance_of_one(model_config, weights):
    even = np.zeros((1, 5, 32), np.float32)
    even[0, np.arange(5), np.arange(5)] = 1  # token i is expert i's and expert i + 1's
    weights['router'] = np.zeros((32, 5), np.float32)
    weights['router'][np.arange(5), np.arange(5)] = 2
    weights['router'][np.arange(5), (np.arange(5) + 1) % 5] = 1
    found = layer(weights, jnp.asarray(even), model_config(**EXPERTS))[1]
    assert float(found['load_balance']) == pytest.approx(1)
    assert (float(found['busiest_expert']), float(found['idle_experts'])) == (pytest.approx(1), 0)


@pytest.mark.parametrize('name', ['experts', 'shared_experts'])
def test_gradients_of_the_whole_objective_equal_differences_of_the_float64_gpt(model_config, name):
    """Along a random direction of all weights, with both of the routing's losses."""
    config = model_config(**ARCHITECTURES[name], load_balance=0.3, router_z=0.2)
    params, _ = make(config)
    tokens = np.random.default_rng(3).integers(0, 97, (2, 12))
    rng = np.random.default_rng(4)
    direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)

    def objective(step):
        moved = jax.tree.map(lambda a, d: np.asarray(a, np.float64) + step * d, params, direction)
        total, rows = 0.0, []
        for row in tokens:
            rows.append([])
            z = reference.logits(moved, row, config, rows[-1])
            total += (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(row)), row]).sum()
        layers = [statistics(np.concatenate(s), config) for s in zip(*rows, strict=True)]
        return total + tokens.size * sum(
            coefficient * np.mean([one[name] for one in layers])
            for name, coefficient in (('load_balance', 0.3), ('router_z', 0.2))
        )

    loss, form = assemble.summed_loss(config, ANYWHERE, train=True), assemble.form(config, ANYWHERE)
    batch = {'inputs': jnp.asarray(tokens), 'targets': jnp.asarray(tokens)}
    (value, sums), gradients = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0)), has_aux=True))(
        form.enter(params)
    )
    along = sum(float((np.asarray(g) * d).sum()) for g, d in zip(
        jax.tree.leaves(form.leave(gradients)), jax.tree.leaves(direction), strict=True
    ))  # fmt: skip
    assert float(value) == pytest.approx(objective(0), rel=1e-5)
    assert along == pytest.approx((objective(1e-5) - objective(-1e-5)) / 2e-5, rel=1e-4)
    assert float(sums['loss']) < float(value)


@pytest.mark.parametrize('factor', [0.0, 1.0])
def test_bfloat16_stays_within_its_rounding(model_config, weights, x, factor):
    """The router is float32 all the same, so that the choices are those of float32."""
    found = []
    for dtype in ('float32', 'bfloat16'):
        config = model_config(**EXPERTS, capacity_factor=factor, matmul_dtype=dtype, activation_dtype=dtype)
        square = lambda w, c=config: jnp.sum(jnp.square(layer(w, x, c)[0].astype(jnp.float32)))  # noqa: E731
        found.append({'value': layer(weights, x, config)[0].astype(jnp.float32)} | jax.grad(square)(weights))
    for name, exact in found[0].items():
        error = np.abs(found[1][name] - exact).max() / np.abs(exact).max()
        assert 0 < error < 0.03, name


def test_an_expert_that_no_token_chose_has_a_gradient_of_zero(model_config, weights, x):
    weights['router'][0, 2] = -100
    x = x.at[..., 0].set(1)
    gradients = jax.grad(lambda w: jnp.sum(layer(w, x, model_config(**EXPERTS))[0] ** 2))(weights)
    for name in ('gate', 'up', 'down'):
        sizes = np.abs(np.asarray(gradients[name])).max(axis=(1, 2))
        assert sizes[2] == 0
        assert np.all(sizes[[0, 1, 3, 4]] > 0)


def test_only_training_turns_tokens_away(model_config):
    config = model_config(**ARCHITECTURES['switch'], load_balance=0.0, router_z=0.0)
    params, _ = make(dataclasses.replace(config, capacity_factor=0.3))
    batch = {'inputs': jnp.arange(32).reshape(2, 16), 'targets': jnp.arange(32).reshape(2, 16)}

    def sums(train, factor):
        tight = dataclasses.replace(config, capacity_factor=factor)
        return assemble.summed_loss(tight, ANYWHERE, train=train)(params, batch, jax.random.key(0))[1]

    assert float(sums(train=True, factor=0.3)['dropped_tokens']) > 0
    assert float(sums(train=False, factor=0.3)['loss']) == float(sums(train=True, factor=0.0)['loss'])
    assert float(sums(train=False, factor=0.3)['loss']) != float(sums(train=True, factor=0.3)['loss'])


def test_blocks_grow_with_the_tokens_and_are_never_more_than_they_fill():
    assert [block_size(n, 8) for n in (1, 2, 128, 1024, 65536)] == [1, 2, 32, 64, 512]
    assert block_size(6, 128) <= 6


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'feedforward': 'experts'}, 'config.model.experts: 0, and feedforward is experts'),
        (EXPERTS | {'experts_per_token': 6}, 'config.model.experts_per_token: 6 of 5 experts'),
        (EXPERTS | {'experts_per_token': 1}, 'config.model.normalize_experts: True, and a token takes one expert'),
        ({'shared_experts': 1}, 'config.model.shared_experts: 1, and feedforward is mlp'),
    ],
)
def test_experts_that_make_no_sense_are_refused(model_config, fields, message):
    with pytest.raises(UserError) as error:
        model_config(**fields)
    assert str(error.value).startswith(message)
