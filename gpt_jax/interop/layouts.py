"""Hugging Face weight names and layouts: a table per kind of model, used in both directions.

A `WeightMapping` pairs one of our weights, whose letters are known ('DHK'), with the name and the
letters of their tensor: 'HK D' has H x K rows and D columns. PyTorch's Linear has its outputs
first ('F D'), GPT-2's Conv1D its inputs ('D F'). {n} and {e} in a name are a layer and an expert:
our weights are stacked, theirs are separate tensors.

To add an architecture: write its `ConfigFormat` (which fields of config.json are read, and what
they must be) in a file hf_NAME.py after the pattern of hf_llama.py, its WeightMappings here, and
one row of LAYOUTS under its model_type. huggingface.py needs no change: it finds the row by
model_type, names the fields that were not read (hf_config.py), and refuses a folder with a tensor
that is not mapped, except BUFFERS and a head that equals the embedding it is tied to.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.interop import hf_gpt, hf_llama
from gpt_jax.interop.hf_config import ConfigFormat

HEAD_TENSOR = 'lm_head.weight'
FUSED_EXPERTS = 'experts.gate_up_proj'
# Ends of the names of buffers in old files: constants that the model computes itself.
BUFFERS = re.compile(
    r'(.*\.)?(attn\.(masked_)?bias|position_ids|rotary_emb\.(inv_freq|(cos|sin)_cached))'
)


class WeightMapping(NamedTuple):
    """A kind of Hugging Face tensor, and our weights in it.

    Attributes:
      paths: paths of our weights; several are concatenated.
      name: the tensor's name, with {n} and {e}.
      letters: letters of each of our weights in the tensor.
      axis: the dim along which several weights are concatenated.
    """

    paths: tuple[str, ...]
    name: str
    letters: tuple[str, ...]
    axis: int = -1


class WeightLayout(NamedTuple):
    """One kind of Hugging Face folder.

    Attributes:
      config_format: format of its config.json.
      architecture: the class in its `architectures`.
      headless_architecture: the class without the language model head.
      prefix: prefix of all tensor names but the head's, if they were saved with the head.
      mappings: mappings of its tensors.
      fused_mappings: mappings of a folder whose experts are in one tensor; () without experts.
    """

    config_format: ConfigFormat
    architecture: str
    headless_architecture: str
    prefix: str
    mappings: tuple[WeightMapping, ...]
    fused_mappings: tuple[WeightMapping, ...] = ()


class ExternalTensor(NamedTuple):
    """One Hugging Face tensor.

    Attributes:
      name: the tensor's name.
      paths: paths of our weights that are concatenated in it.
      element: indices into each of our weights: (layer,), (layer, expert), or () for all of it.
      letters: letters of each part in the tensor.
      axis: the dim along which the parts are concatenated.
    """

    name: str
    paths: tuple[str, ...]
    element: tuple[int, ...]
    letters: tuple[str, ...]
    axis: int = -1


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


def _map_llama(*feedforward: WeightMapping) -> tuple[WeightMapping, ...]:
    block, attention = 'model.layers.{n}', 'blocks/attention'
    return (
        _map('embedding/table_VD', 'model.embed_tokens.weight', 'V D'),
        *_map_norm('blocks/norm_1', f'{block}.input_layernorm'),
        *_map_linear(f'{attention}/query', f'{block}.self_attn.q_proj', 'HK D', 'HK'),
        *_map_linear(f'{attention}/key', f'{block}.self_attn.k_proj', 'GK D', 'GK'),
        *_map_linear(f'{attention}/value', f'{block}.self_attn.v_proj', 'GK D', 'GK'),
        _map(f'{attention}/query_norm', f'{block}.self_attn.q_norm.weight', 'K'),
        _map(f'{attention}/key_norm', f'{block}.self_attn.k_norm.weight', 'K'),
        *_map_linear(f'{attention}/output', f'{block}.self_attn.o_proj', 'D HK', 'D'),
        *_map_norm('blocks/norm_2', f'{block}.post_attention_layernorm'),
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


# By `model_type`. A model that fits several is exported as the first of them.
LAYOUTS: Mapping[str, WeightLayout] = {
    'gpt2': _gpt_layout(hf_gpt.GPT2, 'GPT2', _map_gpt('wte', 'wpe')),
    'openai-gpt': _gpt_layout(
        hf_gpt.OPENAI, 'OpenAIGPT', _map_gpt('tokens_embed', 'positions_embed')
    ),
    'llama': _llama_layout(hf_llama.LLAMA, 'Llama', _DENSE),
    'mistral': _llama_layout(hf_llama.MISTRAL, 'Mistral', _DENSE),
    'mixtral': _llama_layout(hf_llama.MIXTRAL, 'Mixtral', _MIXTRAL, _FUSED_MOE),
    'qwen2': _llama_layout(hf_llama.QWEN2, 'Qwen2', _DENSE),
    'qwen3': _llama_layout(hf_llama.QWEN3, 'Qwen3', _DENSE),
    'qwen3_moe': _llama_layout(hf_llama.QWEN3_MOE, 'Qwen3Moe', _QWEN_MOE, _FUSED_MOE),
}


def list_tensors(
    layout: WeightLayout, letters: Mapping[str, str], dims: Mapping[str, int]
) -> Iterator[ExternalTensor]:
    """Yield every Hugging Face tensor that contains our weights, in the order of the layout.

    Args:
      layout: the folder's layout.
      letters: letters of all our weights, by path ('blocks/attention/query': 'NDHK').
      dims: sizes by letter.

    Raises:
      KeyError: one of our weights has no mapping.
    """
    mappings = [mapping for mapping in layout.mappings if mapping.paths[0] in letters]
    for path in letters.keys() - {path for mapping in mappings for path in mapping.paths}:
        raise KeyError(path)
    for paths, name, their_letters, axis in mappings:
        has_layers, has_experts = '{n}' in name, '{e}' in name
        for layer in range(dims['N']) if has_layers else (0,):
            for expert in range(dims['E']) if has_experts else (0,):
                element = (layer,) * has_layers + (expert,) * has_experts
                their_name = name.format(n=layer, e=expert)
                yield ExternalTensor(their_name, paths, element, their_letters, axis)


def _group_sizes(letters: str, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return the size of each group of letters: that of 'HK D' is (H x K, D)."""
    return tuple(math.prod(dims[letter] for letter in group) for group in letters.split())


def tensor_shape(tensor: ExternalTensor, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a Hugging Face tensor."""
    parts = [_group_sizes(letters, dims) for letters in tensor.letters]
    shape = list(parts[0])
    shape[tensor.axis] = sum(sizes[tensor.axis] for sizes in parts)
    return tuple(shape)


def import_weight(
    value: np.ndarray, tensor: ExternalTensor, path: str, ours: str, dims: Mapping[str, int]
) -> np.ndarray:
    """Return the part of their tensor that belongs to one of our weights, in our layout.

    Args:
      value: their tensor.
      tensor: its description.
      path: path of our weight.
      ours: the letters of the element of our weight, for example 'DHK'.
      dims: sizes by letter.
    """
    position = tensor.paths.index(path)
    ends = np.cumsum([_group_sizes(letters, dims)[tensor.axis] for letters in tensor.letters])
    part = np.split(value, ends[:-1], axis=tensor.axis)[position]
    theirs = tensor.letters[position].replace(' ', '')
    unflattened = part.reshape([dims[letter] for letter in theirs])
    return unflattened.transpose([theirs.index(letter) for letter in ours])


def export_weight(
    parts: Sequence[np.ndarray],
    tensor: ExternalTensor,
    ours: Sequence[str],
    dims: Mapping[str, int],
) -> np.ndarray:
    """Return their tensor, the inverse of `import_weight`.

    Args:
      parts: the elements of our weights in it.
      tensor: its description.
      ours: the letters of each part.
      dims: sizes by letter.
    """
    flattened = []
    for part, our_letters, their_letters in zip(parts, ours, tensor.letters, strict=True):
        order = [our_letters.index(letter) for letter in their_letters.replace(' ', '')]
        flattened.append(part.transpose(order).reshape(_group_sizes(their_letters, dims)))
    return np.concatenate(flattened, axis=tensor.axis)
