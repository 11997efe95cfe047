"""Are the closed forms the real counts?"""

import itertools

import pytest

from gpt_jax import assemble, trees
from gpt_jax.model import accounting, weights
from gpt_jax.model.mask import visible_keys
from tests.model import compiled
from tests.model.architectures import ARCHITECTURES, EXPERTS, MODERN

FIELDS = [
    dict(zip(('norm', 'bias', 'tied_head', 'position', 'kv_heads', 'vocab_multiple'), values, strict=True))
    for values in itertools.product(
        ('layer', 'rms'), (True, False), (True, False), ('learned', 'none'), (4, 1), (1, 64)
    )
]
EMBEDDING = ('embedding', 'position', 'head')


@pytest.mark.parametrize('fields', [*FIELDS, *ARCHITECTURES.values()], ids=str)
def test_parameters_equal_the_tree(model_config, fields):
    config = model_config(**fields)
    tree = weights.unbox(assemble.declarations(config))
    counts = accounting.parameters(config)
    assert counts['padded_total'] == trees.size(tree)
    assert counts['non_embedding'] == sum(trees.size(part) for name, part in tree.items() if name not in EMBEDDING)
    assert counts['total'] - counts['without_positions'] == trees.size(tree.get('position', {}))


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_active_parameters_are_all_but_the_experts_that_a_token_does_not_take(model_config, name):
    config = model_config(**ARCHITECTURES[name])
    counts, blocks = accounting.parameters(config), weights.unbox(assemble.declarations(config))['blocks']
    routed = {key: a for key, a in blocks['feedforward'].items() if config.experts and key in ('gate', 'up', 'down')}
    idle = sum(leaf.size * (config.experts - config.experts_per_token) // config.experts for leaf in routed.values())
    assert counts['total'] - counts['active'] == counts['non_embedding'] - counts['active_non_embedding'] == idle
    assert (idle > 0) == (config.feedforward == 'experts')


def test_gpt2_flops_per_token(model_config):
    config = model_config(layers=12, width=768, heads=12, vocab_size=50_257, context=1_024)
    assert accounting.parameters(config)['total'] == 124_439_808
    flops = accounting.flops_per_token(config)
    assert (flops['6N'], flops['with_attention'], flops['causal']) == (741_920_256, 855_166_464, 798_543_360)


@pytest.mark.parametrize(('window', 'context'), [(1, 16), (5, 16), (16, 16), (40, 16), (5, 4)])
def test_a_window_costs_the_keys_in_it(model_config, window, context):
    """A full layer and a window layer of 4 heads of 8; a query and itself count half a pair, as in half of a square."""
    config = model_config(attention_pattern=('full', 'window'), window=window)
    flops = accounting.flops_per_token(config, context)
    pairs = [sum(min(query + 1, keys) - 0.5 for query in range(context)) for keys in (context, min(window, context))]
    # Half a query's own key again: at the window's far end, that the triangle of the first queries cuts.
    pairs[1] += 0.0 if window >= context else 0.5 * (context - window)
    assert flops['with_attention'] - flops['6N'] == 12 * 32 * (context + min(window, context))
    assert flops['causal'] - flops['6N'] == pytest.approx(12 * 32 * sum(pairs) / context, abs=1)


def compiled_flops(config, batch):
    """The compiler's count of every product, and of the smaller work around them, per token."""
    return compiled.gradient(config, batch).cost_analysis()['flops'] / (batch * config.context)


# Of experts the form with a capacity of the fair share, as a loop's FLOPs are counted once.
@pytest.mark.parametrize(
    'fields',
    [{}, MODERN | {'kv_heads': 2}, EXPERTS | {'experts': 4, 'mlp_width': 256, 'shared_experts': 1,
                                              'capacity_factor': 1.0}],
    ids=['dense', 'gated, grouped', 'experts'],
)  # fmt: skip
def test_flops_equal_the_compiled_program(model_config, fields):
    config = model_config(**{'layers': 2, 'width': 256, 'vocab_size': 512, 'context': 128} | fields)
    assert compiled_flops(config, 4) == pytest.approx(accounting.flops_per_token(config)['with_attention'], rel=0.02)


def test_a_window_saves_the_compiled_program_the_keys_that_it_does_not_visit(model_config):
    chunk, shape = 8, {'layers': 1, 'width': 64, 'heads': 1, 'context': 64, 'attention_chunk': 8}
    full, narrow = (compiled_flops(model_config(**shape | fields), 1) for fields in (
        {}, {'attention_pattern': ('window',), 'window': 16}
    ))  # fmt: skip
    starts = range(0, 64, chunk)
    visited = [sum(len(visible_keys(range(n, n + chunk), window)) for n in starts) / len(starts) for window in (64, 16)]
    assert full - narrow == pytest.approx(12 * 64 * (visited[0] - visited[1]), rel=0.05)
