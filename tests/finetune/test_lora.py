"""Adapters begin without effect, are where the config puts them, and merge exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core import trees
from gpt_jax.core.errors import UserError
from gpt_jax.finetune import lora
from gpt_jax.inference import pretrained
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.loss import compute_logits
from gpt_jax.model.low_rank import Adapter
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train.objective import make_loss
from tests.finetune.test_partition import remove_adapters
from tests.model.architectures import ARCHITECTURES
from tests.model.test_gpt import make_model

weight_letters = functools.cache(pretrained.weight_letters)


def make_adapters(config, names, rank=3, scale=0.5, seed=0):
    """Return (params, new adapters, adapters that change the model, their scales)."""
    params, _ = make_model(config)
    logical_axes = weight_letters(config)
    targets = lora.select_targets(logical_axes, names, config.layers)
    init = functools.partial(lora.init_adapters, params, logical_axes, targets, rank)
    new = jax.tree.map(np.asarray, jax.jit(init)(jax.random.key(seed)))
    rng = np.random.default_rng(1)
    move = lambda a: np.asarray(a) + np.float32(0.1 * rng.standard_normal(a.shape))
    moved = jax.tree.map(move, new)
    return params, new, moved, dict.fromkeys(targets, scale)


def make_logits_function(config):
    """Make params -> logits of random tokens; `config` says whether the layers are scanned."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, config.vocab_size, (2, config.context)).astype(np.int32)
    model = GPT(config, UNSHARDED, train=False)

    @jax.jit
    def compute(params):
        applied = params if config.scan_layers else unstack_layers(params, config.layers)
        output = model.apply({'params': applied}, tokens)
        return compute_logits(output.x_BLD, output.w_VD, config)

    return lambda params: np.asarray(compute(params))


EVERYTHING = ['all-linear', 'embedding']


@pytest.mark.parametrize(
    ('name', 'scan_layers'),
    [
        ('gpt2', True),
        ('llama', False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ('gpt2', False),
                ('llama', True),
                ('shared_experts', False),
                ('shared_experts', True),
            )
        ),
    ],
)
def test_new_adapters_change_nothing_and_others_act_like_merged_weights(
    model_config, name, scan_layers
):
    config = model_config(**ARCHITECTURES[name], scan_layers=scan_layers)
    names = EVERYTHING if config.tied_head else [*EVERYTHING, 'head']
    params, new, moved, scales = make_adapters(config, names)
    compute_logits_of = make_logits_function(config)
    before = compute_logits_of(params)
    np.testing.assert_allclose(
        compute_logits_of(lora.attach_adapters(params, new, scales)),
        before,
        atol=2e-6 * np.abs(before).max(),
    )
    after = compute_logits_of(lora.attach_adapters(params, moved, scales))
    merged = jax.jit(lambda moved: lora.merge_adapters(params, moved, scales))(moved)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(after, compute_logits_of(merged), atol=2e-6 * np.abs(after).max())
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()
    jax.tree.map(
        np.testing.assert_array_equal,
        remove_adapters(lora.attach_adapters(params, moved, scales)),
        params,
    )


def test_initial_values_are_those_of_peft(model_config):
    """Uniform in +-1/sqrt(inputs), that is kaiming_uniform with a = sqrt(5); embedding: normal."""
    config = model_config(width=48, head_dim=12, mlp_width=100, vocab_size=300, tied_head=False)
    _, adapters, *_ = make_adapters(config, ['*'], rank=64)
    inputs = {'query': 48, 'key': 48, 'value': 48, 'output': 48, 'up': 48, 'down': 100}
    for path, adapter in adapters.items():
        zero, drawn = (adapter.a, adapter.b) if path.endswith('VD') else (adapter.b, adapter.a)
        assert not np.any(zero)
        if path == 'embedding/table_VD':
            assert drawn.std() == pytest.approx(1, rel=0.1)
            assert np.abs(drawn).max() > 2.5
            continue
        bound = 1 / np.sqrt(inputs.get(path.split('/')[-1], 48))
        assert 0.99 * bound < np.abs(drawn).max() <= bound
        assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    first_values = [
        np.ravel(adapter.a)[:9].tobytes() for adapter in adapters.values() if adapter.a.any()
    ]
    assert len(set(first_values)) == len(first_values)


def test_an_adapter_does_not_depend_on_other_adapters(model_config):
    config = model_config()
    path = 'blocks/attention/value'
    _, single, *_ = make_adapters(config, ['value'])
    _, several, *_ = make_adapters(config, ['value', 'query'])
    np.testing.assert_array_equal(single[path].a, several[path].a)
    _, other_seed, *_ = make_adapters(config, ['value'], seed=1)
    assert not np.array_equal(single[path].a, other_seed[path].a)


def list_nonzero_layers(stack):
    return [n for n, layer in enumerate(np.asarray(stack)) if layer.any()]


def test_layers_that_are_no_targets_have_no_adapter_and_no_gradient(model_config):
    config = model_config(layers=3, scan_layers=True)
    query, up = 'blocks/attention/query', 'blocks/feedforward/up'
    names = ['blocks[1]/attention/query', 'blocks[-1]/up']
    params, adapters, _, scales = make_adapters(config, names)
    assert adapters[query].a.shape == (3, 32, 3)
    assert list_nonzero_layers(adapters[query].a) == [1]
    assert list_nonzero_layers(adapters[up].a) == [2]

    def move(adapter):
        """Make b nonzero where a is."""
        sizes = 0.1 * np.abs(adapter.a).sum((1, 2))
        return Adapter(adapter.a, adapter.b + sizes.reshape(-1, *[1] * (adapter.b.ndim - 1)))

    moved = {path: move(adapter) for path, adapter in adapters.items()}
    batch = {name: jnp.zeros((1, 16), jnp.int32) for name in ('inputs', 'targets')}
    loss = make_loss(config, UNSHARDED, train=False)

    def loss_of_adapters(adapters):
        adapted = lora.attach_adapters(params, adapters, scales)
        return loss(adapted, batch, jax.random.key(0))[0]

    gradients = jax.jit(jax.grad(loss_of_adapters))(moved)
    for path, layers in ((query, [1]), (up, [2])):
        assert list_nonzero_layers(gradients[path].a) == layers
        assert list_nonzero_layers(gradients[path].b) == layers


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (
            ['querry'],
            "config.finetune.targets: 'querry' matches no parameter of the model; the nearest is "
            "'query'",
        ),
        (
            ['query', 'query_bias'],
            "'query_bias' matches blocks/attention/query_bias; only matrices can have adapters",
        ),
        (['position'], "'position' matches position/table; only matrices can have adapters"),
    ],
)
def test_targets_that_are_no_matrices_are_rejected(model_config, names, message):
    config = model_config()
    with pytest.raises(UserError) as error:
        lora.select_targets(weight_letters(config), names, config.layers)
    assert message in str(error.value)


def test_all_linear_is_every_matrix_of_the_layers_except_routers(model_config):
    config = model_config(**ARCHITECTURES['shared_experts'])
    logical_axes = weight_letters(config)
    targets = lora.select_targets(logical_axes, ['all-linear'], config.layers)
    matrices = {
        path
        for path, letters in logical_axes.items()
        if path.startswith('blocks') and len(letters) > 2
    }
    assert targets.keys() == matrices - {'blocks/feedforward/router'}
    attention = lora.select_targets(logical_axes, ['blocks/attention/*'], config.layers)
    assert attention.keys() < targets.keys()


def test_scales_are_those_of_the_papers():
    assert lora.lora_scale(8, 16.0, False) == 2.0
    assert lora.lora_scale(16, 16.0, True) == 4.0


def test_an_adapter_has_the_parameters_of_two_thin_matrices(model_config):
    config = model_config(layers=2, width=32)
    _, adapters, *_ = make_adapters(config, ['query', 'value'], rank=8)
    assert trees.count_elements(adapters) == 2 * 2 * 8 * (32 + 32)
