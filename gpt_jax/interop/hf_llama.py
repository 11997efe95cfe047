"""The config.json of Llama and its relatives: Mistral, Mixtral, Qwen 2 and Qwen 3."""

from collections.abc import Callable, Mapping
from typing import Any

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import (
    ACTIVATIONS,
    FULL_ATTENTION,
    LAYER_TYPES,
    MIXED_ATTENTION,
    REQUIRED,
    UNSUPPORTED_FEATURES,
    WINDOW_ATTENTION,
    ConfigFormat,
    ConfigReader,
    ConfigValues,
    hf_name,
)
from gpt_jax.interop.hf_rope import ROPE_TYPES, read_rope, write_rope

ReadPositions = Callable[[ConfigReader, int], ConfigValues]


def read_common(
    reader: ConfigReader,
    *,
    read_positions: ReadPositions | None = None,
    epsilon: float = 1e-6,
    kv_heads: Any = REQUIRED,
    head_dim: Any = None,
    activation: tuple[str, str] = ('hidden_act', 'silu'),
    tied: bool = False,
) -> ConfigValues:
    """Read the fields that all of these models have.

    The keywords are the layout's defaults; of the activation, the name of the field and ours.
    `read_positions` reads the rotary positions from the reader and the context.
    """
    width, heads = reader.get_int('hidden_size'), reader.get_int('num_attention_heads')
    context = reader.get_int('max_position_embeddings')
    is_derived = head_dim is None and reader.get('head_dim') is None
    if is_derived and width % heads:
        raise reader.make_error(
            'num_attention_heads', f'must divide the width {width}, got {heads}'
        )
    default_dim = REQUIRED if head_dim is None else head_dim
    head_dim = width // heads if is_derived else reader.get_int('head_dim', default_dim)
    if head_dim % 2:
        raise reader.make_error(
            'num_attention_heads' if is_derived else 'head_dim',
            f'heads must have an even number of dims for rotary positions, got {head_dim}',
        )
    has_kv_heads = reader.get('num_key_value_heads', kv_heads) is not None
    kv_heads = reader.get_int('num_key_value_heads') if has_kv_heads else heads
    if heads % kv_heads:
        raise reader.make_error(
            'num_key_value_heads', f'must divide the {heads} heads, got {kv_heads}'
        )
    positions = (read_positions or read_rope)(reader, context)
    return positions | {
        'layers': reader.get_int('num_hidden_layers'),
        'width': width,
        'heads': heads,
        'kv_heads': kv_heads,
        'head_dim': head_dim,
        'mlp_width': reader.get_int('intermediate_size'),
        'vocab_size': reader.get_int('vocab_size'),
        'norm_epsilon': reader.get_positive('rms_norm_eps', epsilon),
        'activation': reader.get_choice(
            activation[0], ACTIVATIONS, hf_name(ACTIVATIONS, activation[1])
        ),
        'tied_head': reader.get_bool('tie_word_embeddings', tied),
    }


def _read_llama(reader: ConfigReader) -> ConfigValues:
    bias = reader.get_bool('attention_bias', False)
    if reader.get_bool('mlp_bias', False) != bias:
        raise reader.make_error(
            'mlp_bias', f'must equal attention_bias, which is {bias}, got {not bias}'
        )
    return read_common(reader, kv_heads=None) | {'bias': bias}


def _read_mistral(reader: ConfigReader) -> ConfigValues:
    return read_common(reader) | _read_one_window(reader, 4096)


def _read_one_window(reader: ConfigReader, default: int | None) -> ConfigValues:
    """Read the sliding window, which all layers have or none."""
    if reader.get('sliding_window', default) is None:
        return {}
    return {'attention_pattern': ['window'], 'window': reader.get_int('sliding_window', default)}


def _read_mixtral_rope(reader: ConfigReader, context: int) -> ConfigValues:
    return read_rope(reader, context, 1e6)


def _read_mixtral(reader: ConfigReader) -> ConfigValues:
    return (
        read_common(reader, read_positions=_read_mixtral_rope, epsilon=1e-5)
        | _read_one_window(reader, None)
        | _read_experts(reader, experts=8, per_token=2, normalized=True)
    )


def _read_experts(
    reader: ConfigReader, *, experts: Any, per_token: Any, normalized: bool
) -> ConfigValues:
    """Read the numbers of experts.

    transformers 5 writes `num_local_experts` for the older `num_experts` too.

    Args:
      experts, per_token: the layout's defaults.
      normalized: whether the weights of the chosen experts sum to 1.
    """
    names = [name for name in ('num_local_experts', 'num_experts') if reader.get(name) is not None]
    counts = [reader.get_int(name, experts) for name in names or ['num_local_experts']]
    if len(set(counts)) > 1:
        raise reader.make_error(
            'num_experts', f'{counts[1]} contradicts num_local_experts {counts[0]}'
        )
    per_token = reader.get_int('num_experts_per_tok', per_token)
    if per_token > counts[0]:
        raise reader.make_error(
            'num_experts_per_tok', f'must be at most the {counts[0]} experts, got {per_token}'
        )
    if per_token == 1 and normalized:
        raise reader.make_error(
            'num_experts_per_tok', '1 is not supported: the normalized weight would always be 1'
        )
    return {'experts': counts[0], 'experts_per_token': per_token, 'normalize_experts': normalized}


def _read_qwen2(reader: ConfigReader) -> ConfigValues:
    return read_common(reader) | _read_qwen_layers(reader)


def _read_qwen3(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    return read_common(reader, head_dim=REQUIRED) | _read_qwen_layers(reader)


def _read_qwen3_moe(reader: ConfigReader) -> ConfigValues:
    reader.require('attention_bias', False)
    reader.require('use_sliding_window', False)
    reader.require('decoder_sparse_step', 1)
    reader.require('mlp_only_layers', None, [])
    for unused in ('sliding_window', 'max_window_layers'):
        reader.get(unused)
    normalized = reader.get_bool('norm_topk_prob', False)
    experts = _read_experts(reader, experts=REQUIRED, per_token=8, normalized=normalized)
    mlp_width = reader.get_int('moe_intermediate_size')
    return read_common(reader) | experts | {'mlp_width': mlp_width}


def _read_qwen_layers(reader: ConfigReader) -> ConfigValues:
    """Read which layers have a window: from a list, or all from `max_window_layers` on."""
    layers = reader.get_int('num_hidden_layers')
    uses_window = reader.get_bool('use_sliding_window', False)
    first = reader.get_int('max_window_layers', 28, minimum=0)
    kinds = read_layer_kinds(
        reader, ['window' if uses_window and n >= first else 'full' for n in range(layers)]
    )
    if 'window' in kinds and not uses_window:
        raise reader.make_error(
            'layer_types', 'has sliding layers, but use_sliding_window is false'
        )
    return read_window(reader, kinds, 4096)


def read_layer_kinds(reader: ConfigReader, default: list[str]) -> list[str]:
    """Read the kind of each layer's attention from `layer_types`, with our names."""
    layer_types, layers = reader.get('layer_types'), len(default)
    if layer_types is None:
        return default
    if (
        isinstance(layer_types, list)
        and len(layer_types) == layers
        and all(kind in LAYER_TYPES for kind in layer_types)
    ):
        return [LAYER_TYPES[kind] for kind in layer_types]
    raise reader.make_error(
        'layer_types', f'must be {layers} of {", ".join(LAYER_TYPES)}, got {layer_types!r}'
    )


def read_window(reader: ConfigReader, kinds: list[str], default: int) -> ConfigValues:
    """Read the window of the layers of kind 'window'; unused if there are none."""
    window = reader.get('sliding_window', default)
    if 'window' not in kinds:
        return {}
    if window is None:
        raise reader.make_error('sliding_window', 'must be set, since some layers are sliding')
    return {
        'attention_pattern': _shorten_pattern(kinds),
        'window': reader.get_int('sliding_window', default),
    }


def _shorten_pattern(kinds: list[str]) -> list[str]:
    """Return the shortest pattern that gives these kinds when repeated."""
    for length in range(1, len(kinds)):
        if all(kind == kinds[n % length] for n, kind in enumerate(kinds)):
            return kinds[:length]
    return kinds


def write_layer_kinds(model_config: ModelConfig) -> ConfigValues:
    """Return the fields that `read_layer_kinds` and `read_window` read."""
    return {
        'sliding_window': model_config.window or None,
        'layer_types': [hf_name(LAYER_TYPES, kind) for kind in model_config.layer_kinds],
    }


def write_common(model_config: ModelConfig) -> ConfigValues:
    return write_rope(model_config) | {
        'num_hidden_layers': model_config.layers,
        'hidden_size': model_config.width,
        'num_attention_heads': model_config.heads,
        'num_key_value_heads': model_config.kv_heads,
        'head_dim': model_config.head_dim,
        'intermediate_size': model_config.mlp_width,
        'vocab_size': model_config.vocab_size,
        'max_position_embeddings': model_config.context,
        'rms_norm_eps': model_config.norm_epsilon,
        'hidden_act': hf_name(ACTIVATIONS, model_config.activation),
        'tie_word_embeddings': model_config.tied_head,
        'attention_dropout': 0.0,
        'initializer_range': model_config.init_std,
    }


def _write_llama(model_config: ModelConfig) -> ConfigValues:
    bias = model_config.bias
    return write_common(model_config) | {'attention_bias': bias, 'mlp_bias': bias}


def _write_mistral(model_config: ModelConfig) -> ConfigValues:
    return write_common(model_config) | {'sliding_window': model_config.window or None}


def _write_mixtral(model_config: ModelConfig) -> ConfigValues:
    return _write_mistral(model_config) | {
        'num_local_experts': model_config.experts,
        'num_experts_per_tok': model_config.experts_per_token,
    }


def _write_qwen2(model_config: ModelConfig) -> ConfigValues:
    return {
        **write_common(model_config),
        **write_layer_kinds(model_config),
        'use_sliding_window': model_config.window > 0,
        'max_window_layers': model_config.layers,
    }


def _write_qwen3(model_config: ModelConfig) -> ConfigValues:
    return _write_qwen2(model_config) | {'attention_bias': False}


def _write_qwen3_moe(model_config: ModelConfig) -> ConfigValues:
    return write_common(model_config) | {
        'moe_intermediate_size': model_config.mlp_width,
        'num_experts': model_config.experts,
        'num_experts_per_tok': model_config.experts_per_token,
        'norm_topk_prob': model_config.normalize_experts,
        'decoder_sparse_step': 1,
        'mlp_only_layers': [],
        'attention_bias': False,
        'use_sliding_window': False,
        'sliding_window': None,
    }


LLAMA_FIXED: Mapping[str, tuple[Any, ...]] = {
    **UNSUPPORTED_FEATURES,
    'block': ('pre_norm',),
    'final_norm': (True,),
    'norm': ('rms',),
    'position': ('rotary',),
    'rotary_fraction': (1.0,),
    'rotary_scaling': tuple(ROPE_TYPES.values()),
    'feedforward': ('gated',),
    'bias': (False,),
    'qkv_bias': (False,),
    'qk_norm': (False,),
    'activation': tuple(ACTIVATIONS.values()),
}
_EXPERTS: Mapping[str, tuple[Any, ...]] = {'feedforward': ('experts',), 'shared_experts': (0,)}
LLAMA = ConfigFormat(
    fixed={**LLAMA_FIXED, 'bias': (False, True)},
    checks={'heads': lambda config: config.width % config.heads == 0},  # transformers requires it
    attention=(FULL_ATTENTION,),
    read=_read_llama,
    write=_write_llama,
)
MISTRAL = ConfigFormat(
    fixed=LLAMA_FIXED,
    checks={},
    attention=(WINDOW_ATTENTION, FULL_ATTENTION),
    read=_read_mistral,
    write=_write_mistral,
)
MIXTRAL = ConfigFormat(
    fixed={**LLAMA_FIXED, **_EXPERTS, 'normalize_experts': (True,)},
    checks={},
    attention=(FULL_ATTENTION, WINDOW_ATTENTION),
    read=_read_mixtral,
    write=_write_mixtral,
)
QWEN2 = ConfigFormat(
    fixed={**LLAMA_FIXED, 'qkv_bias': (True,)},
    checks={},
    attention=(FULL_ATTENTION, WINDOW_ATTENTION, MIXED_ATTENTION),
    read=_read_qwen2,
    write=_write_qwen2,
)
QWEN3 = QWEN2._replace(
    fixed={**LLAMA_FIXED, 'qk_norm': (True,)}, read=_read_qwen3, write=_write_qwen3
)
QWEN3_MOE = ConfigFormat(
    fixed={**LLAMA_FIXED, **_EXPERTS, 'qk_norm': (True,)},
    checks={},
    attention=(FULL_ATTENTION,),
    read=_read_qwen3_moe,
    write=_write_qwen3_moe,
)
