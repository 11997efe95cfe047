"""Under which names, and lying how, are a model's weights stored elsewhere? One table per layout, read both ways.

A row pairs a weight of ours, whose letters are known ('DHK'), with the name and the letters of theirs: 'HK D' is a
matrix of H x K rows and D columns. PyTorch's Linear has its outputs first ('F D'), GPT-2's Conv1D its inputs ('D F').
{n} and {e} in a name stand for a layer and an expert: ours are stacked, theirs each by itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.interop import gpt_dialects, llama_dialects
from gpt_jax.interop.dialect import Dialect

HEAD = 'lm_head.weight'


class Row(NamedTuple):
    """ours: paths of our weights; several lie side by side along the last dim of theirs. letters: theirs, of each."""

    ours: tuple[str, ...]
    theirs: str
    letters: tuple[str, ...]


class Layout(NamedTuple):
    """One kind of folder.

    architecture: the class that `architectures` names; bare: the same without its head.
    prefix: what the names of all tensors but the head's begin with, where they were saved with the head.
    buffers: names, without the prefix, of what old files hold beside the weights and nobody reads, as a pattern.
    """

    dialect: Dialect
    architecture: str
    bare: str
    prefix: str
    buffers: str
    rows: tuple[Row, ...]


class Piece(NamedTuple):
    """One tensor of theirs.

    paths: our weights that it is made of, side by side.
    element: which one of each of them (a layer, or a layer and an expert; () is all of it).
    letters: theirs, of each part.
    """

    name: str
    paths: tuple[str, ...]
    element: tuple[int, ...]
    letters: tuple[str, ...]


def _row(ours: str, theirs: str, letters: str) -> Row:
    return Row((ours,), theirs, (letters,))


def _both(ours: str, theirs: str, letters: str, biases: str) -> tuple[Row, Row]:
    """A matrix and its bias."""
    return _row(ours, f'{theirs}.weight', letters), _row(f'{ours}_bias', f'{theirs}.bias', biases)


def _fused(theirs: str) -> tuple[Row, Row]:
    """Query, key and value side by side in one matrix, and their biases in one vector."""
    paths = tuple(f'blocks/attention/{name}' for name in ('query', 'key', 'value'))
    return (
        Row(paths, f'{theirs}.weight', ('D HK', 'D GK', 'D GK')),
        Row(tuple(f'{path}_bias' for path in paths), f'{theirs}.bias', ('HK', 'GK', 'GK')),
    )


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return _row(f'{ours}/scale', f'{theirs}.weight', 'D'), _row(f'{ours}/bias', f'{theirs}.bias', 'D')


def _gpt(tokens: str, positions: str) -> tuple[Row, ...]:
    block, attention, feedforward = 'transformer.h.{n}', 'blocks/attention', 'blocks/feedforward'
    return (
        _row('embedding/table_VD', f'transformer.{tokens}.weight', 'V D'),
        _row('position/table', f'transformer.{positions}.weight', 'L D'),
        *_norm('blocks/norm_1', f'{block}.ln_1'),
        *_fused(f'{block}.attn.c_attn'),
        *_both(f'{attention}/output', f'{block}.attn.c_proj', 'HK D', 'D'),
        *_norm('blocks/norm_2', f'{block}.ln_2'),
        *_both(f'{feedforward}/up', f'{block}.mlp.c_fc', 'D F', 'F'),
        *_both(f'{feedforward}/down', f'{block}.mlp.c_proj', 'F D', 'D'),
        *_norm('norm', 'transformer.ln_f'),
        _row('head/weight_VD', HEAD, 'V D'),
    )


def _llama(*feedforward: Row) -> tuple[Row, ...]:
    block, attention = 'model.layers.{n}', 'blocks/attention'
    return (
        _row('embedding/table_VD', 'model.embed_tokens.weight', 'V D'),
        *_norm('blocks/norm_1', f'{block}.input_layernorm'),
        *_both(f'{attention}/query', f'{block}.self_attn.q_proj', 'HK D', 'HK'),
        *_both(f'{attention}/key', f'{block}.self_attn.k_proj', 'GK D', 'GK'),
        *_both(f'{attention}/value', f'{block}.self_attn.v_proj', 'GK D', 'GK'),
        _row(f'{attention}/query_norm', f'{block}.self_attn.q_norm.weight', 'K'),
        _row(f'{attention}/key_norm', f'{block}.self_attn.k_norm.weight', 'K'),
        *_both(f'{attention}/output', f'{block}.self_attn.o_proj', 'D HK', 'D'),
        *_norm('blocks/norm_2', f'{block}.post_attention_layernorm'),
        *feedforward,
        *_norm('norm', 'model.norm'),
        _row('head/weight_VD', HEAD, 'V D'),
    )


def _gated(theirs: str, gate: str, up: str, down: str) -> tuple[Row, ...]:
    block = f'model.layers.{{n}}.{theirs}'
    return (
        *_both('blocks/feedforward/gate', f'{block}.{gate}', 'F D', 'F'),
        *_both('blocks/feedforward/up', f'{block}.{up}', 'F D', 'F'),
        *_both('blocks/feedforward/down', f'{block}.{down}', 'D F', 'D'),
    )


def _router(theirs: str) -> Row:
    return _row('blocks/feedforward/router', f'model.layers.{{n}}.{theirs}.weight', 'E D')


_PLAIN_ROWS = _llama(*_gated('mlp', 'gate_proj', 'up_proj', 'down_proj'))
_MIXTRAL_ROWS = _llama(_router('block_sparse_moe.gate'), *_gated('block_sparse_moe.experts.{e}', 'w1', 'w3', 'w2'))
_QWEN_MOE_ROWS = _llama(_router('mlp.gate'), *_gated('mlp.experts.{e}', 'gate_proj', 'up_proj', 'down_proj'))
_MASKS = r'h\.\d+\.attn\.(masked_)?bias|position_ids'
_WAVES = r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rotary_emb\.inv_freq'


def _llama_layout(dialect: Dialect, name: str, rows: tuple[Row, ...]) -> Layout:
    return Layout(dialect, f'{name}ForCausalLM', f'{name}Model', 'model.', _WAVES, rows)


# By `model_type`. A model that several fit is written as the first of them.
LAYOUTS: Mapping[str, Layout] = {
    'gpt2': Layout(gpt_dialects.GPT2, 'GPT2LMHeadModel', 'GPT2Model', 'transformer.', _MASKS, _gpt('wte', 'wpe')),
    'openai-gpt': Layout(
        gpt_dialects.OPENAI, 'OpenAIGPTLMHeadModel', 'OpenAIGPTModel', 'transformer.', _MASKS,
        _gpt('tokens_embed', 'positions_embed'),
    ),
    'llama': _llama_layout(llama_dialects.LLAMA, 'Llama', _PLAIN_ROWS),
    'mistral': _llama_layout(llama_dialects.MISTRAL, 'Mistral', _PLAIN_ROWS),
    'mixtral': _llama_layout(llama_dialects.MIXTRAL, 'Mixtral', _MIXTRAL_ROWS),
    'qwen2': _llama_layout(llama_dialects.QWEN2, 'Qwen2', _PLAIN_ROWS),
    'qwen3': _llama_layout(llama_dialects.QWEN3, 'Qwen3', _PLAIN_ROWS),
    'qwen3_moe': _llama_layout(llama_dialects.QWEN3_MOE, 'Qwen3Moe', _QWEN_MOE_ROWS),
}  # fmt: skip


def pieces(layout: Layout, letters: Mapping[str, str], dims: Mapping[str, int]) -> Iterator[Piece]:
    """Every tensor of theirs that makes up our weights, in the layout's order.

    Args:
      letters: of all our weights, by path ('blocks/attention/query': 'NDHK').
      dims: sizes by letter.

    Raises:
      KeyError: one of our weights has no row.
    """
    rows = [row for row in layout.rows if row.ours[0] in letters]
    for path in letters.keys() - {path for row in rows for path in row.ours}:
        raise KeyError(path)
    for row in rows:
        for layer in range(dims['N']) if '{n}' in row.theirs else (0,):
            for expert in range(dims['E']) if '{e}' in row.theirs else (0,):
                element = (layer,) * ('{n}' in row.theirs) + (expert,) * ('{e}' in row.theirs)
                yield Piece(row.theirs.format(n=layer, e=expert), row.ours, element, row.letters)


def _sizes(letters: str, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(dims[letter] for letter in group) for group in letters.split())


def shape(piece: Piece, dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of their tensor."""
    parts = [_sizes(letters, dims) for letters in piece.letters]
    return (*parts[0][:-1], sum(sizes[-1] for sizes in parts))


def to_ours(value: np.ndarray, piece: Piece, path: str, ours: str, dims: Mapping[str, int]) -> np.ndarray:
    """The part of their tensor that belongs to our weight `path`, whose letters are `ours` ('DHK')."""
    position = piece.paths.index(path)
    ends = np.cumsum([_sizes(letters, dims)[-1] for letters in piece.letters])
    part = np.split(value, ends[:-1], axis=-1)[position]
    theirs = piece.letters[position].replace(' ', '')
    return part.reshape([dims[a] for a in theirs]).transpose([theirs.index(a) for a in ours])


def to_theirs(parts: Sequence[np.ndarray], piece: Piece, ours: Sequence[str], dims: Mapping[str, int]) -> np.ndarray:
    """The inverse: their tensor, of the elements of our weights; `ours` are the letters of each."""
    made = []
    for part, mine, letters in zip(parts, ours, piece.letters, strict=True):
        order = [mine.index(letter) for letter in letters.replace(' ', '')]
        made.append(part.transpose(order).reshape(_sizes(letters, dims)))
    return np.concatenate(made, axis=-1)
