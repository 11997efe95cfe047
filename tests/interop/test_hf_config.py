"""Every field of a config.json is used or rejected by its name."""

import contextlib
import copy
from pathlib import Path

import numpy as np
import pytest

from gpt_jax import base_config
from gpt_jax.core.config import ModelConfig, resolve_model, to_raw
from gpt_jax.core.config_fields import from_dict
from gpt_jax.core.errors import UserError
from gpt_jax.interop.hf_config import FIXED_FIELDS, IGNORED_FIELDS, ConfigReader
from gpt_jax.interop.layouts import LAYOUTS
from gpt_jax.model.position import rotary_frequencies
from tests.interop import golden
from tests.interop.published_configs import PUBLISHED
from tests.interop.small_models import EXAMPLES

MODEL = to_raw(base_config())['model']


def read_section(model_type, values):
    return read_with(make_reader(values), model_type)


def make_reader(values):
    reader = ConfigReader(Path('config.json'), values)
    reader.get('model_type')
    reader.get('architectures')
    return reader


def read_with(reader, model_type):
    return LAYOUTS[model_type].config_format.read_model_section(reader)


@pytest.mark.parametrize('name', PUBLISHED)
def test_configs_of_published_models(name):
    model_type, values, expected = PUBLISHED[name]
    section = read_section(model_type, values)
    assert {field: section[field] for field in expected} == expected


def test_every_layout_sets_the_same_fields():
    sections = [read_section(model_type, values) for model_type, values, _ in PUBLISHED.values()]
    assert all(section.keys() == sections[0].keys() for section in sections)
    assert {model_type for model_type, _, _ in PUBLISHED.values()} == LAYOUTS.keys()


UNSUPPORTED = [
    ('gpt2', 'scale_attn_weights', 'no'),
    ('gpt2', 'scale_attn_by_inverse_layer_idx', 1),
    ('gpt2', 'reorder_and_upcast_attn', None),
    ('gpt2', 'activation_function', 'quick_gelu'),
    ('gpt2', 'activation_function', ['gelu']),
    ('gpt2', 'n_inner', 0),
    ('gpt2', 'n_inner', True),
    ('gpt2', 'n_head', 5),
    ('gpt2', 'n_layer', 2.0),
    ('gpt2', 'n_layer', -1),
    ('gpt2', 'n_layer', 2**31),
    ('gpt2', 'n_embd', None),
    ('gpt2', 'vocab_size', '31'),
    ('gpt2', 'layer_norm_epsilon', 0),
    ('gpt2', 'layer_norm_epsilon', 'small'),
    ('gpt2', 'tie_word_embeddings', 1),
    ('gpt2', 'tie_word_embeddings', None),
    ('gpt2', 'add_cross_attention', True),
    ('gpt2', 'is_encoder_decoder', True),
    ('gpt2', 'pruned_heads', {'0': [1]}),
    ('llama', 'transformers_weights', 'other.safetensors'),
    ('gpt2', 'quantization_config', {'quant_method': 'gptq'}),
    ('gpt2', 'hidden_size', 25),
    ('openai-gpt', 'afn', 'gelu_new'),
    ('gpt_neox', 'attention_bias', False),
    ('gpt_neox', 'use_parallel_residual', 1),
    ('gpt_neox', 'rotary_pct', 1.5),
    ('gpt_neox', 'rotary_pct', 0.5),
    ('gpt_neox', 'rotary_pct', 0),
    ('gpt_neox', 'rotary_emb_base', 0),
    ('gpt_neox', 'head_dim', 8),
    ('gpt_neox', 'sliding_window', 8),
    ('opt', 'word_embed_proj_dim', 12),
    ('opt', 'enable_bias', False),
    ('opt', 'layer_norm_elementwise_affine', False),
    ('opt', 'do_layer_norm_before', None),
    ('llama', 'hidden_act', 'swiglu'),
    ('llama', 'attention_bias', 'yes'),
    ('llama', 'mlp_bias', True),
    ('llama', 'partial_rotary_factor', 0.5),
    ('llama', 'sliding_window', 5),
    ('llama', 'num_key_value_heads', 0),
    ('llama', 'num_key_value_heads', 3),
    ('llama', 'head_dim', 7),
    ('llama', 'num_attention_heads', 8),
    ('mixtral', 'num_experts_per_tok', 1),
    ('mixtral', 'num_experts_per_tok', 5),
    ('llama', 'rope_theta', 10.0),
    ('llama', 'rope_theta', -1),
    ('llama', 'head_dim', 0),
    ('llama', 'rope_scaling', 'linear'),
    ('llama', 'num_attention_heads', 7),
    ('llama', 'per_layer_config', {'0': {'head_dim': 4}}),
    ('llama', 'max_position_embeddings', None),
    ('mistral', 'sliding_window', 0),
    ('mixtral', 'num_experts', 3),
    ('mixtral', 'num_experts_per_tok', 'two'),
    ('qwen2', 'layer_types', ['full_attention']),
    ('qwen2', 'layer_types', ['full_attention', 'chunked_attention']),
    ('qwen2', 'use_sliding_window', 'no'),
    ('qwen3', 'attention_bias', True),
    ('qwen3', 'head_dim', None),
    ('gemma2', 'attention_bias', True),
    ('gemma2', 'use_bidirectional_attention', True),
    ('gemma2', 'query_pre_attn_scalar', 0),
    ('gemma2', 'attn_logit_softcapping', 0.0),
    ('gemma2', 'final_logit_softcapping', 'no'),
    ('gemma2', 'sliding_window', None),
    ('gemma2', 'layer_types', ['sliding_attention']),
    ('qwen2', 'sliding_window', None),
    ('gemma3_text', 'attn_logit_softcapping', 50.0),
    ('gemma3_text', 'use_bidirectional_attention', True),
    ('gemma3_text', 'sliding_window_pattern', 0),
    ('olmo3', 'attention_bias', True),
    ('olmo3', 'sliding_window', 0),
    ('olmo3', 'rope_theta', 7.0),
    ('olmo2', 'attention_bias', True),
    ('olmo2', 'sliding_window', 8),
    ('qwen3_moe', 'use_sliding_window', True),
    ('qwen3_moe', 'decoder_sparse_step', 2),
    ('qwen3_moe', 'mlp_only_layers', [0]),
    ('qwen3_moe', 'norm_topk_prob', 'yes'),
]


@pytest.mark.parametrize(('name', 'key', 'value'), UNSUPPORTED)
def test_unsupported_values_are_rejected_by_name(name, key, value):
    values = golden.read_golden(name)['config'] | {key: value}
    if key.startswith('rotary_'):
        del values['rope_parameters']
    if key == 'num_attention_heads':
        del values['head_dim']
    with pytest.raises(UserError, match=rf'^config\.json: {key}: [^\n]*$'):
        read_section(EXAMPLES[name][0], values)


UNSUPPORTED_ROPE = [
    ({'rope_type': 'dynamic', 'factor': 2.0}, "rope_type: 'dynamic' is not supported"),
    ({'rope_type': 'longrope', 'short_factor': [1]}, "rope_type: 'longrope' is not supported"),
    ({'rope_type': ['linear']}, 'rope_type: .* is not supported'),
    ({'rope_type': 'linear'}, 'factor: missing'),
    ({'rope_type': 'linear', 'factor': 0}, 'factor: must be a number above 0'),
    ({'rope_type': 'linear', 'factor': 0.5}, r'factor: must be at least 1, got 0\.5'),
    (
        {'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1.0},
        r'rope_theta: must be above 1 for yarn, got 1\.0',
    ),
    ({'rope_type': 'linear', 'factor': 2.0, 'type': 'yarn'}, "type: 'yarn' contradicts"),
    ({'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0}, 'high_freq_factor: missing'),
    (
        {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 4.0, 'high_freq_factor': 4.0},
        'llama3: must stretch slow pairs',
    ),
    ({'rope_type': 'yarn', 'factor': 4.0, 'beta_fast': 'x'}, 'beta_fast: must be a number'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'truncate': False}, 'truncate: False is not supported'),
    (
        {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 1.5},
        'original_max_position_',
    ),
    (
        {'rope_type': 'default', 'partial_rotary_factor': 0.5},
        'partial_rotary_factor: 0.5 is not supported',
    ),
    (
        {'full_attention': {'rope_type': 'default'}},
        'full_attention: rotary positions that differ by layer',
    ),
    ({'rope_type': 'default', 'rope_theta': 'x'}, 'rope_theta: must be a number'),
]


@pytest.mark.parametrize(('rope', 'message'), UNSUPPORTED_ROPE)
@pytest.mark.parametrize('key', ['rope_parameters', 'rope_scaling'])
def test_unsupported_rotary_positions(key, rope, message):
    values = {
        k: v for k, v in golden.read_golden('llama')['config'].items() if k != 'rope_parameters'
    }
    with pytest.raises(UserError, match=rf'^config\.json: {key}\.{message}'):
        read_section('llama', values | {key: rope})


def test_old_and_new_form_of_rotary_positions():
    values = {
        k: v for k, v in golden.read_golden('llama')['config'].items() if k != 'rope_parameters'
    }
    scaling = {
        'factor': 4.0,
        'original_max_position_embeddings': 16,
        'attention_factor': 1.1386294361119891,
    }
    old = {'rope_theta': 7.0, 'rope_scaling': {'type': 'yarn', **scaling}}
    new = {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 7.0, **scaling}}
    section = read_section('llama', values | old)
    assert section['rotary_scaling'] == 'yarn'
    assert section == read_section('llama', values | new)
    assert section == read_section('llama', values | old | new)
    assert read_section('llama', values)['rotary_base'] == 10_000
    other = {'rope_scaling': {'type': 'linear', 'factor': 4.0}}
    with pytest.raises(UserError, match=r'rope_scaling: .* contradicts rope_parameters'):
        read_section('llama', values | new | other)
    with pytest.raises(UserError, match=r'rope_theta: has contradictory values: \[7\.0, 8\.0\]'):
        read_section('llama', values | new | {'rope_theta': 8.0})


def test_absent_fields_have_the_defaults_of_transformers():
    mistral = {
        k: v for k, v in golden.read_golden('mistral')['config'].items() if k != 'sliding_window'
    }
    assert read_section('mistral', mistral)['window'] == 4096
    assert read_section('mistral', mistral | {'sliding_window': None})['window'] == 0
    qwen = {k: v for k, v in golden.read_golden('qwen2')['config'].items() if k != 'layer_types'}
    assert read_section('qwen2', qwen)['attention_pattern'] == ['full', 'window']
    neox = {
        k: v for k, v in golden.read_golden('gpt_neox')['config'].items() if k != 'rope_parameters'
    }
    neox |= {'num_attention_heads': 3}
    assert read_section('gpt_neox', neox)['rotary_fraction'] == 0.25
    assert read_section('gpt_neox', neox)['block'] == 'parallel_two_norms'
    gpt2 = golden.read_golden('gpt2')['config']
    assert read_section('gpt2', gpt2 | {'reorder_and_upcast_attn': True}) == read_section(
        'gpt2', gpt2
    )
    assert read_section('qwen2', qwen | {'max_window_layers': 0})['attention_pattern'] == ['window']
    with pytest.raises(UserError, match='has sliding layers, but use_sliding_window is false'):
        read_section('qwen2', golden.read_golden('qwen2')['config'] | {'use_sliding_window': False})
    llama = {
        k: v for k, v in golden.read_golden('llama')['config'].items() if k != 'num_key_value_heads'
    }
    assert read_section('llama', llama)['kv_heads'] == 4
    for key in ('hidden_size', 'vocab_size', 'num_hidden_layers', 'max_position_embeddings'):
        with pytest.raises(UserError, match=f'{key}: missing'):
            read_section('llama', {k: v for k, v in llama.items() if k != key})


def test_positions_by_kind_of_layer():
    """The old and the new form, and what transformers' class makes of the old one."""
    transformers = pytest.importorskip('transformers')
    names = ('rotary_base', 'rotary_scaling', 'rotary_factor', 'window_rotary_base')
    for name in ('gemma3_text', 'olmo3'):
        values = golden.read_golden(name)['config']
        plain = {k: v for k, v in values.items() if k != 'rope_parameters'}
        scaling = {'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}}
        for old in ({}, scaling):
            config = transformers.CONFIG_MAPPING[name](**copy.deepcopy(plain | old))
            read, reread = (
                read_section(name, plain | form)
                for form in (old, {'rope_parameters': config.rope_parameters})
            )
            assert read == reread, name
            full, window = (
                config.rope_parameters[f'{kind}_attention'] for kind in ('full', 'sliding')
            )
            scaling_type = full['rope_type'].replace('default', 'none')
            assert [read[field] for field in names] == [
                full['rope_theta'],
                scaling_type,
                full.get('factor', 1.0),
                window['rope_theta'] if full != window else 0.0,
            ]
    plain = {
        k: v
        for k, v in golden.read_golden('gemma3_text')['config'].items()
        if k != 'rope_parameters'
    }
    same = {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 7.0}
    both = {'full_attention': same, 'sliding_attention': same}
    section = read_section('gemma3_text', plain | {'rope_parameters': both})
    assert [section[field] for field in names] == [7.0, 'linear', 2.0, 0.0]
    for rope, message in (
        (both | {'sliding_attention': same | {'factor': 3.0}}, 'sliding_attention.rope_type: must'),
        (both | {'rope_theta': 7.0}, r'rope_theta: must be in one of full_attention, sliding'),
        (both | {'full_attention': 7}, 'full_attention: must be an object or null'),
    ):
        with pytest.raises(UserError, match=message):
            read_section('gemma3_text', plain | {'rope_parameters': rope})


def test_no_field_that_is_used_is_in_ignored_fields():
    read_keys = set()
    for name, (model_type, _) in EXAMPLES.items():
        reader = make_reader(golden.read_golden(name)['config'])
        read_with(reader, model_type)
        read_keys |= reader.read_keys
    assert not read_keys & IGNORED_FIELDS
    assert not FIXED_FIELDS.keys() & IGNORED_FIELDS


@pytest.mark.parametrize(
    'name',
    [
        'gpt2',
        'openai-gpt',
        'gpt_neox',
        'opt',
        'llama3',
        'mistral',
        'mixtral',
        'qwen2',
        'qwen3_moe',
        'olmo2',
        'olmo3',
        'gemma2',
        'gemma3_text',
    ],
)
def test_any_value_is_rejected_or_gives_a_valid_model(name):
    values = golden.read_golden(name)['config']
    for key in (*values, 'rope_theta', 'rope_scaling', 'num_experts', 'layer_types', 'head_dim'):
        for value in (
            None,
            True,
            -1,
            0,
            1,
            3,
            7,
            1.5,
            2**40,
            1e308,
            'x',
            '',
            [],
            [1],
            {},
            {'x': 1},
            [[]],
        ):
            section = None
            with contextlib.suppress(UserError):
                section = read_section(EXAMPLES[name][0], values | {key: value})
            if section is not None:  # the config accepts what the reader accepted
                model_values = resolve_model(MODEL | section, 1)
                rotary_frequencies(from_dict(ModelConfig, model_values, 'model'))


UNKNOWN = [
    ('gpt2', {'_num_labels': 1, 'hidden_size': 24}, ['_num_labels']),  # distilgpt2
    ('gpt2', {'n_lyaer': 3, 'brand_new': None}, ['brand_new', 'n_lyaer']),
    ('llama', {'is_llama_config': True, 'rope_interleaved': False}, None),  # SmolLM2
    ('llama', {'unsloth_fixed': True, '_attn_implementation_autoset': True}, None),
    ('llama', {'max_sequence_length': 512, 'num_experts': 4}, None),
    ('llama', {'sliding_window': None, 'layer_types': ['full_attention'] * 2}, []),
    ('mistral', {'attention_bias': True}, None),
    ('openai-gpt', {'n_inner': 40, 'n_special': 0}, None),
    ('gpt_neox', {'rope_theta': 7, 'layer_norm_epsilon': 1, 'num_key_value_heads': 2}, None),
    ('opt', {'activation_dropout': 0.1, 'layer_norm_eps': 1e-6}, None),
    ('olmo2', {'clip_qkv': 8.0}, None),
    ('gemma2', {'hidden_act': 'silu', 'cache_implementation': 'hybrid'}, None),
    ('qwen2', {'use_mrope': False}, None),
    ('llama', {'rope_scaling': {'rope_type': 'linear', 'factor': 2.0, 'beta_fast': 1}}, ['x']),
]


@pytest.mark.parametrize(('model_type', 'fields', 'expected'), UNKNOWN)
def test_fields_that_the_class_does_not_have_are_named(model_type, fields, expected):
    values = golden.read_golden(model_type)['config']
    known = make_reader(values)
    replaced = ('rope_parameters',) if 'rope_scaling' in fields else ()
    reader = make_reader({k: v for k, v in values.items() if k not in replaced} | fields)
    section = read_with(reader, model_type)
    if 'rope_scaling' in fields:
        assert reader.unknown == ['rope_scaling.beta_fast']
        return
    assert section == read_with(known, model_type)
    assert known.unknown == []
    assert reader.unknown == (sorted(fields) if expected is None else expected)


@pytest.mark.parametrize('model_type', LAYOUTS)
def test_every_field_of_the_class_of_transformers_is_known(model_type):
    """A field that the class has is read, ignored as harmless or rejected, but never 'unknown'."""
    transformers = pytest.importorskip('transformers')
    hf_config = transformers.CONFIG_MAPPING[model_type]()
    fields = {*hf_config.to_dict(), *hf_config.attribute_map}
    reader = make_reader(golden.read_golden(model_type)['config'])
    read_with(reader, model_type)
    internal = {name for name in fields if name.startswith('_')}
    assert fields - internal - reader.read_keys - IGNORED_FIELDS - FIXED_FIELDS.keys() == set()


YARN = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 64}


@pytest.mark.parametrize(
    'rope',
    [
        YARN,
        YARN | {'attention_factor': 1.25},
        YARN | {'mscale': 1.0, 'mscale_all_dim': 1.0},
        YARN | {'mscale': 0.707, 'mscale_all_dim': 1.0},
        YARN | {'mscale': 0.707},
        YARN | {'beta_fast': 16, 'beta_slow': 2},
        YARN | {'beta_fast': 0, 'beta_slow': None},
        {
            'rope_type': 'llama3',
            'factor': 8.0,
            'low_freq_factor': 2.0,
            'high_freq_factor': 5.0,
            'original_max_position_embeddings': 64,
        },
    ],
    ids=str,
)
def test_frequencies_and_magnitude_are_those_of_transformers(rope):
    transformers = pytest.importorskip('transformers')
    rope_utils = pytest.importorskip('transformers.modeling_rope_utils')
    values = golden.read_golden('llama')['config'] | {'hidden_size': 128, 'head_dim': 32}
    values |= {'rope_parameters': rope | {'rope_theta': 500.0}, 'max_position_embeddings': 256}
    section = read_section('llama', values)
    model = from_dict(ModelConfig, resolve_model(MODEL | section, 1), 'model')
    hf_config = transformers.LlamaConfig(**values)
    theirs, magnitude = rope_utils.ROPE_INIT_FUNCTIONS[rope['rope_type']](hf_config, 'cpu')
    ours, our_magnitude = rotary_frequencies(model)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
    assert our_magnitude == pytest.approx(magnitude, rel=1e-12)
    written = LAYOUTS['llama'].config_format.write(model)
    assert read_section('llama', written) == section


def test_yarn_of_a_model_card_makes_the_longer_context_usable():
    """Qwen's recipe adds rope_scaling to config.json and leaves max_position_embeddings."""
    values = golden.read_golden('qwen2')['config'] | {'max_position_embeddings': 64}
    values.pop('rope_parameters', None)
    recipe = {'type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 64}
    assert read_section('qwen2', values)['context'] == 64
    assert read_section('qwen2', values | {'rope_scaling': recipe})['context'] == 256
