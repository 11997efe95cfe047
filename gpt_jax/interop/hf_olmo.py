"""The config.json of OLMo 2 and OLMo 3."""

import functools

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import (
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
from gpt_jax.interop.hf_rope import read_layer_rope, write_layer_rope

OLMO3_BASE = 500_000.0


def _read_olmo2(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    return read_common(reader, epsilon=1e-5, kv_heads=None)


def _read_olmo3(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    layers = reader.get_int('num_hidden_layers')
    kinds = read_layer_kinds(reader, ['window' if n % 4 < 3 else 'full' for n in range(layers)])
    if 'window' in kinds and reader.get('rope_parameters') is None:
        # Versions of transformers differ in whether another base is that of window layers too.
        reader.require('rope_theta', None, OLMO3_BASE)
    positions = functools.partial(_read_olmo3_rope, kinds=kinds)
    return read_common(reader, read_positions=positions, epsilon=1e-5, kv_heads=None) | read_window(
        reader, kinds, 4096
    )


def _read_olmo3_rope(reader: ConfigReader, context: int, *, kinds: list[str]) -> ConfigValues:
    return read_layer_rope(reader, kinds, context, (OLMO3_BASE, OLMO3_BASE), '')


def _write_olmo2(model_config: ModelConfig) -> ConfigValues:
    return write_common(model_config) | {'attention_bias': False}


def _write_olmo3(model_config: ModelConfig) -> ConfigValues:
    return {
        **_write_olmo2(model_config),
        **write_layer_kinds(model_config),
        **write_layer_rope(model_config),
    }


OLMO2 = ConfigFormat(
    fixed={
        **LLAMA_FIXED,
        'block': ('output_norm',),
        'qk_norm': (True,),
        'qk_norm_per_head': (False,),
    },
    checks={},
    attention=(FULL_ATTENTION,),
    read=_read_olmo2,
    write=_write_olmo2,
)
OLMO3 = OLMO2._replace(
    checks={'window_rotary_base': lambda config: config.window_rotary_base >= 0},  # any
    attention=(MIXED_ATTENTION, FULL_ATTENTION, WINDOW_ATTENTION),
    read=_read_olmo3,
    write=_write_olmo3,
)
