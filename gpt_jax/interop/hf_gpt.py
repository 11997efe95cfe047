"""The config.json of GPT-1 and GPT-2."""

from collections.abc import Callable, Mapping
from typing import Any

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import (
    ACTIVATIONS,
    FULL_ATTENTION,
    UNSUPPORTED_FEATURES,
    ConfigFormat,
    ConfigReader,
    ConfigValues,
    hf_name,
)

# In GPT-1's config.json, 'gelu' is the tanh approximation.
OPENAI_ACTIVATIONS = {'gelu': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}


# Other names of fields, which transformers accepts too.
ALIASES = {
    'hidden_size': 'n_embd',
    'num_attention_heads': 'n_head',
    'num_hidden_layers': 'n_layer',
    'max_position_embeddings': 'n_positions',
}


def _read_gpt(reader: ConfigReader) -> ConfigValues:
    width, heads = reader.get_int('n_embd'), reader.get_int('n_head')
    if width % heads:
        raise reader.make_error('n_head', f'must divide the width {width}, got {heads}')
    for alias, key in ALIASES.items():
        reader.require_alias(alias, key)
    return {
        'layers': reader.get_int('n_layer'),
        'width': width,
        'heads': heads,
        'kv_heads': heads,
        'head_dim': width // heads,
        'mlp_width': 4 * width,
        'vocab_size': reader.get_int('vocab_size'),
        'context': reader.get_int('n_positions'),
        'norm_epsilon': reader.get_positive('layer_norm_epsilon', 1e-5),
        'tied_head': reader.get_bool('tie_word_embeddings', True),
    }


def _read_gpt2(reader: ConfigReader) -> ConfigValues:
    reader.get_bool('reorder_and_upcast_attn', False)  # another order of the same products
    section = _read_gpt(reader)
    return section | {
        # Scores that are not scaled are divided by the root of 1.
        'attention_scale_dim': 0 if reader.get_bool('scale_attn_weights', True) else 1,
        'attention_layer_scaling': reader.get_bool('scale_attn_by_inverse_layer_idx', False),
        'mlp_width': reader.get_int('n_inner', section['mlp_width']),
        'activation': reader.get_choice('activation_function', ACTIVATIONS, 'gelu_new'),
    }


def _read_openai(reader: ConfigReader) -> ConfigValues:
    return _read_gpt(reader) | {'activation': reader.get_choice('afn', OPENAI_ACTIVATIONS, 'gelu')}


def _write_gpt(model_config: ModelConfig) -> ConfigValues:
    return {
        'n_layer': model_config.layers,
        'n_embd': model_config.width,
        'n_head': model_config.heads,
        'n_positions': model_config.context,
        'vocab_size': model_config.vocab_size,
        'layer_norm_epsilon': model_config.norm_epsilon,
        'tie_word_embeddings': model_config.tied_head,
        'embd_pdrop': model_config.dropout,
        'resid_pdrop': model_config.dropout,
        'attn_pdrop': 0.0,
        'initializer_range': model_config.init_std,
    }


def _write_gpt2(model_config: ModelConfig) -> ConfigValues:
    has_default_width = model_config.mlp_width == 4 * model_config.width
    return _write_gpt(model_config) | {
        'n_inner': None if has_default_width else model_config.mlp_width,
        'activation_function': hf_name(ACTIVATIONS, model_config.activation),
        'scale_attn_weights': model_config.attention_scale_dim == model_config.head_dim,
        'scale_attn_by_inverse_layer_idx': model_config.attention_layer_scaling,
    }


def _write_openai(model_config: ModelConfig) -> ConfigValues:
    return _write_gpt(model_config) | {'afn': hf_name(OPENAI_ACTIVATIONS, model_config.activation)}


_GPT: Mapping[str, tuple[Any, ...]] = {
    **UNSUPPORTED_FEATURES,
    'norm': ('layer',),
    'position': ('learned',),
    'feedforward': ('mlp',),
    'bias': (True,),
    'qk_norm': (False,),
}
_CHECKS: Mapping[str, Callable[[ModelConfig], bool]] = {
    'kv_heads': lambda config: config.kv_heads == config.heads,
    'head_dim': lambda config: config.head_dim * config.heads == config.width,
}
GPT2 = ConfigFormat(
    fixed={
        **_GPT,
        'block': ('pre_norm',),
        'final_norm': (True,),
        'activation': ('gelu', *ACTIVATIONS.values()),
        'attention_layer_scaling': (False, True),
    },
    checks={
        **_CHECKS,
        'attention_scale_dim': lambda config: config.attention_scale_dim in (1, config.head_dim),
    },
    attention=(FULL_ATTENTION,),
    read=_read_gpt2,
    write=_write_gpt2,
)
OPENAI = ConfigFormat(
    fixed={
        **_GPT,
        'block': ('post_norm',),
        'final_norm': (False,),
        'activation': tuple(OPENAI_ACTIVATIONS.values()),
    },
    checks={**_CHECKS, 'mlp_width': lambda config: config.mlp_width == 4 * config.width},
    attention=(FULL_ATTENTION,),
    read=_read_openai,
    write=_write_openai,
)
