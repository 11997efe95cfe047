"""Does each parametrization say of every weight what its paper says, and nothing at the base shape?"""

import jax
import numpy as np
import pytest

from gpt_jax import assemble, parametrization
from gpt_jax.errors import UserError
from gpt_jax.model import weights
from gpt_jax.optim import updates
from gpt_jax.parametrization import factors, forward

BASE = {'model.base_width': 16, 'model.base_layers': 2, 'model.base_head_dim': 8}


def made(settings, name, width=32, layers=4, **more):
    shape = {'model.width': width, 'model.heads': 4, 'model.layers': layers, 'model.parametrization': name}
    return settings(BASE | shape | more).model


def of(tree):
    return {
        'embedding': tree['embedding']['table_VD'], 'query': tree['blocks']['attention']['query'],
        'output': tree['blocks']['attention']['output'], 'down': tree['blocks']['feedforward']['down'],
        'scale': tree['blocks']['norm_1']['scale'], 'bias': tree['blocks']['feedforward']['up_bias'],
    }  # fmt: skip


def stds(config):
    return {
        name: float(np.std(leaf))
        for name, leaf in of(weights.unbox(assemble.initial(config, jax.random.key(0)))).items()
    }


def test_everything_follows_the_tables_of_the_papers(settings):
    """Width 2 and depth 2 times the base: m_N = m_L = 2."""
    standard, mup, completep = (made(settings, name) for name in ('standard', 'mup', 'completep'))
    roles = weights.roles(assemble.declarations(mup))
    rates = {name: of(factors(roles, config).rate) for name, config in (('mup', mup), ('completep', completep))}
    for name in rates:  # Yang et al. 2022, table 8: 1/m for matrices, 1 for the rest
        assert rates[name] == {'embedding': 1, 'query': 0.5, 'output': 0.5, 'down': 0.5, 'scale': 1, 'bias': 1}
    decay = of(
        factors(roles, completep).decay
    )  # Dey et al. 2025, table 1: x m_N for matrices, so that rate x decay stays
    assert decay == {'embedding': 1, 'query': 2, 'output': 2, 'down': 2, 'scale': 0, 'bias': 0}
    assert of(factors(roles, mup).decay)['query'] == 1
    epsilon = of(factors(roles, completep).epsilon)
    assert epsilon == {'embedding': 0.5, 'query': 0.25, 'output': 0.25, 'down': 0.25, 'scale': 0.25, 'bias': 0.25}
    assert forward(standard) == parametrization.Forward(1, 1, 1)
    assert forward(mup) == parametrization.Forward(branch=1, logits=0.5, attention=1)
    assert forward(completep) == parametrization.Forward(branch=0.5, logits=0.5, attention=1)
    plain, small, deep = stds(standard), stds(mup), stds(completep)
    assert small['embedding'] == plain['embedding']
    for name in ('query', 'output', 'down'):
        assert small[name] == pytest.approx(plain[name] / 2**0.5)
    assert deep['query'] == small['query']
    for name in ('output', 'down'):  # GPT-2's 1/sqrt(layers) stays at the base depth
        assert deep[name] == pytest.approx(small[name] * 2**0.5)


def test_attention_is_scaled_by_the_head_dim_beyond_the_base(settings):
    assert forward(made(settings, 'mup', **{'model.heads': 1})).attention == 0.5  # sqrt(8 / 32)


@pytest.mark.parametrize('name', ['mup', 'completep'])
def test_the_base_shape_is_the_standard_model_to_the_bit(settings, name):
    fields = {'model.width': 16, 'model.heads': 2, 'model.layers': 2, 'train.steps': 3}
    ends = []
    for parametrized in ('standard', name):
        one = settings(BASE | fields | {'model.parametrization': parametrized})
        program = assemble.build(one)
        tokens = np.random.default_rng(0).integers(97, size=(8, 16), dtype=np.int32)
        batch = next(program.on_devices([{'inputs': tokens, 'targets': tokens}]))
        state = program.init()
        for _ in range(3):
            state, _metrics = program.step(state, batch)
        ends.append(jax.device_get(state.params))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_epsilon_is_scaled_weight_by_weight(settings):
    config = settings({'optimizer.epsilon': 0.1, 'optimizer.weight_decay': 0.0}).optimizer
    ones = {'w': 1.0}
    gradients, params = {'w': np.float32(0.02)}, {'w': np.float32(1)}

    def update(epsilon, factor):
        one = parametrization.Factors(ones, ones, {'w': factor})
        import dataclasses

        transformation, _ = updates.make(dataclasses.replace(config, epsilon=epsilon), one, 10)
        return float(transformation.update(gradients, transformation.init(params), params)[0]['w'])

    assert update(0.1, 0.25) == pytest.approx(update(0.025, 1.0), rel=1e-5)
    assert update(0.1, 0.25) != pytest.approx(update(0.1, 1.0), rel=1e-2)


def test_sgd_is_refused_where_rates_are_adams(settings):
    one = settings(BASE | {'model.parametrization': 'mup', 'model.width': 32, 'optimizer.name': 'sgd'})
    with pytest.raises(UserError, match='sgd wants standard'):
        assemble.build(one)
