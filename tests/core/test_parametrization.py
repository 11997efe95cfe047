"""Parametrizations: the tables of the papers, and equality at the base shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import (
    ForwardMultipliers,
    OptimizerMultipliers,
    forward_multipliers,
    init_weight,
    optimizer_multipliers,
)
from gpt_jax.model import weights
from gpt_jax.model.experts import compute_router_logits
from gpt_jax.optim import optimizers
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train import build
from gpt_jax.train.objective import make_loss

BASE = {'model.base_width': 16, 'model.base_layers': 2, 'model.base_head_dim': 8}


def make_model_config(settings, name, width=32, layers=4, **fields):
    shape = {
        'model.width': width,
        'model.heads': 4,
        'model.layers': layers,
        'model.parametrization': name,
    }
    return settings(BASE | shape | fields).model


def select_leaves(tree):
    """One weight of each role."""
    return {
        'embedding': tree['embedding']['table_VD'],
        'query': tree['blocks']['attention']['query'],
        'output': tree['blocks']['attention']['output'],
        'down': tree['blocks']['feedforward']['down'],
        'scale': tree['blocks']['norm_1']['scale'],
        'bias': tree['blocks']['feedforward']['up_bias'],
    }


def measure_stds(config):
    init = jax.jit(lambda key: weights.unbox(build.init_params(config, key)))
    params = init(jax.random.key(0))
    return {name: float(np.std(leaf)) for name, leaf in select_leaves(params).items()}


@pytest.fixture
def configs(settings):
    """By parametrization, at twice the base width and depth: m_N = m_L = 2."""
    return {name: make_model_config(settings, name) for name in ('standard', 'mup', 'completep')}


def test_optimizer_multipliers_follow_the_papers(configs):
    roles = weights.param_roles(build.declare_params(configs['mup']))
    mup = optimizer_multipliers(roles, configs['mup'])
    completep = optimizer_multipliers(roles, configs['completep'])
    matrices, vectors = ('query', 'output', 'down'), ('scale', 'bias')
    # Yang et al. 2022, table 8: 1/m for matrices, 1 for the rest.
    expected = {'embedding': 1} | dict.fromkeys(matrices, 0.5) | dict.fromkeys(vectors, 1)
    assert select_leaves(mup.lr) == select_leaves(completep.lr) == expected
    # Dey et al. 2025, table 1, with alpha = 1: decay x m_N for matrices, and epsilon / m_N, in the
    # residual blocks of CompleteP also / m_L.
    expected = {'embedding': 1} | dict.fromkeys(matrices, 2) | dict.fromkeys(vectors, 0)
    assert select_leaves(mup.weight_decay) == select_leaves(completep.weight_decay) == expected
    assert set(select_leaves(mup.epsilon).values()) == {0.5}
    expected = {'embedding': 0.5} | dict.fromkeys((*matrices, *vectors), 0.25)
    assert select_leaves(completep.epsilon) == expected
    assert completep.epsilon['norm']['scale'] == 0.5  # not in a block


@pytest.mark.parametrize('feedforward', ['mlp', 'gated', 'experts'])
def test_rates_and_decays_are_those_of_muadamw(settings, feedforward):
    """The arithmetic of microsoft/mup, mup/optim.py, from the shapes at two widths alone."""
    fields = {'model.feedforward': feedforward, 'model.tied_head': False}
    if feedforward == 'experts':
        fields['model.experts'] = 3
    small, large = (
        make_model_config(
            settings, 'mup', width, **fields, **{'model.heads': heads, 'model.mlp_width': 3 * width}
        )
        for width, heads in ((16, 2), (64, 8))
    )
    boxed = build.declare_params(large)
    multipliers = optimizer_multipliers(weights.param_roles(boxed), large)
    checked = set()
    for before, after, letters, lr, decay in zip(
        jax.tree.leaves(weights.unbox(build.declare_params(small))),
        jax.tree.leaves(weights.unbox(boxed)),
        jax.tree.leaves(weights.logical_axes(boxed)),
        jax.tree.leaves(multipliers.lr),
        jax.tree.leaves(multipliers.weight_decay),
        strict=True,
    ):
        # The heads are one dimension of torch's matrices, whose width grows by their number.
        ratios = [n / m for m, n in zip(before.shape, after.shape, strict=True) if n != m]
        matrix_like, width_mult = len(ratios) == 2, 64 / 16
        assert all(ratio == width_mult for ratio in ratios)
        assert lr == (1 / width_mult if matrix_like else 1), letters
        if decay:  # microsoft/mup leaves the choice of what decays to its user
            assert decay == (width_mult if matrix_like else 1), letters
        checked.add((letters.replace('N', ''), matrix_like))
    assert {('DHK', True), ('VD', False)} <= checked
    assert feedforward != 'experts' or {('EDF', True), ('DE', False)} <= checked


def test_rate_times_decay_does_not_depend_on_the_shape(settings):
    """Without gradients, 10,000 steps leave the same fraction of a weight at all widths."""
    shapes = [(64, 2), (256, 4), (1024, 2), (4096, 8)]
    fields = {'optimizer.learning_rate': 0.008, 'optimizer.schedule': 'constant'}
    config = settings(fields | {'optimizer.warmup_fraction': 0.0}).optimizer
    roles = {'hidden': 'hidden', 'residual': 'residual', 'embedding': 'embedding', 'head': 'head'}
    for name in ('mup', 'completep'):
        multipliers = [
            optimizer_multipliers(
                roles, make_model_config(settings, name, width, layers, **{'model.base_width': 64})
            )
            for width, layers in shapes
        ]
        trees = (dict(enumerate(trees)) for trees in zip(*multipliers, strict=True))
        optimizer, _ = optimizers.make_optimizer(config, OptimizerMultipliers(*trees), 10_000)
        params = jax.tree.map(lambda _: np.float32(1), dict.fromkeys(range(len(shapes)), roles))

        @jax.jit
        def train(params, optimizer=optimizer):
            def step(_, carried):
                params, state = carried
                updates, state = optimizer.update(
                    jax.tree.map(jnp.zeros_like, params), state, params
                )
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, 10_000, step, (params, optimizer.init(params)))[0]

        left = np.array(jax.tree.leaves(train(params)))
        np.testing.assert_allclose(left, (1 - 0.008 * 0.1) ** 10_000, rtol=1e-2)


def test_epsilon_follows_the_gradients(settings):
    """Where epsilon is far above the gradients, an update is lr x gradient / epsilon."""
    tokens = np.random.default_rng(0).integers(97, size=(8, 16), dtype=np.int32)
    batch = {'inputs': tokens, 'targets': np.roll(tokens, -1, axis=1)}

    def measure_updates(width, layers):
        fields = {'model.base_layers': 1, 'model.init_std': 0.12, 'model.tied_head': False}
        shape = {'model.heads': width // 8, 'model.scan_layers': True}
        config = make_model_config(settings, 'completep', width, layers, **fields, **shape)
        loss = make_loss(config, UNSHARDED, train=False)
        boxed = jax.jit(lambda key: build.init_params(config, key))(jax.random.key(0))
        gradient = jax.jit(jax.grad(lambda params: loss(params, batch, jax.random.key(0))[0]))
        epsilon = optimizer_multipliers(weights.param_roles(boxed), config).epsilon
        size = lambda g, factor: float(np.sqrt(np.mean(np.square(g)))) / factor
        return jax.tree.map(size, gradient(weights.unbox(boxed)), epsilon)

    ratios = jax.tree.map(lambda a, b: b / a, measure_updates(16, 1), measure_updates(64, 4))
    del ratios['blocks']['attention']['key_bias']  # its gradient is 0: softmax ignores it
    ratios = np.array(jax.tree.leaves(ratios))
    # With one epsilon for all weights, they would be around 1/4, and 1/16 in the blocks.
    assert 0.4 < ratios.min() <= ratios.max() < 2.5
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(1, abs=0.3)


def test_router_logits_scale_as_those_of_a_head(settings):
    """Initially as width^-0.5; an update moves them equally at any width (Yang et al. 2022)."""
    initial, moved = {}, {}
    for width in (16, 256):
        fields = {'model.feedforward': 'experts', 'model.experts': 64}
        config = make_model_config(settings, 'mup', width, **fields)
        boxed = build.declare_params(config)['blocks']['feedforward']['router']
        router_DE = init_weight(boxed.role, jax.random.key(0), (width, 64), config)
        x_TD = jax.random.rademacher(jax.random.key(1), (256, width), jnp.float32)
        compute = lambda w, x_TD=x_TD, config=config: compute_router_logits(x_TD, w, config)
        initial[width] = float(jnp.sqrt(jnp.mean(jnp.square(jax.jit(compute)(router_DE)))))
        # Adam's first update that raises the first token's logits.
        gradient_DE = jax.grad(lambda w, compute=compute: -jnp.sum(compute(w)[0]))(router_DE)
        lr = optimizer_multipliers(boxed.role, config).lr
        change_TE = compute(router_DE - 0.01 * lr * jnp.sign(gradient_DE)) - compute(router_DE)
        moved[width] = float(jnp.mean(change_TE[0]))
    assert initial[16] / initial[256] == pytest.approx(16**0.5, rel=0.1)
    assert moved[16] > 0.05
    assert moved[16] / moved[256] == pytest.approx(1, rel=1e-4)


def test_forward_multipliers_follow_the_papers(configs):
    expected = {
        'standard': ForwardMultipliers(branch=1, logits=1, attention=1),
        'mup': ForwardMultipliers(branch=1, logits=0.5, attention=1),
        'completep': ForwardMultipliers(branch=0.5, logits=0.5, attention=1),
    }
    assert {name: forward_multipliers(config) for name, config in configs.items()} == expected


def test_initial_stds_follow_the_papers(configs):
    stds = {name: measure_stds(config) for name, config in configs.items()}
    standard, mup, completep = stds['standard'], stds['mup'], stds['completep']
    assert mup['embedding'] == standard['embedding']
    for name in ('query', 'output', 'down'):
        assert mup[name] == pytest.approx(standard[name] / 2**0.5)
    assert completep['query'] == mup['query']
    for name in ('output', 'down'):  # GPT-2's 1/sqrt(layers) applies up to the base depth
        assert completep[name] == pytest.approx(mup[name] * 2**0.5)


def test_attention_scores_are_scaled_by_the_head_dim_beyond_the_base(settings):
    config = make_model_config(settings, 'mup', **{'model.heads': 1})
    assert forward_multipliers(config).attention == 0.5  # sqrt(8 / 32)


def test_the_base_shape_equals_the_standard_model_bitwise(settings):
    shape = {'model.width': 16, 'model.heads': 2, 'model.layers': 2, 'model.scan_layers': True}
    fields = shape | {'train.steps': 3}

    def train(parametrization):
        config = settings(BASE | fields | {'model.parametrization': parametrization})
        parts = build.build_trainer_parts(config)
        tokens = np.random.default_rng(0).integers(97, size=(8, 16), dtype=np.int32)
        batch = next(parts.shard_batches([{'inputs': tokens, 'targets': tokens}]))
        state = parts.init_state()
        for _ in range(3):
            state, _metrics = parts.train_step(state, batch)
        return jax.device_get(state.params)

    standard = train('standard')
    for name in ('mup', 'completep'):
        jax.tree.map(np.testing.assert_array_equal, standard, train(name))


def test_epsilon_is_scaled_per_weight(settings):
    config = settings({'optimizer.epsilon': 0.1, 'optimizer.weight_decay': 0.0}).optimizer
    ones = {'w': 1.0}
    gradients, params = {'w': np.float32(0.02)}, {'w': np.float32(1)}

    def update(epsilon, multiplier):
        multipliers = OptimizerMultipliers(lr=ones, weight_decay=ones, epsilon={'w': multiplier})
        changed = dataclasses.replace(config, epsilon=epsilon)
        transformation, _ = optimizers.make_optimizer(changed, multipliers, 10)
        state = transformation.init(params)
        return float(jax.jit(transformation.update)(gradients, state, params)[0]['w'])

    scaled = update(0.1, 0.25)
    assert scaled == pytest.approx(update(0.025, 1.0), rel=1e-5)
    assert scaled != pytest.approx(update(0.1, 1.0), rel=1e-2)


@pytest.mark.parametrize(
    'fields',
    [
        {'model.parametrization': 'mup', 'model.width': 32},
        # All rates and decays are 1, but the gradients in the blocks fall with the depth.
        {'model.parametrization': 'completep', 'model.width': 16, 'model.layers': 4},
    ],
)
def test_sgd_is_refused_with_learning_rates_derived_for_adam(settings, fields):
    fields = fields | {'optimizer.name': 'sgd'}
    with pytest.raises(UserError, match=r"optimizer\.name: must be 'adamw' with"):
        build.build_trainer_parts(settings(BASE | fields))
