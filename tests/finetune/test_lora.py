"""Do adapters begin as nothing, go where they are told, and merge into what they computed?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble, pretrained, trees
from gpt_jax.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.model import loss as losses
from gpt_jax.model import weights
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.model.lowrank import Adapter, without
from gpt_jax.parallel.place import ANYWHERE
from tests.model.architectures import ARCHITECTURES


def made(config, names, rank=3, scale=0.5, seed=0):
    """(params, adapters that change something, their scales)."""
    params = weights.unbox(assemble.initial(config, jax.random.key(0)))
    letters = pretrained.letters_of(config)
    chosen = lora.targets(letters, names, config.layers)
    fresh = lora.create(params, letters, chosen, rank, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    moved = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(next(keys), a.shape), fresh)
    return params, fresh, moved, dict.fromkeys(chosen, scale)


def logits(config, params):
    """Of a few tokens; the layers as `config` has them."""
    tokens = jax.random.randint(jax.random.key(2), (2, config.context), 0, config.vocab_size)
    given = params if config.scan_layers else unstack(params, config.layers)
    features = jax.jit(lambda p: GPT(config, ANYWHERE, train=False).apply({'params': p}, tokens))(given)
    return np.asarray(losses.logits(features.x_BLD, features.w_VD, config))


EVERYTHING = ['all-linear', 'embedding']


@pytest.mark.parametrize(
    ('name', 'scan_layers'),
    [
        ('gpt2', True),
        ('llama', False),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (('gpt2', False), ('llama', True), ('shared_experts', False), ('shared_experts', True))
        ),
    ],
)
def test_new_adapters_change_nothing_and_moved_ones_what_they_change_in_the_weights(model_config, name, scan_layers):
    config = model_config(**ARCHITECTURES[name], scan_layers=scan_layers)
    names = EVERYTHING if config.tied_head else [*EVERYTHING, 'head']
    params, fresh, moved, scales = made(config, names)
    before = logits(config, params)
    np.testing.assert_allclose(
        logits(config, lora.adapt(params, fresh, scales)), before, atol=2e-6 * np.abs(before).max()
    )
    after = logits(config, lora.adapt(params, moved, scales))
    merged = lora.merge(params, moved, scales)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(after, logits(config, merged), atol=2e-6 * np.abs(after).max())
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()
    jax.tree.map(np.testing.assert_array_equal, without(lora.adapt(params, moved, scales)), params)


def test_the_beginning_is_pefts(model_config):
    """Even in +-1/sqrt(inputs) (kaiming_uniform with a = sqrt(5)) and zero; of an embedding, zero and normal."""
    config = model_config(width=48, head_dim=12, mlp_width=100, vocab_size=300, tied_head=False)
    _, fresh, *_ = made(config, ['*'], rank=64)
    inputs = {'query': 48, 'key': 48, 'value': 48, 'output': 48, 'up': 48, 'down': 100}
    for path, adapter in fresh.items():
        zero, drawn = (adapter.a, adapter.b) if path.endswith('VD') else (adapter.b, adapter.a)
        assert not np.any(zero)
        drawn = np.asarray(drawn)
        if path == 'embedding/table_VD':
            assert drawn.std() == pytest.approx(1, rel=0.1)
            assert np.abs(drawn).max() > 2.5
            continue
        bound = 1 / np.sqrt(inputs.get(path.split('/')[-1], 48))
        assert 0.99 * bound < np.abs(drawn).max() <= bound
        assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    flat = [np.ravel(adapter.a)[:9].tobytes() for adapter in fresh.values() if adapter.a.any()]
    assert len(set(flat)) == len(flat)


def test_an_adapter_does_not_depend_on_what_else_has_one(model_config):
    config = model_config()
    _, alone, *_ = made(config, ['value'])
    _, beside, *_ = made(config, ['value', 'all-linear'])
    np.testing.assert_array_equal(alone['blocks/attention/value'].a, beside['blocks/attention/value'].a)
    _, other, *_ = made(config, ['value'], seed=1)
    assert not np.array_equal(alone['blocks/attention/value'].a, other['blocks/attention/value'].a)


def test_layers_that_are_not_chosen_have_none_and_get_none(model_config):
    config = model_config(layers=3)
    params, fresh, _, scales = made(config, ['blocks[1]/attention/query', 'blocks[-1]/up'])
    a = np.asarray(fresh['blocks/attention/query'].a)
    assert a.shape == (3, 32, 3)
    assert [bool(layer.any()) for layer in a] == [False, True, False]
    assert [bool(layer.any()) for layer in np.asarray(fresh['blocks/feedforward/up'].a)] == [False, False, True]
    moved = {path: Adapter(one.a, one.b + 0.1 * jnp.abs(one.a).sum((1, 2)).reshape(-1, *[1] * (one.b.ndim - 1)))
             for path, one in fresh.items()}  # fmt: skip
    batch = {name: jnp.zeros((1, 16), jnp.int32) for name in ('inputs', 'targets')}
    loss = assemble.summed_loss(dataclass_scan(config), ANYWHERE, train=False)
    gradients = jax.grad(lambda one: loss(lora.adapt(params, one, scales), batch, jax.random.key(0))[0])(moved)
    for one, layers in (('blocks/attention/query', (1,)), ('blocks/feedforward/up', (2,))):
        for part in (gradients[one].a, gradients[one].b):
            assert [n for n, layer in enumerate(np.asarray(part)) if layer.any()] == list(layers)


def dataclass_scan(config):
    import dataclasses

    return dataclasses.replace(config, scan_layers=True)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['querry'], "config.tune.targets: 'querry' is no weight of this model; the nearest is 'query'"),
        (['query', 'query_bias'], "'query_bias' is blocks/attention/query_bias, and adapters are for matrices alone"),
        (['position'], "'position' is position/table, and adapters are for matrices alone"),
    ],
)
def test_targets_that_are_no_matrices(model_config, names, message):
    config = model_config()
    with pytest.raises(UserError) as error:
        lora.targets(pretrained.letters_of(config), names, config.layers)
    assert message in str(error.value)


def test_all_linear_is_every_matrix_of_the_layers_and_no_router(model_config):
    config = model_config(**ARCHITECTURES['shared_experts'])
    letters = pretrained.letters_of(config)
    found = lora.targets(letters, ['all-linear'], config.layers)
    wanted = {path for path in letters if path.startswith('blocks') and len(letters[path]) > 2}
    assert found.keys() == wanted - {'blocks/feedforward/router'}
    assert lora.targets(letters, ['blocks/attention/*'], config.layers).keys() < found.keys()


def test_scales_of_the_papers():
    assert lora.scale(8, 16.0, False) == 2.0
    assert lora.scale(16, 16.0, True) == 4.0


def test_counts_are_those_of_two_thin_matrices(model_config):
    config = model_config(layers=2, width=32)
    _, fresh, *_ = made(config, ['query', 'value'], rank=8)
    assert trees.size(fresh) == 2 * 2 * 8 * (32 + 32)
