"""The config.json of GPT-NeoX, the architecture of the Pythia models."""

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
from gpt_jax.interop.hf_rope import ROPE_TYPES, read_rope, write_rope

BLOCKS = {True: 'parallel_two_norms', False: 'pre_norm'}  # by use_parallel_residual


def _read(reader: ConfigReader) -> ConfigValues:
    section = read_sizes(reader)
    reader.require('head_dim', None, section['head_dim'])  # rotary positions would read it
    context = reader.get_int('max_position_embeddings')
    rope = read_rope(
        reader, context, 10_000.0, base_key='rotary_emb_base', fraction_key='rotary_pct'
    )
    rotated = int(section['head_dim'] * rope['rotary_fraction'])
    if rotated == 0 or rotated % 2:
        raise reader.make_error(
            'rotary_pct',
            f"must rotate an even number of a head's {section['head_dim']} dims, got {rotated}",
        )
    reader.require('attention_bias', True)
    return {
        **section,
        **rope,
        'block': BLOCKS[reader.get_bool('use_parallel_residual', True)],
        'mlp_width': reader.get_int('intermediate_size'),
        'norm_epsilon': reader.get_positive('layer_norm_eps', 1e-5),
        'activation': reader.get_choice('hidden_act', ACTIVATIONS, 'gelu'),
        'tied_head': reader.get_bool('tie_word_embeddings', False),
    }


def _write(model_config: ModelConfig) -> ConfigValues:
    fraction = model_config.rotary_fraction
    rope = write_rope(model_config)
    return {
        'rotary_emb_base': rope.pop('rope_theta'),
        'rotary_pct': fraction,
        'rope_scaling': rope['rope_scaling'],
        'rope_parameters': rope['rope_parameters'] | {'partial_rotary_factor': fraction},
        'num_hidden_layers': model_config.layers,
        'hidden_size': model_config.width,
        'num_attention_heads': model_config.heads,
        'intermediate_size': model_config.mlp_width,
        'vocab_size': model_config.vocab_size,
        'max_position_embeddings': model_config.context,
        'layer_norm_eps': model_config.norm_epsilon,
        'hidden_act': hf_name(ACTIVATIONS, model_config.activation),
        'use_parallel_residual': model_config.block == BLOCKS[True],
        'attention_bias': True,
        'tie_word_embeddings': model_config.tied_head,
        'attention_dropout': 0.0,
        'hidden_dropout': model_config.dropout,
        'initializer_range': model_config.init_std,
    }


GPT_NEOX = ConfigFormat(
    fixed={
        **UNSUPPORTED_FEATURES,
        'block': tuple(BLOCKS.values()),
        'final_norm': (True,),
        'norm': ('layer',),
        'position': ('rotary',),
        'rotary_scaling': tuple(ROPE_TYPES.values()),
        'feedforward': ('mlp',),
        'bias': (True,),
        'qk_norm': (False,),
        'activation': tuple(ACTIVATIONS.values()),
    },
    checks={
        'kv_heads': lambda config: config.kv_heads == config.heads,
        'head_dim': lambda config: config.head_dim * config.heads == config.width,
    },
    attention=(FULL_ATTENTION,),
    read=_read,
    write=_write,
)
