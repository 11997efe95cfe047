"""The closed forms equal the real parameter trees, compiled programs and published totals."""

import functools
import itertools

import jax
import pytest

from gpt_jax.core import model_counts, trees
from gpt_jax.model import weights
from gpt_jax.model.mask import visible_keys
from gpt_jax.train import build
from tests.model import compiled
from tests.model.architectures import ARCHITECTURES, EXPERTS, MODERN

# Every combination of any three of the six fields: the last two follow from the other four.
FIELDS = [
    {
        'layers': 1,
        'norm': ('layer', 'rms')[a],
        'bias': bool(b),
        'tied_head': bool(c),
        'position': ('learned', 'none')[d],
        'kv_heads': (4, 1)[a ^ b ^ c],
        'vocab_multiple': (1, 64)[b ^ c ^ d],
    }
    for a, b, c, d in itertools.product((0, 1), repeat=4)
]
EMBEDDING = ('embedding', 'position', 'head')


declare_params = functools.cache(build.declare_params)


@pytest.mark.parametrize('fields', [*FIELDS, *ARCHITECTURES.values()], ids=str)
def test_parameters_equal_the_tree(model_config, fields):
    config = model_config(**fields)
    tree = weights.unbox(declare_params(config))
    counts = model_counts.parameters(config)
    assert counts['padded_total'] == trees.count_elements(tree)
    assert counts['non_embedding'] == sum(
        trees.count_elements(part) for name, part in tree.items() if name not in EMBEDDING
    )
    assert counts['total'] - counts['without_positions'] == trees.count_elements(
        tree.get('position', {})
    )


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_the_letters_of_every_weight_are_its_dims(model_config, name):
    config = model_config(**ARCHITECTURES[name])
    boxed = declare_params(config)
    letters, arrays = weights.logical_axes(boxed), weights.unbox(boxed)
    shapes = jax.tree.map(lambda word: tuple(config.dims[letter] for letter in word), letters)
    assert jax.tree.leaves(letters)
    assert shapes == jax.tree.map(lambda array: array.shape, arrays)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_active_parameters_leave_out_unused_experts(model_config, name):
    config = model_config(**ARCHITECTURES[name])
    counts, blocks = (
        model_counts.parameters(config),
        weights.unbox(declare_params(config))['blocks'],
    )
    routed = {
        key: a
        for key, a in blocks['feedforward'].items()
        if config.experts and key in ('gate', 'up', 'down')
    }
    unused = sum(
        leaf.size * (config.experts - config.experts_per_token) // config.experts
        for leaf in routed.values()
    )
    assert (
        counts['total'] - counts['active']
        == counts['non_embedding'] - counts['active_non_embedding']
        == unused
    )
    assert (unused > 0) == (config.feedforward == 'experts')


def test_gpt2_flops_per_token(model_config):
    config = model_config(layers=12, width=768, heads=12, vocab_size=50_257, context=1_024)
    assert model_counts.parameters(config)['total'] == 124_439_808
    flops = model_counts.flops_per_token(config)
    assert (flops['6N'], flops['with_attention'], flops['causal']) == (
        741_920_256,
        855_166_464,
        798_543_360,
    )


@pytest.mark.parametrize(('window', 'context'), [(1, 16), (5, 16), (16, 16), (40, 16), (5, 4)])
def test_a_window_costs_the_keys_in_it(model_config, window, context):
    """A full and a window layer of 4 heads of 8; a query with itself counts as half a pair."""
    config = model_config(attention_pattern=('full', 'window'), window=window)
    flops = model_counts.flops_per_token(config, context)
    pairs = [
        sum(min(query + 1, keys) - 0.5 for query in range(context))
        for keys in (context, min(window, context))
    ]
    # The far end of the window cuts off another half pair per query.
    pairs[1] += 0.0 if window >= context else 0.5 * (context - window)
    assert flops['with_attention'] - flops['6N'] == 12 * 32 * (context + min(window, context))
    assert flops['causal'] - flops['6N'] == pytest.approx(12 * 32 * sum(pairs) / context, abs=1)


def compiled_flops(config, batch):
    """The compiler's FLOPs per token, elementwise work included."""
    return compiled.compile_gradient(config, batch).cost_analysis()['flops'] / (
        batch * config.context
    )


# Experts with a capacity of their fair share: the FLOPs of a loop would be counted once.
@pytest.mark.parametrize(
    'fields',
    [
        {'layers': 2},
        MODERN | {'kv_heads': 2},
        EXPERTS | {'experts': 4, 'mlp_width': 256, 'shared_experts': 1, 'capacity_factor': 1.0},
    ],
    ids=['dense', 'gated, grouped', 'experts'],
)
def test_flops_equal_the_compiled_program(model_config, fields):
    config = model_config(**{'layers': 1, 'width': 256, 'vocab_size': 512, 'context': 128} | fields)
    assert compiled_flops(config, 4) == pytest.approx(
        model_counts.flops_per_token(config)['with_attention'], rel=0.02
    )


def test_a_window_saves_flops_of_the_compiled_program(model_config):
    chunk, shape = 16, {'layers': 1, 'width': 64, 'heads': 1, 'context': 64, 'attention_chunk': 16}
    full, narrow = (
        compiled_flops(model_config(**shape | fields), 1)
        for fields in ({}, {'attention_pattern': ('window',), 'window': 16})
    )
    starts = range(0, 64, chunk)
    visited = [
        sum(len(visible_keys(range(n, n + chunk), window)) for n in starts) / len(starts)
        for window in (64, 16)
    ]
    assert full - narrow == pytest.approx(12 * 64 * (visited[0] - visited[1]), rel=0.05)
