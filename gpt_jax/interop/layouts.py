"""Hugging Face weight names and layouts: a table per kind of model, used in both directions.

To add an architecture: write its `ConfigFormat` (which fields of config.json are read, and what
they must be) in a file hf_NAME.py after the pattern of hf_llama.py, its WeightMappings here, and
one row of LAYOUTS under its model_type. huggingface.py needs no change: it finds the row by
model_type, names the fields that were not read (hf_config.py), and refuses a folder with a tensor
that is not mapped, except BUFFERS and a head that equals the embedding it is tied to.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from gpt_jax.interop import hf_gemma, hf_gpt, hf_llama, hf_neox, hf_olmo, hf_opt
from gpt_jax.interop.hf_config import ConfigFormat
from gpt_jax.interop.weight_mapping import WeightMapping

HEAD_TENSOR, NEOX_HEAD = 'lm_head.weight', 'embed_out.weight'
FUSED_EXPERTS = 'experts.gate_up_proj'
# Ends of the names of buffers in old files: constants that the model computes itself.
BUFFERS = re.compile(
    r'(.*\.)?((attn|attention)\.(masked_)?bias|position_ids|rotary_emb\.(inv_freq|(cos|sin)_cached))'
)


class WeightLayout(NamedTuple):
    """One kind of Hugging Face folder.

    Attributes:
      config_format: format of its config.json.
      architecture: the class in its `architectures`.
      headless_architecture: the class without the language model head.
      prefix: prefix of all tensor names but the head's, if they were saved with the head.
      mappings: mappings of its tensors.
      fused_mappings: mappings of a folder whose experts are in one tensor; () without experts.
      head: name of the head's tensor.
    """

    config_format: ConfigFormat
    architecture: str
    headless_architecture: str
    prefix: str
    mappings: tuple[WeightMapping, ...]
    fused_mappings: tuple[WeightMapping, ...] = ()
    head: str = HEAD_TENSOR


def _map(path: str, name: str, letters: str) -> WeightMapping:
    return WeightMapping((path,), name, (letters,))


def _map_linear(
    path: str, name: str, letters: str, bias_letters: str
) -> tuple[WeightMapping, WeightMapping]:
    """Map a matrix and its bias."""
    return (
        _map(path, f'{name}.weight', letters),
        _map(f'{path}_bias', f'{name}.bias', bias_letters),
    )


def _map_fused_qkv(name: str) -> tuple[WeightMapping, WeightMapping]:
    """Map query, key and value, concatenated in one matrix, and their biases in one vector."""
    paths = tuple(f'blocks/attention/{part}' for part in ('query', 'key', 'value'))
    biases = tuple(f'{path}_bias' for path in paths)
    return (
        WeightMapping(paths, f'{name}.weight', ('D HK', 'D GK', 'D GK')),
        WeightMapping(biases, f'{name}.bias', ('HK', 'GK', 'GK')),
    )


def _map_norm(path: str, name: str) -> tuple[WeightMapping, WeightMapping]:
    return (_map(f'{path}/scale', f'{name}.weight', 'D'), _map(f'{path}/bias', f'{name}.bias', 'D'))


def _map_gpt(embedding: str, positions: str) -> tuple[WeightMapping, ...]:
    block, attention, feedforward = 'transformer.h.{n}', 'blocks/attention', 'blocks/feedforward'
    return (
        _map('embedding/table_VD', f'transformer.{embedding}.weight', 'V D'),
        _map('position/table', f'transformer.{positions}.weight', 'L D'),
        *_map_norm('blocks/norm_1', f'{block}.ln_1'),
        *_map_fused_qkv(f'{block}.attn.c_attn'),
        *_map_linear(f'{attention}/output', f'{block}.attn.c_proj', 'HK D', 'D'),
        *_map_norm('blocks/norm_2', f'{block}.ln_2'),
        *_map_linear(f'{feedforward}/up', f'{block}.mlp.c_fc', 'D F', 'F'),
        *_map_linear(f'{feedforward}/down', f'{block}.mlp.c_proj', 'F D', 'D'),
        *_map_norm('norm', 'transformer.ln_f'),
        _map('head/weight_VD', HEAD_TENSOR, 'V D'),
    )


def _map_neox() -> tuple[WeightMapping, ...]:
    block, feedforward = 'gpt_neox.layers.{n}', 'blocks/feedforward'
    fused = _map_fused_qkv(f'{block}.attention.query_key_value')
    weight, bias = (mapping._replace(axis=1, per_head=True) for mapping in fused)
    return (
        _map('embedding/table_VD', 'gpt_neox.embed_in.weight', 'V D'),
        *_map_norm('blocks/norm_1', f'{block}.input_layernorm'),
        weight._replace(letters=('H K D', 'G K D', 'G K D')),
        bias._replace(letters=('H K', 'G K', 'G K')),
        *_map_linear('blocks/attention/output', f'{block}.attention.dense', 'D HK', 'D'),
        *_map_norm('blocks/norm_2', f'{block}.post_attention_layernorm'),
        *_map_linear(f'{feedforward}/up', f'{block}.mlp.dense_h_to_4h', 'F D', 'F'),
        *_map_linear(f'{feedforward}/down', f'{block}.mlp.dense_4h_to_h', 'D F', 'D'),
        *_map_norm('norm', 'gpt_neox.final_layer_norm'),
        _map('head/weight_VD', NEOX_HEAD, 'V D'),
    )


def _map_opt() -> tuple[WeightMapping, ...]:
    block, attention = 'model.decoder.layers.{n}', 'blocks/attention'
    positions = _map('position/table', 'model.decoder.embed_positions.weight', 'L D')
    return (
        _map('embedding/table_VD', 'model.decoder.embed_tokens.weight', 'V D'),
        positions._replace(unused_rows=2),  # position 0 is row 2
        *_map_norm('blocks/norm_1', f'{block}.self_attn_layer_norm'),
        *_map_linear(f'{attention}/query', f'{block}.self_attn.q_proj', 'HK D', 'HK'),
        *_map_linear(f'{attention}/key', f'{block}.self_attn.k_proj', 'GK D', 'GK'),
        *_map_linear(f'{attention}/value', f'{block}.self_attn.v_proj', 'GK D', 'GK'),
        *_map_linear(f'{attention}/output', f'{block}.self_attn.out_proj', 'D HK', 'D'),
        *_map_norm('blocks/norm_2', f'{block}.final_layer_norm'),
        *_map_linear('blocks/feedforward/up', f'{block}.fc1', 'F D', 'F'),
        *_map_linear('blocks/feedforward/down', f'{block}.fc2', 'D F', 'D'),
        *_map_norm('norm', 'model.decoder.final_layer_norm'),
        _map('head/weight_VD', HEAD_TENSOR, 'V D'),
    )


def _map_llama(
    *feedforward: WeightMapping,
    norms: tuple[str, ...] = ('input_layernorm', 'post_attention_layernorm'),
    qk_norms: tuple[str, str] = ('K', 'K'),
) -> tuple[WeightMapping, ...]:
    """Map the weights of Llama's relatives.

    Args:
      feedforward: the mappings of the feed-forward layer.
      norms: the names of norm_1, norm_2, ...
      qk_norms: letters of the scales of QK norm.
    """
    block, attention = 'model.layers.{n}', 'blocks/attention'
    block_norms = [
        mapping
        for n, name in enumerate(norms)
        for mapping in _map_norm(f'blocks/norm_{n + 1}', f'{block}.{name}')
    ]
    return (
        _map('embedding/table_VD', 'model.embed_tokens.weight', 'V D'),
        *block_norms,
        *_map_linear(f'{attention}/query', f'{block}.self_attn.q_proj', 'HK D', 'HK'),
        *_map_linear(f'{attention}/key', f'{block}.self_attn.k_proj', 'GK D', 'GK'),
        *_map_linear(f'{attention}/value', f'{block}.self_attn.v_proj', 'GK D', 'GK'),
        _map(f'{attention}/query_norm', f'{block}.self_attn.q_norm.weight', qk_norms[0]),
        _map(f'{attention}/key_norm', f'{block}.self_attn.k_norm.weight', qk_norms[1]),
        *_map_linear(f'{attention}/output', f'{block}.self_attn.o_proj', 'D HK', 'D'),
        *feedforward,
        *_map_norm('norm', 'model.norm'),
        _map('head/weight_VD', HEAD_TENSOR, 'V D'),
    )


def _map_gated(name: str, gate: str, up: str, down: str) -> tuple[WeightMapping, ...]:
    block = f'model.layers.{{n}}.{name}'
    return (
        *_map_linear('blocks/feedforward/gate', f'{block}.{gate}', 'F D', 'F'),
        *_map_linear('blocks/feedforward/up', f'{block}.{up}', 'F D', 'F'),
        *_map_linear('blocks/feedforward/down', f'{block}.{down}', 'D F', 'D'),
    )


def _map_router(name: str) -> WeightMapping:
    return _map('blocks/feedforward/router', f'model.layers.{{n}}.{name}.weight', 'E D')


_DENSE = _map_llama(*_map_gated('mlp', 'gate_proj', 'up_proj', 'down_proj'))
_OLMO = _map_llama(
    *_map_gated('mlp', 'gate_proj', 'up_proj', 'down_proj'),
    norms=('post_attention_layernorm', 'post_feedforward_layernorm'),
    qk_norms=('HK', 'GK'),
)
_GEMMA = _map_llama(
    *_map_gated('mlp', 'gate_proj', 'up_proj', 'down_proj'),
    norms=(
        'input_layernorm',
        'pre_feedforward_layernorm',
        'post_attention_layernorm',
        'post_feedforward_layernorm',
    ),
)
_MIXTRAL = _map_llama(
    _map_router('block_sparse_moe.gate'),
    *_map_gated('block_sparse_moe.experts.{e}', 'w1', 'w3', 'w2'),
)
_QWEN_MOE = _map_llama(
    _map_router('mlp.gate'), *_map_gated('mlp.experts.{e}', 'gate_proj', 'up_proj', 'down_proj')
)
# transformers 5 holds gate and up, [E, 2F, D], and down of all experts in one tensor each. It saves
# them apart; other programs save what is in memory.
_FUSED_MOE = _map_llama(
    _map_router('mlp.gate'),
    WeightMapping(
        ('blocks/feedforward/gate', 'blocks/feedforward/up'),
        f'model.layers.{{n}}.mlp.{FUSED_EXPERTS}',
        ('E F D', 'E F D'),
        axis=1,
    ),
    _map('blocks/feedforward/down', 'model.layers.{n}.mlp.experts.down_proj', 'E D F'),
)


def _gpt_layout(
    config_format: ConfigFormat, name: str, mappings: tuple[WeightMapping, ...]
) -> WeightLayout:
    classes = f'{name}LMHeadModel', f'{name}Model'
    return WeightLayout(config_format, *classes, 'transformer.', mappings)


def _llama_layout(
    config_format: ConfigFormat,
    name: str,
    mappings: tuple[WeightMapping, ...],
    fused_mappings: tuple[WeightMapping, ...] = (),
) -> WeightLayout:
    classes = f'{name}ForCausalLM', f'{name}Model'
    return WeightLayout(config_format, *classes, 'model.', mappings, fused_mappings)


# By `model_type`.
LAYOUTS: Mapping[str, WeightLayout] = {
    'gpt2': _gpt_layout(hf_gpt.GPT2, 'GPT2', _map_gpt('wte', 'wpe')),
    'openai-gpt': _gpt_layout(
        hf_gpt.OPENAI, 'OpenAIGPT', _map_gpt('tokens_embed', 'positions_embed')
    ),
    'gpt_neox': WeightLayout(
        hf_neox.GPT_NEOX,
        'GPTNeoXForCausalLM',
        'GPTNeoXModel',
        'gpt_neox.',
        _map_neox(),
        head=NEOX_HEAD,
    ),
    'opt': _llama_layout(hf_opt.OPT, 'OPT', _map_opt()),
    'llama': _llama_layout(hf_llama.LLAMA, 'Llama', _DENSE),
    'mistral': _llama_layout(hf_llama.MISTRAL, 'Mistral', _DENSE),
    'mixtral': _llama_layout(hf_llama.MIXTRAL, 'Mixtral', _MIXTRAL, _FUSED_MOE),
    'qwen2': _llama_layout(hf_llama.QWEN2, 'Qwen2', _DENSE),
    'qwen3': _llama_layout(hf_llama.QWEN3, 'Qwen3', _DENSE),
    'qwen3_moe': _llama_layout(hf_llama.QWEN3_MOE, 'Qwen3Moe', _QWEN_MOE, _FUSED_MOE),
    'gemma2': _llama_layout(hf_gemma.GEMMA2, 'Gemma2', _GEMMA),
    'gemma3_text': WeightLayout(
        hf_gemma.GEMMA3, 'Gemma3ForCausalLM', 'Gemma3TextModel', 'model.', _GEMMA
    ),
    'olmo2': _llama_layout(hf_olmo.OLMO2, 'Olmo2', _OLMO),
    'olmo3': _llama_layout(hf_olmo.OLMO3, 'Olmo3', _OLMO),
}
