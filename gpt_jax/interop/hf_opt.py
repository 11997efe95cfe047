"""The config.json of OPT.

OPT-350m, whose embedding is narrower than the model, is not supported.
"""

from gpt_jax.core.config import ModelConfig
from gpt_jax.interop.hf_config import (
    ACTIVATIONS,
    FULL_ATTENTION,
    UNSUPPORTED_FEATURES,
    ConfigFormat,
    ConfigReader,
    ConfigValues,
    hf_name,
    read_sizes,
)

NORM_EPSILON = 1e-5  # of PyTorch's LayerNorm; config.json does not have it


def _read(reader: ConfigReader) -> ConfigValues:
    section = read_sizes(reader)
    width = section['width']
    if reader.get('word_embed_proj_dim') not in (None, width):
        raise reader.make_error(
            'word_embed_proj_dim',
            f'an embedding that is not as wide as the model, {width}, is not supported, '
            f'got {reader.get("word_embed_proj_dim")!r}',
        )
    reader.require('enable_bias', True)
    reader.require('layer_norm_elementwise_affine', True)
    for unused in ('dropout', 'layerdrop', 'init_std'):  # of training
        reader.get(unused)
    norm_first = reader.get_bool('do_layer_norm_before', True)
    without_last = reader.get_bool('_remove_final_layer_norm', False)
    return section | {
        'block': 'pre_norm' if norm_first else 'post_norm',
        'final_norm': norm_first and not without_last,
        'mlp_width': reader.get_int('ffn_dim'),
        'context': reader.get_int('max_position_embeddings'),
        'norm_epsilon': NORM_EPSILON,
        'activation': reader.get_choice('activation_function', ACTIVATIONS, 'relu'),
        'tied_head': reader.get_bool('tie_word_embeddings', True),
    }


def _write(model_config: ModelConfig) -> ConfigValues:
    norm_first = model_config.block == 'pre_norm'
    return {
        'num_hidden_layers': model_config.layers,
        'hidden_size': model_config.width,
        'word_embed_proj_dim': model_config.width,
        'num_attention_heads': model_config.heads,
        'ffn_dim': model_config.mlp_width,
        'vocab_size': model_config.vocab_size,
        'max_position_embeddings': model_config.context,
        'activation_function': hf_name(ACTIVATIONS, model_config.activation),
        'do_layer_norm_before': norm_first,
        '_remove_final_layer_norm': norm_first and not model_config.final_norm,
        'enable_bias': True,
        'layer_norm_elementwise_affine': True,
        'tie_word_embeddings': model_config.tied_head,
        'dropout': model_config.dropout,
        'attention_dropout': 0.0,
        'layerdrop': 0.0,
        'init_std': model_config.init_std,
    }


OPT = ConfigFormat(
    fixed={
        **UNSUPPORTED_FEATURES,
        'block': ('pre_norm', 'post_norm'),
        'final_norm': (True, False),
        'norm': ('layer',),
        'norm_epsilon': (NORM_EPSILON,),
        'position': ('learned',),
        'feedforward': ('mlp',),
        'bias': (True,),
        'qk_norm': (False,),
        'activation': ('relu', *ACTIVATIONS.values()),
    },
    checks={
        'kv_heads': lambda config: config.kv_heads == config.heads,
        'head_dim': lambda config: config.head_dim * config.heads == config.width,
        'final_norm': lambda config: config.block == 'pre_norm' or not config.final_norm,
    },
    attention=(FULL_ATTENTION,),
    read=_read,
    write=_write,
)
