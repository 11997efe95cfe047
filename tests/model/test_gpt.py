"""The model against an independent float64 GPT: logits, gradients, visibility, configuration."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core.config import AUTO, MeshConfig, ModelConfig, resolve_model
from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import PARAMETRIZATIONS
from gpt_jax.model import weights
from gpt_jax.model.attention import ATTENTION_KERNELS, ATTENTIONS
from gpt_jax.model.context_parallel import CONTEXT_PARALLEL
from gpt_jax.model.feedforward import ACTIVATIONS
from gpt_jax.model.gpt import BLOCKS, FEEDFORWARDS, GPT, unstack_layers
from gpt_jax.model.loss import compute_logits
from gpt_jax.model.norms import NORMS
from gpt_jax.model.position import POSITION_SCHEMES, ROTARY_SCALINGS
from gpt_jax.parallel.rules import STRATEGIES
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train import build
from gpt_jax.train.objective import make_loss
from tests.model import reference
from tests.model.architectures import ARCHITECTURES, count_layers


@functools.cache
def declare_model(config):
    """Return (role of each parameter, its shape)."""
    boxed = build.declare_params(config)
    return weights.param_roles(boxed), weights.unbox(boxed)


def make_model(config, seed=0):
    """Return random params without special initial values, and a function: tokens -> logits."""
    rng = np.random.default_rng(seed)
    # Unlike jnp.asarray, device_put compiles nothing.
    params = jax.tree.map(
        lambda role, leaf: jax.device_put(
            np.float32((role == 'scale') + 0.1 * rng.standard_normal(leaf.shape))
        ),
        *declare_model(config),
    )
    model = GPT(config, UNSHARDED, train=False)

    @jax.jit
    def forward(params, tokens, segments=None, positions=None):
        output = model.apply({'params': params}, tokens, segments, positions)
        return compute_logits(output.x_BLD, output.w_VD, config)

    return params, forward


def make_objective(config, batch, train=True, seed=0):
    """Return params -> the summed objective of the batch."""
    loss = make_loss(config, UNSHARDED, train=train)
    return lambda params: loss(params, batch, jax.random.key(seed))[0]


@pytest.fixture
def tokens():
    return np.random.default_rng(7).integers(97, size=(2, 16), dtype=np.int32)


@pytest.mark.parametrize(
    ('name', 'fields'),
    [(name, {'attention_chunk': 7, 'vocab_multiple': 64}) for name in ARCHITECTURES]
    + [
        (name, {'scan_layers': True, 'layers': 2})
        for name in ('gpt1', 'gpt3_banded', 'layer_scaling', 'olmo3', 'sink', 'mistral')
    ],
    ids=str,
)
def test_logits_equal_those_of_a_float64_gpt(model_config, tokens, name, fields):
    config = model_config(**{'layers': count_layers(name)} | ARCHITECTURES[name] | fields)
    params, forward = make_model(config)

    @jax.jit
    def compute(params):
        if not config.scan_layers:
            params = unstack_layers(params, config.layers)
        return forward(params, tokens)

    logits = np.asarray(compute(params))[..., : config.vocab_size]
    expected = np.stack([reference.logits(params, row, config) for row in tokens])
    assert np.abs(logits - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ('name', 'chunk'),
    [
        ('alibi', 7),
        ('sink', 7),
        ('softcaps', 0),
        ('qwen3', 7),
        pytest.param('gpt3_banded', 7, marks=pytest.mark.slow),  # has windows as 'sink'
    ],
)
def test_gradients_equal_finite_differences_of_a_float64_gpt(model_config, tokens, name, chunk):
    """Along a random direction of all weights; chunked attention and loss have custom gradients."""
    config = model_config(
        layers=count_layers(name), **ARCHITECTURES[name], attention_chunk=chunk, z_loss=0.01
    )
    params, _ = make_model(config)
    targets, rng = np.roll(tokens, -1, axis=1), np.random.default_rng(3)
    direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)

    def objective(step):
        moved = jax.tree.map(lambda a, d: np.asarray(a, np.float64) + step * d, params, direction)
        total = 0.0
        for row, row_targets in zip(tokens, targets, strict=True):
            z = reference.logits(moved, row, config)
            log_z = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
            total += (log_z - z[np.arange(len(row)), row_targets] + 0.01 * log_z**2).sum()
        return total

    loss = make_objective(config, {'inputs': tokens, 'targets': targets})
    layout = build.make_param_layout(config, UNSHARDED)
    gradient = jax.jit(lambda params: layout.stack(jax.grad(loss)(layout.unstack(params))))
    derivative = sum(
        float((np.asarray(g) * d).sum())
        for g, d in zip(jax.tree.leaves(gradient(params)), jax.tree.leaves(direction), strict=True)
    )
    step = 1e-5
    expected = (objective(step) - objective(-step)) / (2 * step)
    assert derivative == pytest.approx(expected, rel=1e-4)


def test_bfloat16_stays_within_its_rounding_error(model_config, tokens):
    config = model_config(layers=1)
    params, forward = make_model(config)
    exact = np.asarray(forward(params, tokens))
    for fields in (
        {'matmul_dtype': 'bfloat16'},
        {'matmul_dtype': 'bfloat16', 'activation_dtype': 'bfloat16'},
    ):
        _, rounded = make_model(dataclasses.replace(config, **fields))
        error = np.abs(rounded(params, tokens) - exact).max() / np.abs(exact).max()
        assert 0 < error < 0.03  # 8 bits of mantissa


# Visibility


def measure_reach(config, params, segments=None, positions=None):
    """[L, M]: the largest derivative of the features at L by the embedding of the token at M.

    All tokens of the row differ, so a row of the embedding table is a position of the sequence.
    """
    model = GPT(config, UNSHARDED, train=False)
    row = jnp.arange(16)[None]

    def features(table):
        changed = params | {'embedding': {'table_VD': table}}
        return model.apply({'params': changed}, row, segments, positions).x_BLD[0]

    jacobian = jax.jit(jax.jacobian(features))(params['embedding']['table_VD'])
    return np.abs(np.asarray(jacobian)).max(axis=(1, 3))[:, :16]


def test_no_position_sees_a_later_one(model_config):
    config = model_config(layers=1)
    reach = measure_reach(config, make_model(config)[0])
    assert np.all(reach[np.triu_indices(16, 1)] == 0)
    assert np.all(reach[np.tril_indices(16)] > 0)


def test_packed_documents_do_not_leak_and_equal_separate_ones(model_config, tokens):
    config = model_config(layers=1, attention_chunk=7)
    params, forward = make_model(config)
    row = tokens[:1]
    segments = np.array([[0] * 5 + [1] * 11])
    positions = np.array([[*range(5), *range(11)]])
    (packed,) = forward(params, row, segments, positions)
    # Each document at the start of a row; what follows is not seen.
    first, second = forward(params, np.concatenate([row, np.roll(row, -5, axis=1)]))
    np.testing.assert_allclose(packed[:5], first[:5], atol=1e-4)
    np.testing.assert_allclose(packed[5:], second[:11], atol=1e-4)

    reach = measure_reach(config, params, segments, positions)
    assert np.all(reach[5:, :5] == 0)
    assert np.all(reach[5:, 5:][np.tril_indices(11)] > 0)


# Options that change only how the model is computed


@functools.cache
def loss_and_gradient(config):
    """The loss of one batch and its gradient; the weights do not depend on the options."""
    rows = np.random.default_rng(7).integers(97, size=(2, 17), dtype=np.int32)
    batch = {'inputs': rows[:, :-1], 'targets': rows[:, 1:]}
    layout = build.make_param_layout(config, UNSHARDED)

    @jax.jit
    def compute(params):
        value_and_grad = jax.value_and_grad(make_objective(config, batch))
        value, gradients = value_and_grad(layout.unstack(params))
        return value, layout.stack(gradients)

    return compute(make_model(config)[0])


@pytest.mark.parametrize(
    'fields',
    [
        {'remat': 'block', 'attention_chunk': 7},
        {'remat': 'dots', 'scan_layers': True, 'loss_chunk': 4},
    ],
)
def test_execution_options_change_no_number(model_config, fields):
    results = (loss_and_gradient(model_config()), loss_and_gradient(model_config(**fields)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *results)


def test_remat_dots_recomputes_less_than_remat_block(model_config, tokens):
    """In unrolled layers; tests/preflight/test_model_cost.py counts the FLOPs of scanned ones."""

    def flops(remat):
        config = model_config(layers=1, remat=remat)
        layout = build.make_param_layout(config, UNSHARDED)
        params = jax.eval_shape(layout.unstack, weights.unbox(build.declare_params(config)))
        gradient = jax.jit(jax.grad(make_objective(config, {'inputs': tokens, 'targets': tokens})))
        return gradient.lower(params).compile().cost_analysis()['flops']

    assert flops('none') < flops('dots') < flops('block')


def test_dropout_acts_only_in_training_and_depends_on_its_key(model_config, tokens):
    config = model_config(layers=1, dropout=0.5)
    params, _ = make_model(config)
    batch = {'inputs': tokens, 'targets': tokens}

    @functools.partial(jax.jit, static_argnames='train')
    def loss(train, seed):
        return make_objective(config, batch, train, seed)(params)

    assert loss(True, 1) == loss(True, 1) != loss(True, 2)
    assert loss(False, 1) == loss(False, 2)


def test_params_contain_only_what_the_config_asks_for(model_config, tokens):
    config = model_config(
        norm='rms', bias=False, tied_head=False, position='none', activation='squared_relu'
    )
    params, forward = make_model(config)
    assert jax.eval_shape(forward, params, tokens).shape == (2, 16, 97)
    assert 'bias' not in str(jax.tree.structure(params))
    assert 'head' in params
    assert 'position' not in params


# Config words


REGISTRIES = {
    'block': BLOCKS,
    'norm': NORMS,
    'position': POSITION_SCHEMES,
    'rotary_scaling': ROTARY_SCALINGS,
    'attention': ATTENTIONS,
    'attention_kernel': ATTENTION_KERNELS,
    'feedforward': FEEDFORWARDS,
    'activation': ACTIVATIONS,
}


def test_registries_have_the_choices_that_the_config_declares():
    model_fields, mesh_fields = (
        {field.name: field.metadata for field in dataclasses.fields(section)}
        for section in (ModelConfig, MeshConfig)
    )
    extensible = {
        name: about['choices'] for name, about in model_fields.items() if about['extensible']
    }
    assert {name: tuple(registry) for name, registry in REGISTRIES.items()} == extensible
    assert tuple(PARAMETRIZATIONS) == model_fields['parametrization']['choices']
    assert (*STRATEGIES, AUTO) == mesh_fields['strategy']['choices']
    assert tuple(CONTEXT_PARALLEL) == mesh_fields['context_parallel']['choices']


def power_norm(param, x_BLD, *, config, policy):
    """x / mean(|x|^3)^(1/3) * scale: a norm that is not part of the library."""
    del policy
    size = jnp.mean(jnp.abs(x_BLD) ** 3, axis=-1, keepdims=True) + config.norm_epsilon
    return x_BLD / jnp.cbrt(size) * param('scale', 'D', 'scale')


def test_a_dotted_path_selects_a_function_outside_the_library(settings):
    """Three training steps of a tiny model whose norm is defined in this file."""
    path = f'{__name__}:power_norm'
    parts = build.build_trainer_parts(settings({'model.norm': path, 'model.layers': 1}))
    tokens = np.random.default_rng(0).integers(97, size=(8, 16), dtype=np.int32)
    batch = next(parts.shard_batches([{'inputs': tokens, 'targets': tokens}]))
    state, losses = parts.init_state(), []
    assert set(state.params['norm']) == {'scale'}
    for _ in range(3):
        state, metrics = parts.train_step(state, batch)
        losses.append(float(metrics['loss']))
    assert losses[2] < losses[0]


def test_a_dotted_path_that_cannot_be_imported_names_the_field(model_config):
    with pytest.raises(UserError, match=r'config\.model\.norm: cannot import'):
        build.declare_params(model_config(norm=f'{__name__}:no_such_norm'))


def test_a_kernel_for_another_device_is_refused(model_config):
    with pytest.raises(UserError, match='cudnn must have an NVIDIA GPU'):
        build.declare_params(model_config(attention_kernel='cudnn'))


ROTARY = {'position': 'rotary', 'rotary_factor': 4.0}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'heads': 5}, 'config.model.heads: must divide the width 32, got 5'),
        ({'kv_heads': 3}, 'config.model.kv_heads: must divide the 4 heads, got 3'),
        (
            ROTARY | {'rotary_scaling': 'yarn', 'rotary_base': 1.0},
            'config.model.rotary_base: must be above 1 for rotary_scaling yarn, got 1.0',
        ),
        (
            ROTARY | {'rotary_scaling': 'ntk', 'rotary_fraction': 0.25},
            'config.model.rotary_scaling: ntk must have more than 2 rotated dimensions, got 2',
        ),
        (
            {'qk_norm_per_head': False},
            'config.model.qk_norm_per_head: must be True unless qk_norm is True',
        ),
        (
            {'scale_embedding': True, 'parametrization': 'mup'},
            'config.model.scale_embedding: must be False with parametrization mup',
        ),
        (
            {'attention_scale_dim': 5, 'parametrization': 'completep'},
            'config.model.attention_scale_dim: must be head_dim with parametrization completep',
        ),
        ({'layers': -1}, 'config.model.layers: must be positive, got -1'),
        (
            {'norm': 'layr'},
            'config.model.norm: must be one of layer, rms, zero_centered_rms or a dotted path '
            "'package.module:name', got 'layr'; "
            "the nearest is 'layer'",
        ),
        ({'dropout': 1.0}, 'config.model.dropout: must be in [0, 1), got 1.0'),
        (
            {'matmul_dtype': 'float64'},
            "config.model.matmul_dtype: must be one of float32, bfloat16, got 'float64'",
        ),
    ],
)
def test_a_bad_config_names_the_field(model_config, fields, message):
    with pytest.raises(UserError) as error:
        model_config(**fields)
    assert str(error.value).startswith(message)


def test_the_vocabulary_must_hold_the_tokenizers():
    with pytest.raises(UserError, match=r"vocab_size: must be at least the tokenizer's 256"):
        resolve_model({'vocab_size': 100, 'width': 8, 'heads': 2}, vocab_size=256)
