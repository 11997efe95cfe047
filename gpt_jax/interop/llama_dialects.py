"""How are Llama and what came of it said in a config.json: Mistral, Mixtral, Qwen 2 and 3?"""

from typing import Any

from gpt_jax.interop import rope
from gpt_jax.interop.dialect import ACTIVATIONS, FULL, MIXED, OFF, WINDOW, Dialect, Values, theirs
from gpt_jax.interop.fields import REQUIRED, Fields
from gpt_jax.model.config import ModelConfig

THEIR_KINDS = {'full_attention': 'full', 'sliding_attention': 'window'}


def _read_llama_like(
    fields: Fields, *, base: float = 10_000.0, epsilon: float = 1e-6, kv: Any = REQUIRED, head_dim: Any = None
) -> Values:
    width, heads = fields.size('hidden_size'), fields.size('num_attention_heads')
    context = fields.size('max_position_embeddings')
    derived = head_dim is None and fields.raw('head_dim') is None
    if derived and width % heads:
        raise fields.refuse('num_attention_heads', f'{heads} heads do not divide the width {width}')
    head_dim = width // heads if derived else fields.size('head_dim')
    if head_dim % 2:
        why = f'{head_dim} dims of a head cannot be turned in pairs'
        raise fields.refuse('num_attention_heads' if derived else 'head_dim', why)
    kv_heads = heads if fields.raw('num_key_value_heads', kv) is None else fields.size('num_key_value_heads')
    if heads % kv_heads:
        raise fields.refuse('num_key_value_heads', f'{kv_heads} does not divide the {heads} heads')
    return rope.read(fields, context, base) | {
        'layers': fields.size('num_hidden_layers'),
        'width': width,
        'heads': heads,
        'kv_heads': kv_heads,
        'head_dim': head_dim,
        'mlp_width': fields.size('intermediate_size'),
        'vocab_size': fields.size('vocab_size'),
        'context': context,
        'norm_epsilon': fields.number('rms_norm_eps', epsilon),
        'activation': fields.word('hidden_act', ACTIVATIONS, 'silu'),
        'tied_head': fields.flag('tie_word_embeddings', False),
    }


def _read_llama(fields: Fields) -> Values:
    bias = fields.flag('attention_bias', False)
    if fields.flag('mlp_bias', False) != bias:
        raise fields.refuse(
            'mlp_bias', f'{not bias} beside attention_bias {bias} is not supported; both or neither are'
        )
    return _read_llama_like(fields, kv=None) | {'bias': bias}


def _read_mistral(fields: Fields) -> Values:
    return _read_llama_like(fields) | _windows(fields, 4096)


def _windows(fields: Fields, default: int | None) -> Values:
    """One sliding window for every layer, or none."""
    if fields.raw('sliding_window', default) is None:
        return {}
    return {'attention_pattern': ['window'], 'window': fields.size('sliding_window', default)}


def _read_mixtral(fields: Fields) -> Values:
    return _read_llama_like(fields, base=1e6, epsilon=1e-5) | _windows(fields, None) | _experts(fields, 8, 2, True)


def _experts(fields: Fields, experts: Any, per_token: Any, normalized: bool) -> Values:
    """normalized: the chosen experts' weights sum to 1.

    `num_local_experts` is what transformers 5 writes for the older `num_experts`, too.
    """
    names = [name for name in ('num_local_experts', 'num_experts') if fields.raw(name) is not None]
    counts = [fields.size(name, experts) for name in names or ['num_local_experts']]
    if len(set(counts)) > 1:
        raise fields.refuse('num_experts', f'{counts[1]} contradicts num_local_experts {counts[0]}')
    chosen = fields.size('num_experts_per_tok', per_token)
    if chosen > counts[0]:
        raise fields.refuse('num_experts_per_tok', f'{chosen} of {counts[0]} experts')
    if chosen == 1 and normalized:
        raise fields.refuse('num_experts_per_tok', '1, whose weight would always be 1: such a router is not supported')
    return {'experts': counts[0], 'experts_per_token': chosen, 'normalize_experts': normalized}


def _read_qwen2(fields: Fields) -> Values:
    fields.only('use_mrope', False)
    return _read_llama_like(fields) | _layer_types(fields)


def _read_qwen3(fields: Fields) -> Values:
    fields.only('attention_bias', False)
    return _read_llama_like(fields, head_dim=REQUIRED) | _layer_types(fields)


def _read_qwen3_moe(fields: Fields) -> Values:
    fields.only('attention_bias', False)
    fields.only('use_sliding_window', False)
    fields.only('decoder_sparse_step', 1)
    fields.only('mlp_only_layers', None, [])
    for unused in ('sliding_window', 'max_window_layers'):
        fields.raw(unused)
    experts = _experts(fields, REQUIRED, 8, fields.flag('norm_topk_prob', False))
    return _read_llama_like(fields) | experts | {'mlp_width': fields.size('moe_intermediate_size')}


def _layer_types(fields: Fields) -> Values:
    """Which layers have a window: a list of them, or all from number `max_window_layers` on."""
    layers, used = fields.size('num_hidden_layers'), fields.flag('use_sliding_window', False)
    first, given = fields.size('max_window_layers', 28, least=0), fields.raw('layer_types')
    fields.raw('sliding_window')
    if given is None:
        kinds = ['window' if used and n >= first else 'full' for n in range(layers)]
    elif isinstance(given, list) and len(given) == layers and all(kind in THEIR_KINDS for kind in given):
        kinds = [THEIR_KINDS[kind] for kind in given]
    else:
        raise fields.refuse('layer_types', f'wants {layers} of {", ".join(THEIR_KINDS)}, got {given!r}')
    if 'window' not in kinds:
        return {}
    if not used:
        raise fields.refuse('layer_types', 'has sliding layers, and use_sliding_window is false')
    return {'attention_pattern': _shortest(kinds), 'window': fields.size('sliding_window', 4096)}


def _shortest(kinds: list[str]) -> list[str]:
    """The shortest pattern that gives these kinds when it is repeated."""
    lengths = (n for n in range(1, len(kinds) + 1) if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))
    return kinds[: next(lengths)]


def _write_llama_like(model: ModelConfig) -> Values:
    return rope.write(model) | {
        'num_hidden_layers': model.layers,
        'hidden_size': model.width,
        'num_attention_heads': model.heads,
        'num_key_value_heads': model.kv_heads,
        'head_dim': model.head_dim,
        'intermediate_size': model.mlp_width,
        'vocab_size': model.vocab_size,
        'max_position_embeddings': model.context,
        'rms_norm_eps': model.norm_epsilon,
        'hidden_act': theirs(ACTIVATIONS, model.activation),
        'tie_word_embeddings': model.tied_head,
        'attention_dropout': 0.0,
        'initializer_range': model.init_std,
    }


def _write_llama(model: ModelConfig) -> Values:
    return _write_llama_like(model) | {'attention_bias': model.bias, 'mlp_bias': model.bias}


def _write_mistral(model: ModelConfig) -> Values:
    return _write_llama_like(model) | {'sliding_window': model.window or None}


def _write_mixtral(model: ModelConfig) -> Values:
    experts = {'num_local_experts': model.experts, 'num_experts_per_tok': model.experts_per_token}
    return _write_mistral(model) | experts


def _write_qwen2(model: ModelConfig) -> Values:
    names = {ours: name for name, ours in THEIR_KINDS.items()}
    return _write_llama_like(model) | {
        'use_sliding_window': model.window > 0,
        'sliding_window': model.window or None,
        'max_window_layers': model.layers,
        'layer_types': [names[kind] for kind in model.kinds],
    }


def _write_qwen3(model: ModelConfig) -> Values:
    return _write_qwen2(model) | {'attention_bias': False}


def _write_qwen3_moe(model: ModelConfig) -> Values:
    return _write_llama_like(model) | {
        'moe_intermediate_size': model.mlp_width,
        'num_experts': model.experts,
        'num_experts_per_tok': model.experts_per_token,
        'norm_topk_prob': model.normalize_experts,
        'decoder_sparse_step': 1,
        'mlp_only_layers': [],
        'attention_bias': False,
        'use_sliding_window': False,
        'sliding_window': None,
    }


_LLAMA = {
    **OFF, 'block': ('pre_norm',), 'final_norm': (True,), 'norm': ('rms',), 'position': ('rotary',),
    'rotary_fraction': (1.0,), 'rotary_scaling': tuple(rope.TYPES.values()), 'feedforward': ('gated',),
    'bias': (False,), 'qkv_bias': (False,), 'qk_norm': (False,), 'activation': tuple(ACTIVATIONS.values()),
}  # fmt: skip
_MOE = {'feedforward': ('experts',), 'shared_experts': (0,)}
_MIXTRAL = _LLAMA | _MOE | {'normalize_experts': (True,)}
_EVEN = {'heads': lambda model: model.width % model.heads == 0}  # what transformers asks of a Llama
_ANY = (FULL, WINDOW, MIXED)
LLAMA = Dialect(_LLAMA | {'bias': (False, True)}, _EVEN, (FULL,), _read_llama, _write_llama)
MISTRAL = Dialect(_LLAMA, {}, (WINDOW, FULL), _read_mistral, _write_mistral)
MIXTRAL = Dialect(_MIXTRAL, {}, (FULL, WINDOW), _read_mixtral, _write_mixtral)
QWEN2 = Dialect(_LLAMA | {'qkv_bias': (True,)}, {}, _ANY, _read_qwen2, _write_qwen2)
QWEN3 = Dialect(_LLAMA | {'qk_norm': (True,)}, {}, _ANY, _read_qwen3, _write_qwen3)
QWEN3_MOE = Dialect(_LLAMA | _MOE | {'qk_norm': (True,)}, {}, (FULL,), _read_qwen3_moe, _write_qwen3_moe)
