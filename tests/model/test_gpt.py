"""Does the model compute what the papers say, and look only where it may?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import assemble
from gpt_jax.errors import UserError
from gpt_jax.model import loss as losses
from gpt_jax.model import weights
from gpt_jax.model.config import resolve
from gpt_jax.model.gpt import GPT, check_choices, unstack
from gpt_jax.parallel.place import ANYWHERE
from tests.model import reference
from tests.model.architectures import ARCHITECTURES


def make(config, seed=0):
    """(params with no entry at a special starting value, tokens -> logits)."""
    boxed, rng = assemble.declarations(config), np.random.default_rng(seed)
    params = jax.tree.map(
        lambda role, leaf: jnp.asarray((role == 'scale') + 0.1 * rng.standard_normal(leaf.shape), jnp.float32),
        weights.roles(boxed), weights.unbox(boxed),
    )  # fmt: skip
    model = GPT(config, ANYWHERE, train=False)

    @jax.jit
    def forward(params, tokens, segments=None, positions=None):
        features = model.apply({'params': params}, tokens, segments, positions)
        return losses.logits(features.x_BLD, features.w_VD, config)

    return params, forward


@pytest.fixture
def tokens():
    return jax.random.randint(jax.random.key(7), (2, 16), 0, 97)


@pytest.mark.parametrize(
    ('name', 'computed'),
    [(name, {'attention_chunk': 5, 'vocab_multiple': 64}) for name in ARCHITECTURES]
    + [(name, {'scan_layers': True}) for name in ('gpt1', 'gpt3_banded', 'sink', 'mistral')],
    ids=str,
)
def test_logits_equal_an_independent_float64_gpt(model_config, tokens, name, computed):
    config = model_config(**ARCHITECTURES[name], **computed)
    params, forward = make(config)
    ours = np.asarray(forward(params if config.scan_layers else unstack(params, config.layers), tokens))[
        ..., : config.vocab_size
    ]
    theirs = np.stack([reference.logits(params, row, config) for row in np.asarray(tokens)])
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ('name', 'chunk'), [('gpt3_banded', 5), ('alibi', 5), ('sink', 5), ('sink', 0), ('softcaps', 0), ('qwen3', 5)]
)
def test_gradients_equal_differences_of_the_float64_gpt(model_config, tokens, name, chunk):
    """Along a random direction of all weights at once: the chunked kernel and the loss have gradients of their own."""
    config = model_config(**ARCHITECTURES[name], attention_chunk=chunk, z_loss=0.01)
    params, _ = make(config)
    targets = np.roll(np.asarray(tokens), -1, axis=1)
    keys = iter(jax.random.split(jax.random.key(3), len(jax.tree.leaves(params))))
    direction = jax.tree.map(lambda a: np.asarray(jax.random.normal(next(keys), a.shape), np.float64), params)

    def objective(step):
        moved = jax.tree.map(lambda a, d: np.asarray(a, np.float64) + step * d, params, direction)
        total = 0.0
        for row, wanted in zip(np.asarray(tokens), targets, strict=True):
            z = reference.logits(moved, row, config)
            norm = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
            total += (norm - z[np.arange(len(row)), wanted] + 0.01 * norm**2).sum()
        return total

    loss = assemble.summed_loss(config, ANYWHERE, train=True)
    batch = {'inputs': tokens, 'targets': targets}
    form = assemble.form(config, ANYWHERE)
    gradients = form.leave(jax.jit(jax.grad(lambda p: loss(p, batch, jax.random.key(0))[0]))(form.enter(params)))
    along = sum(float((np.asarray(g) * d).sum()) for g, d in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True
    ))  # fmt: skip
    step = 1e-5
    assert along == pytest.approx((objective(step) - objective(-step)) / (2 * step), rel=1e-4)


def test_bfloat16_stays_within_its_rounding(model_config, tokens):
    config = model_config()
    params, forward = make(config)
    exact = forward(params, tokens)
    for fields in ({'matmul_dtype': 'bfloat16'}, {'matmul_dtype': 'bfloat16', 'activation_dtype': 'bfloat16'}):
        _, rounded = make(dataclasses.replace(config, **fields))
        error = jnp.abs(rounded(params, tokens) - exact).max() / jnp.abs(exact).max()
        assert 0 < error < 0.03  # 8 bits of mantissa over two layers


def reach(config, params, segments=None, positions=None):
    """[L, M]: the largest derivative of the features at L by the embedding of the token at M.

    Every token of the row is another one, so a row of the embedding table is a place of the sequence.
    """
    model = GPT(config, ANYWHERE, train=False)
    row = jnp.arange(16)[None]

    def features(table):
        changed = params | {'embedding': {'table_VD': table}}
        return model.apply({'params': changed}, row, segments, positions).x_BLD[0]

    jacobian = jax.jit(jax.jacobian(features))(params['embedding']['table_VD'])
    return np.abs(np.asarray(jacobian)).max(axis=(1, 3))[:, :16]


@pytest.mark.parametrize('chunk', [0, 4])
def test_no_position_sees_a_later_one(model_config, chunk):
    config = model_config(attention_chunk=chunk)
    seen = reach(config, make(config)[0])
    assert np.all(seen[np.triu_indices(16, 1)] == 0)
    assert np.all(seen[np.tril_indices(16)] > 0)


@pytest.mark.parametrize('chunk', [0, 4])
def test_isolated_documents_do_not_leak_and_equal_documents_alone(model_config, tokens, chunk):
    config = model_config(attention_chunk=chunk)
    params, forward = make(config)
    row = tokens[:1]
    segments = jnp.array([[0] * 5 + [1] * 11])
    positions = jnp.array([list(range(5)) + list(range(11))])
    packed = forward(params, row, segments, positions)
    np.testing.assert_allclose(packed[:, 5:], forward(params, row[:, 5:]), atol=1e-4)
    np.testing.assert_allclose(packed[:, :5], forward(params, row[:, :5]), atol=1e-4)

    seen = reach(config, params, segments, positions)
    assert np.all(seen[5:, :5] == 0)
    assert np.all(seen[5:, 5:][np.tril_indices(11)] > 0)


@pytest.mark.parametrize('fields', [{'scan_layers': True}, {'remat': 'block'}, {'remat': 'dots', 'scan_layers': True},
                                    {'attention_chunk': 4}, {'loss_chunk': 4}])  # fmt: skip
def test_how_it_is_computed_changes_no_number(model_config, tokens, fields):
    def loss_and_gradient(config):
        loss = assemble.summed_loss(config, ANYWHERE, train=True)
        batch = {'inputs': tokens, 'targets': jnp.roll(tokens, -1, axis=1)}
        form = assemble.form(config, ANYWHERE)
        value_and_grad = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0))[0]))
        value, gradients = value_and_grad(form.enter(params))
        return value, form.leave(gradients)

    params, _ = make(model_config())
    expected, got = loss_and_gradient(model_config()), loss_and_gradient(model_config(**fields))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, got)


def test_a_kernel_for_another_device_is_refused(model_config):
    with pytest.raises(UserError, match='cudnn wants an NVIDIA GPU'):
        assemble.declarations(model_config(attention_kernel='cudnn'))


@pytest.mark.parametrize('scan_layers', [False, True])
def test_remat_dots_computes_less_again_than_remat_block(model_config, tokens, scan_layers):
    def flops(remat):
        config = model_config(remat=remat, scan_layers=scan_layers)
        loss, form = assemble.summed_loss(config, ANYWHERE, train=True), assemble.form(config, ANYWHERE)
        batch = {'inputs': tokens, 'targets': tokens}
        params = jax.eval_shape(form.enter, weights.unbox(assemble.declarations(config)))
        gradient = jax.jit(jax.grad(lambda p: loss(p, batch, jax.random.key(0))[0]))
        return gradient.lower(params).compile().cost_analysis()['flops']

    assert flops('none') < flops('dots') < flops('block')


def test_dropout_acts_in_training_alone_and_follows_its_key(model_config, tokens):
    config = model_config(dropout=0.5)
    params, _ = make(config)
    batch = {'inputs': tokens, 'targets': tokens}

    def loss(train, seed):
        return float(assemble.summed_loss(config, ANYWHERE, train=train)(params, batch, jax.random.key(seed))[0])

    assert loss(True, 1) == loss(True, 1) != loss(True, 2)
    assert loss(False, 1) == loss(False, 2)


def test_rms_norm_and_no_biases_and_untied_head(model_config, tokens):
    config = model_config(norm='rms', bias=False, tied_head=False, position='none', activation='squared_relu')
    params, forward = make(config)
    assert forward(params, tokens).shape == (2, 16, 97)
    assert 'bias' not in str(jax.tree.structure(params))
    assert 'head' in params
    assert 'position' not in params


TURNED = {'position': 'rotary', 'rotary_factor': 4.0}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'heads': 5}, 'config.model.heads: 5 heads do not divide the width 32'),
        ({'kv_heads': 3}, 'config.model.kv_heads: 3 does not divide the 4 heads'),
        (TURNED | {'rotary_scaling': 'yarn', 'rotary_base': 1.0}, 'config.model.rotary_base: must be above 1 for yarn'),
        (TURNED | {'rotary_scaling': 'ntk', 'rotary_fraction': 0.25}, 'config.model.rotary_scaling: ntk stretches'),
        ({'layers': -1}, 'config.model.layers: must be positive, got -1'),
        ({'norm': 'layr'}, "config.model.norm: no 'layr'; one of layer, rms; the nearest is 'layer'"),
        ({'dropout': 1.0}, 'config.model.dropout: must be in [0, 1), got 1.0'),
        ({'matmul_dtype': 'float64'}, "config.model.matmul_dtype: no 'float64'; one of float32, bfloat16"),
    ],
)
def test_bad_config_names_the_field(model_config, fields, message):
    with pytest.raises(UserError) as error:
        check_choices(model_config(**fields))
    assert str(error.value).startswith(message)


def test_vocabulary_must_hold_the_tokenizers():
    with pytest.raises(UserError, match=r"vocab_size: 100 is smaller than the tokenizer's 256"):
        resolve({'vocab_size': 100, 'width': 8, 'heads': 2}, vocab_size=256)
