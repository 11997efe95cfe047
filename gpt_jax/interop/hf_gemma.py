"""The config.json of Gemma 2 and of the text models of Gemma 3."""

import functools
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
from gpt_jax.interop.hf_rope import read_layer_rope, read_rope, write_layer_rope

SIZE, WINDOW = 256, 4096  # defaults of head_dim and query_pre_attn_scalar, and of sliding_window


def _read_gemma(
    reader: ConfigReader, pattern: int, softcap: Any, read_positions: Any
) -> ConfigValues:
    """Read the fields of both versions.

    Args:
      pattern: every how many-th layer has full attention if `layer_types` is absent.
      softcap: the default of the logits' soft cap.
      read_positions: reads the rotary positions from the reader, the context and the kinds.
    """
    reader.require('attention_bias', False)
    reader.require('use_bidirectional_attention', None, False)
    layers = reader.get_int('num_hidden_layers')
    kinds = read_layer_kinds(
        reader, ['window' if (n + 1) % pattern else 'full' for n in range(layers)]
    )
    common = read_common(
        reader,
        head_dim=SIZE,
        activation=('hidden_activation', 'gelu'),
        tied=True,
        read_positions=functools.partial(read_positions, kinds=kinds),
    )
    return {
        **common,
        **read_window(reader, kinds, WINDOW),
        'attention_scale_dim': reader.get_int('query_pre_attn_scalar', SIZE),
        'logit_softcap': _read_softcap(reader, 'final_logit_softcapping', softcap),
    }


def _read_gemma2(reader: ConfigReader) -> ConfigValues:
    section = _read_gemma(reader, 2, 30.0, _read_gemma2_rope)
    softcap = _read_softcap(reader, 'attn_logit_softcapping', 50.0)
    return section | {'attention_softcap': softcap}


def _read_gemma2_rope(reader: ConfigReader, context: int, kinds: list[str]) -> ConfigValues:
    del kinds  # all layers have the same positions
    return read_rope(reader, context)


def _read_gemma3(reader: ConfigReader) -> ConfigValues:
    # transformers has the field, but attention does not apply it.
    reader.require('attn_logit_softcapping', None)
    pattern = reader.get_int('sliding_window_pattern', 6)
    reader.get('_sliding_window_pattern')  # written too, but not read by transformers
    return _read_gemma(reader, pattern, None, _read_gemma3_rope)


def _read_gemma3_rope(reader: ConfigReader, context: int, kinds: list[str]) -> ConfigValues:
    bases = 1_000_000.0, 10_000.0
    return read_layer_rope(reader, kinds, context, bases, 'rope_local_base_freq')


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


def _write_gemma3(model_config: ModelConfig) -> ConfigValues:
    base = model_config.window_rotary_base or model_config.rotary_base
    values = _write_gemma2(model_config) | write_layer_rope(model_config)
    return values | {'rope_local_base_freq': base}


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
GEMMA3 = GEMMA2._replace(
    fixed={**GEMMA2.fixed, 'qk_norm': (True,), 'attention_softcap': (0.0,)},
    checks={
        **GEMMA2.checks,
        'window_rotary_base': lambda config: config.window_rotary_base >= 0,  # any
    },
    read=_read_gemma3,
    write=_write_gemma3,
)
