"""The config.json of Gemma 2."""

from typing import Any

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import (
    ACTIVATIONS,
    FULL_ATTENTION,
    MIXED_ATTENTION,
    WINDOW_ATTENTION,
    ConfigFormat,
    ConfigReader,
    ConfigValues,
)
from gpt_jax.interop.hf_llama import (
    LLAMA_FIXED,
    read_common,
    read_layer_kinds,
    read_window,
    write_common,
    write_layer_kinds,
)

SIZE, WINDOW = 256, 4096  # defaults of head_dim and query_pre_attn_scalar, and of sliding_window


def _read_gemma2(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    reader.require('use_bidirectional_attention', None, False)
    layers = reader.get_int('num_hidden_layers')
    kinds = read_layer_kinds(reader, ['full' if n % 2 else 'window' for n in range(layers)])
    return (
        read_common(reader, head_dim=SIZE, activation=('hidden_activation', 'gelu'), tied=True)
        | read_window(reader, kinds, WINDOW)
        | {
            'attention_scale_dim': reader.get_int('query_pre_attn_scalar', SIZE),
            'attention_softcap': _read_softcap(reader, 'attn_logit_softcapping', 50.0),
            'logit_softcap': _read_softcap(reader, 'final_logit_softcapping', 30.0),
        }
    )


def _read_softcap(reader: ConfigReader, key: str, default: Any) -> float:
    return 0.0 if reader.get(key, default) is None else reader.get_positive(key, default)


def _write_gemma2(model_config: ModelConfig) -> ConfigValues:
    values = write_common(model_config) | write_layer_kinds(model_config)
    return values | {
        'hidden_activation': values.pop('hidden_act'),
        'attention_bias': False,
        'query_pre_attn_scalar': model_config.attention_scale_dim,
        'attn_logit_softcapping': model_config.attention_softcap or None,
        'final_logit_softcapping': model_config.logit_softcap or None,
        'use_bidirectional_attention': None,
    }


_ANY = ('attention_softcap', 'logit_softcap')
GEMMA2 = ConfigFormat(
    fixed={
        **{field: allowed for field, allowed in LLAMA_FIXED.items() if field not in _ANY},
        'block': ('sandwich_norm',),
        'norm': ('zero_centered_rms',),
        'scale_embedding': (True,),
        'activation': ('gelu', *ACTIVATIONS.values()),
    },
    checks={
        'attention_scale_dim': lambda config: config.attention_scale_dim > 0,  # any
        'heads': lambda config: config.width % config.heads == 0,  # transformers requires it
    },
    attention=(MIXED_ATTENTION, FULL_ATTENTION, WINDOW_ATTENTION),
    read=_read_gemma2,
    write=_write_gemma2,
)
