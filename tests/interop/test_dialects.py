"""Is every field of a config.json taken for what it says, or refused by its name?"""

import contextlib
from pathlib import Path

import pytest

from configs import base
from gpt_jax import overrides
from gpt_jax.errors import UserError
from gpt_jax.interop.fields import HARMLESS, NEUTRAL, Fields
from gpt_jax.interop.layouts import LAYOUTS
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.position import frequencies
from tests.interop import golden
from tests.interop.small_models import EXAMPLES

MODEL = overrides.plain(base.get_config())['model']
_TRAINING = {'torch_dtype': 'bfloat16', 'transformers_version': '4.34.0', 'use_cache': True, 'initializer_range': 0.02}
_SUMMARY = {
    'attn_pdrop': 0.1, 'embd_pdrop': 0.1, 'resid_pdrop': 0.1, 'summary_activation': None, 'summary_first_dropout': 0.1,
    'summary_proj_to_labels': True, 'summary_type': 'cls_index', 'summary_use_proj': True, 'initializer_range': 0.02,
    'layer_norm_epsilon': 1e-5,
}  # fmt: skip
# The config.json of published models, in the form that they were published in.
PUBLISHED = {
    'gpt2-xl': ('gpt2', _SUMMARY | {
        'activation_function': 'gelu_new', 'bos_token_id': 50256, 'eos_token_id': 50256, 'n_ctx': 1024, 'n_embd': 1600,
        'n_head': 25, 'n_layer': 48, 'n_positions': 1024, 'vocab_size': 50257, 'output_past': True,
        'task_specific_params': {'text-generation': {'do_sample': True, 'max_length': 50}},
    }, {'width': 1600, 'heads': 25, 'mlp_width': 6400, 'activation': 'gelu', 'context': 1024, 'tied_head': True}),
    'openai-gpt': ('openai-gpt', _SUMMARY | {
        'afn': 'gelu', 'n_ctx': 512, 'n_embd': 768, 'n_head': 12, 'n_layer': 12, 'n_positions': 512, 'n_special': 0,
        'predict_special_tokens': True, 'vocab_size': 40478,
    }, {'block': 'post_norm', 'final_norm': False, 'activation': 'gelu', 'position': 'learned', 'vocab_size': 40478}),
    'Llama-2-7b': ('llama', _TRAINING | {
        'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': 4096, 'intermediate_size': 11008,
        'max_position_embeddings': 4096, 'num_attention_heads': 32, 'num_hidden_layers': 32, 'num_key_value_heads': 32,
        'pretraining_tp': 1, 'rms_norm_eps': 1e-5, 'rope_scaling': None, 'tie_word_embeddings': False,
        'vocab_size': 32000,
    }, {'rotary_base': 1e4, 'rotary_scaling': 'none', 'head_dim': 128, 'norm_epsilon': 1e-5, 'tied_head': False}),
    'Llama-3.2-1B': ('llama', _TRAINING | {
        'attention_bias': False, 'attention_dropout': 0.0, 'bos_token_id': 128000, 'eos_token_id': [128001, 128009],
        'head_dim': 64, 'hidden_act': 'silu', 'hidden_size': 2048, 'intermediate_size': 8192, 'mlp_bias': False,
        'max_position_embeddings': 131072, 'num_attention_heads': 32, 'num_hidden_layers': 16,
        'num_key_value_heads': 8, 'pretraining_tp': 1, 'rms_norm_eps': 1e-5, 'rope_theta': 500000.0,
        'rope_scaling': {
            'factor': 32.0, 'high_freq_factor': 4.0, 'low_freq_factor': 1.0, 'rope_type': 'llama3',
            'original_max_position_embeddings': 8192,
        },
        'tie_word_embeddings': True, 'vocab_size': 128256,
    }, {'rotary_scaling': 'llama3', 'rotary_factor': 32.0, 'rotary_original_context': 8192, 'rotary_base': 5e5,
        'kv_heads': 8, 'tied_head': True, 'bias': False}),
    'Mistral-7B-v0.1': ('mistral', _TRAINING | {
        'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': 4096, 'intermediate_size': 14336,
        'max_position_embeddings': 32768, 'num_attention_heads': 32, 'num_hidden_layers': 32, 'num_key_value_heads': 8,
        'rms_norm_eps': 1e-5, 'rope_theta': 10000.0, 'sliding_window': 4096, 'tie_word_embeddings': False,
        'vocab_size': 32000,
    }, {'attention_pattern': ['window'], 'window': 4096, 'kv_heads': 8}),
    'Mixtral-8x7B': ('mixtral', _TRAINING | {
        'attention_dropout': 0.0, 'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu', 'hidden_size': 4096,
        'intermediate_size': 14336, 'max_position_embeddings': 32768, 'num_attention_heads': 32,
        'num_experts_per_tok': 2, 'num_hidden_layers': 32, 'num_key_value_heads': 8, 'num_local_experts': 8,
        'output_router_logits': False, 'rms_norm_eps': 1e-5, 'rope_theta': 1e6, 'router_aux_loss_coef': 0.02,
        'sliding_window': None, 'tie_word_embeddings': False, 'vocab_size': 32000,
    }, {'feedforward': 'experts', 'experts': 8, 'experts_per_token': 2, 'normalize_experts': True, 'mlp_width': 14336,
        'attention_pattern': ['full'], 'window': 0, 'rotary_base': 1e6, 'capacity_factor': 0.0}),
    'Qwen2.5-0.5B': ('qwen2', _TRAINING | {
        'attention_dropout': 0.0, 'bos_token_id': 151643, 'eos_token_id': 151643, 'hidden_act': 'silu',
        'hidden_size': 896, 'intermediate_size': 4864, 'max_position_embeddings': 32768, 'max_window_layers': 24,
        'num_attention_heads': 14, 'num_hidden_layers': 24, 'num_key_value_heads': 2, 'rms_norm_eps': 1e-6,
        'rope_theta': 1e6, 'sliding_window': 32768, 'tie_word_embeddings': True, 'use_mrope': False,
        'use_sliding_window': False, 'vocab_size': 151936,
    }, {'qkv_bias': True, 'bias': False, 'attention_pattern': ['full'], 'window': 0, 'head_dim': 64}),
    'Qwen3-0.6B': ('qwen3', _TRAINING | {
        'attention_bias': False, 'attention_dropout': 0.0, 'bos_token_id': 151643, 'eos_token_id': 151645,
        'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': 1024, 'intermediate_size': 3072,
        'max_position_embeddings': 40960, 'max_window_layers': 28, 'num_attention_heads': 16, 'num_hidden_layers': 28,
        'num_key_value_heads': 8, 'rms_norm_eps': 1e-6, 'rope_scaling': None, 'rope_theta': 1000000,
        'sliding_window': None, 'tie_word_embeddings': True, 'use_sliding_window': False, 'vocab_size': 151936,
    }, {'qk_norm': True, 'head_dim': 128, 'width': 1024, 'heads': 16, 'qkv_bias': False, 'rotary_base': 1e6}),
    'Qwen3-30B-A3B': ('qwen3_moe', _TRAINING | {
        'attention_bias': False, 'attention_dropout': 0.0, 'bos_token_id': 151643, 'eos_token_id': 151645,
        'decoder_sparse_step': 1, 'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': 2048,
        'intermediate_size': 6144, 'max_position_embeddings': 40960, 'max_window_layers': 48, 'mlp_only_layers': [],
        'moe_intermediate_size': 768, 'norm_topk_prob': True, 'num_attention_heads': 32, 'num_experts': 128,
        'num_experts_per_tok': 8, 'num_hidden_layers': 48, 'num_key_value_heads': 4, 'output_router_logits': False,
        'rms_norm_eps': 1e-6, 'rope_scaling': None, 'rope_theta': 1000000.0, 'router_aux_loss_coef': 0.001,
        'sliding_window': None, 'tie_word_embeddings': False, 'use_sliding_window': False, 'vocab_size': 151936,
    }, {'experts': 128, 'experts_per_token': 8, 'mlp_width': 768, 'qk_norm': True, 'normalize_experts': True}),
}  # fmt: skip


def section(kind, values):
    fields = Fields(Path('config.json'), values)
    fields.raw('model_type')
    fields.raw('architectures')
    return LAYOUTS[kind].dialect.section(fields)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_are_understood(name):
    kind, values, said = PUBLISHED[name]
    made = section(kind, values)
    assert {field: made[field] for field in said} == said


def test_every_layout_says_the_same_fields():
    made = [section(kind, values) for kind, values, _ in PUBLISHED.values()]
    assert all(one.keys() == made[0].keys() for one in made)
    assert {kind for kind, _, _ in PUBLISHED.values()} == LAYOUTS.keys()


REFUSED = [
    ('gpt2', 'scale_attn_weights', False), ('gpt2', 'scale_attn_by_inverse_layer_idx', True),
    ('gpt2', 'reorder_and_upcast_attn', True), ('gpt2', 'activation_function', 'quick_gelu'),
    ('gpt2', 'activation_function', ['gelu']), ('gpt2', 'n_inner', 0), ('gpt2', 'n_inner', True),
    ('gpt2', 'n_head', 5), ('gpt2', 'n_layer', 2.0), ('gpt2', 'n_layer', -1), ('gpt2', 'n_layer', 2**31),
    ('gpt2', 'n_embd', None), ('gpt2', 'vocab_size', '31'), ('gpt2', 'layer_norm_epsilon', 0),
    ('gpt2', 'layer_norm_epsilon', 'small'), ('gpt2', 'tie_word_embeddings', 1), ('gpt2', 'tie_word_embeddings', None),
    ('gpt2', 'add_cross_attention', True), ('gpt2', 'is_encoder_decoder', True), ('gpt2', 'pruned_heads', {'0': [1]}),
    ('gpt2', 'quantization_config', {'quant_method': 'gptq'}), ('gpt2', 'auto_map', {'AutoConfig': 'evil.Config'}),
    ('gpt2', 'hidden_size', 24), ('gpt2', 'brand_new', None), ('gpt2', 'n_lyaer', 3),
    ('openai-gpt', 'afn', 'gelu_new'), ('openai-gpt', 'n_special', 3), ('openai-gpt', 'n_inner', 40),
    ('llama', 'hidden_act', 'swiglu'), ('llama', 'attention_bias', 'yes'), ('llama', 'mlp_bias', True),
    ('llama', 'partial_rotary_factor', 0.5), ('llama', 'sliding_window', 5), ('llama', 'num_key_value_heads', 0),
    ('llama', 'num_key_value_heads', 3), ('llama', 'head_dim', 7), ('llama', 'num_attention_heads', 8),
    ('mixtral', 'num_experts_per_tok', 1), ('mixtral', 'num_experts_per_tok', 5),
    ('llama', 'num_experts', 4), ('llama', 'rope_theta', 10.0), ('llama', 'rope_theta', -1), ('llama', 'head_dim', 0),
    ('llama', 'rope_scaling', 'linear'), ('llama', 'rope_interleaved', False), ('llama', 'num_attention_heads', 7),
    ('llama', 'per_layer_config', {'0': {'head_dim': 4}}), ('llama', 'max_position_embeddings', None),
    ('mistral', 'layer_types', ['full_attention'] * 2), ('mistral', 'sliding_window', 0),
    ('mistral', 'attention_bias', True), ('mixtral', 'num_experts', 3), ('mixtral', 'num_experts_per_tok', 'two'),
    ('qwen2', 'layer_types', ['full_attention']), ('qwen2', 'layer_types', ['full_attention', 'chunked_attention']),
    ('qwen2', 'use_mrope', True), ('qwen2', 'use_sliding_window', 'no'),
    ('qwen3', 'attention_bias', True), ('qwen3', 'head_dim', None), ('qwen3_moe', 'use_sliding_window', True),
    ('qwen3_moe', 'decoder_sparse_step', 2), ('qwen3_moe', 'mlp_only_layers', [0]),
    ('qwen3_moe', 'norm_topk_prob', 'yes'), ('qwen3_moe', 'shared_expert_intermediate_size', 64),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'key', 'value'), REFUSED)
def test_what_the_model_does_not_compute_is_refused_by_name(name, key, value):
    values = golden.read(name)['config'] | {key: value}
    if key == 'num_attention_heads':
        del values['head_dim']
    with pytest.raises(UserError, match=rf'^config\.json: {key}: [^\n]*$'):
        section(EXAMPLES[name][0], values)


ROPES = [
    ({'rope_type': 'dynamic', 'factor': 2.0}, "rope_type: 'dynamic' is not supported"),
    ({'rope_type': 'longrope', 'short_factor': [1]}, "rope_type: 'longrope' is not supported"),
    ({'rope_type': ['linear']}, 'rope_type: .* is not supported'),
    ({'rope_type': 'linear'}, 'factor: missing'),
    ({'rope_type': 'linear', 'factor': 0}, 'factor: wants a number above 0'),
    ({'rope_type': 'linear', 'factor': 0.5}, r'factor: wants a number from 1 up, got 0\.5'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1.0}, r'rope_theta: wants a number above 1 for yarn, got 1\.0'),
    ({'rope_type': 'linear', 'factor': 2.0, 'type': 'yarn'}, "type: 'yarn' contradicts"),
    ({'rope_type': 'linear', 'factor': 2.0, 'mscale': 1.0}, 'mscale: no such field is known'),
    ({'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 2.0, 'high_freq_factor': 4.0}, 'low_freq_factor: 2.0'),
    ({'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0}, 'high_freq_factor: missing'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'beta_fast': 64}, 'beta_fast: 64 is not supported'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'mscale': 0.7}, 'mscale: 0.7 is not supported'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'attention_factor': 1.0}, 'attention_factor: 1.0 is not supported'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'truncate': False}, 'truncate: False is not supported'),
    ({'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 1.5}, 'original_max_position_'),
    ({'rope_type': 'default', 'partial_rotary_factor': 0.5}, 'partial_rotary_factor: 0.5 is not supported'),
    ({'full_attention': {'rope_type': 'default'}}, 'full_attention: rotary positions that differ by layer'),
    ({'rope_type': 'default', 'rope_theta': 'x'}, 'rope_theta: wants a number'),
]


@pytest.mark.parametrize(('said', 'message'), ROPES)
@pytest.mark.parametrize('key', ['rope_parameters', 'rope_scaling'])
def test_rotary_positions_that_the_model_does_not_compute(key, said, message):
    values = {k: v for k, v in golden.read('llama')['config'].items() if k != 'rope_parameters'}
    with pytest.raises(UserError, match=rf'^config\.json: {key}\.{message}'):
        section('llama', values | {key: said})


def test_rotary_positions_said_in_the_old_way_and_the_new():
    values = {k: v for k, v in golden.read('llama')['config'].items() if k != 'rope_parameters'}
    scaling = {'factor': 4.0, 'original_max_position_embeddings': 16, 'attention_factor': 1.1386294361119891}
    old = {'rope_theta': 7.0, 'rope_scaling': {'type': 'yarn', **scaling}}
    new = {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 7.0, **scaling}}
    made = section('llama', values | old)
    assert made['rotary_scaling'] == 'yarn'
    assert made == section('llama', values | new) == section('llama', values | old | new)
    assert section('llama', values)['rotary_base'] == 10_000
    other = {'rope_scaling': {'type': 'linear', 'factor': 4.0}}
    with pytest.raises(UserError, match=r'rope_scaling: .* contradicts rope_parameters'):
        section('llama', values | new | other)
    with pytest.raises(UserError, match=r'rope_theta: stands there with different values: \[7\.0, 8\.0\]'):
        section('llama', values | new | {'rope_theta': 8.0})


def test_what_is_absent_is_what_transformers_takes_it_for():
    mistral = {k: v for k, v in golden.read('mistral')['config'].items() if k != 'sliding_window'}
    assert section('mistral', mistral)['window'] == 4096
    assert section('mistral', mistral | {'sliding_window': None})['window'] == 0
    qwen = {k: v for k, v in golden.read('qwen2')['config'].items() if k != 'layer_types'}
    assert section('qwen2', qwen)['attention_pattern'] == ['full', 'window']
    assert section('qwen2', qwen | {'max_window_layers': 0})['attention_pattern'] == ['window']
    with pytest.raises(UserError, match='has sliding layers, and use_sliding_window is false'):
        section('qwen2', golden.read('qwen2')['config'] | {'use_sliding_window': False})
    llama = {k: v for k, v in golden.read('llama')['config'].items() if k != 'num_key_value_heads'}
    assert section('llama', llama)['kv_heads'] == 4
    for key in ('hidden_size', 'vocab_size', 'num_hidden_layers', 'max_position_embeddings'):
        with pytest.raises(UserError, match=f'{key}: missing'):
            section('llama', {k: v for k, v in llama.items() if k != key})


def test_no_field_that_decides_anything_is_called_harmless():
    taken = set()
    for name in EXAMPLES:
        fields = Fields(Path('config.json'), golden.read(name)['config'])
        fields.raw('model_type')
        fields.raw('architectures')
        LAYOUTS[EXAMPLES[name][0]].dialect.section(fields)
        taken |= fields.taken
    assert not taken & HARMLESS
    assert not NEUTRAL.keys() & HARMLESS


@pytest.mark.parametrize('name', ['gpt2', 'openai-gpt', 'llama3', 'mistral', 'mixtral', 'qwen2', 'qwen3_moe'])
def test_nonsense_is_refused_in_one_line_or_taken(name):
    """Whatever stands in a field: never a traceback, and never a model that is none."""
    values = golden.read(name)['config']
    for key in (*values, 'rope_theta', 'rope_scaling', 'num_experts', 'layer_types', 'head_dim'):
        for value in (None, True, -1, 0, 1, 3, 7, 1.5, 2**40, 1e308, 'x', '', [], [1], {}, {'x': 1}, [[]]):
            made = None
            with contextlib.suppress(UserError):
                made = section(EXAMPLES[name][0], values | {key: value})
            if made is not None:  # nothing is left that would be refused by our own name for it
                frequencies(ModelConfig(**resolve(MODEL | made, 1)))
