"""Expected FLOPs, cache bytes and activation bytes against the compiled program."""

import pytest

from gpt_jax.core import model_counts
from gpt_jax.preflight.model_cost import count_activation_bytes, explain_flops
from tests.model import compiled
from tests.model.architectures import ARCHITECTURES
from tests.preflight.test_hlo import count_program_flops

DENSE = {'attention_chunk': 8}
GATED = {'feedforward': 'gated', 'kv_heads': 2, 'attention_chunk': 4, 'vocab_multiple': 64}


@pytest.mark.parametrize(
    ('fields', 'remat'),
    [
        (DENSE, 'none'),
        (DENSE, 'block'),
        (GATED, 'dots'),
        *(
            pytest.param(fields, remat, marks=pytest.mark.slow)
            for fields, remat in ((DENSE, 'dots'), (GATED, 'none'), (GATED, 'block'))
        ),
    ],
)
def test_reasons_add_up_to_the_compiled_flops(model_config, fields, remat):
    config = model_config(width=64, scan_layers=True, remat=remat, **fields)
    flops, _ = count_program_flops(compiled.compile_gradient(config, 4).as_text())
    reasons = explain_flops(config)
    assert reasons['model'] == model_counts.flops_per_token(config)['with_attention']
    assert flops / (4 * config.context) == pytest.approx(sum(reasons.values()), rel=0.02)


@pytest.mark.parametrize('fields', [DENSE, GATED])
def test_remat_dots_recomputes_less_than_remat_block(model_config, fields):
    none, dots, block = (
        explain_flops(model_config(width=64, remat=remat, **fields))['rematerialization']
        for remat in ('none', 'dots', 'block')
    )
    assert 0 == none < dots < block


def count_temporaries(config, batch):
    """Bytes that the compiled gradient needs on top of its inputs and outputs."""
    return compiled.compile_gradient(config, batch).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ('name', 'remat'),
    [('gpt2', 'none'), ('experts', 'dots'), pytest.param('llama', 'dots', marks=pytest.mark.slow)],
)
def test_activations_of_a_layer_are_what_it_adds_to_the_compiled_program(model_config, name, remat):
    """The total of both programs also contains working memory, which is the same in both."""
    shape = {'width': 64, 'scan_layers': True, 'remat': remat}
    two, four = (model_config(**ARCHITECTURES[name] | shape | {'layers': n}) for n in (2, 4))
    counted = count_activation_bytes(two, 8)
    expected = count_activation_bytes(four, 8) - counted
    temporaries = count_temporaries(two, 8)
    assert count_temporaries(four, 8) - temporaries == pytest.approx(expected, rel=0.01)
    assert temporaries > counted


def test_a_remat_policy_saves_the_products_or_only_the_inputs_of_blocks(model_config):
    """In units of one activation [B, L, D] in its dtype; vectors of norms and softmax are left out.

    With 'dots' they are the input; query, key, value; the output of attention; the hidden units.
    """
    per_layer = {}
    for remat in ('none', 'dots', 'block'):
        one, two = (
            count_activation_bytes(
                model_config(layers=layers, remat=remat, activation_dtype='bfloat16'), 4
            )
            for layers in (1, 2)
        )
        per_layer[remat] = (two - one) / (4 * 16 * 32 * 2)
    assert per_layer['block'] == 1
    assert per_layer['dots'] == 1 + 3 + 1 + 4
    assert per_layer['none'] > 2 * per_layer['dots']


def test_activations_are_proportional_to_the_batch(model_config):
    config = model_config(layers=1, dropout=0.1)
    one, two, three = (count_activation_bytes(config, rows) for rows in (1, 2, 3))
    assert three - two == two - one > 0
