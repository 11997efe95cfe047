"""How are GPT-1 and GPT-2 said in a config.json?"""

from gpt_jax.interop.dialect import ACTIVATIONS, FULL, OFF, Dialect, Values, theirs
from gpt_jax.interop.fields import Fields
from gpt_jax.model.config import ModelConfig

OPENAI_ACTIVATIONS = {'gelu': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}  # its 'gelu' is the tanh form


def _read_gpt(fields: Fields) -> Values:
    width, heads = fields.size('n_embd'), fields.size('n_head')
    if width % heads:
        raise fields.refuse('n_head', f'{heads} heads do not divide the width {width}')
    return {
        'layers': fields.size('n_layer'),
        'width': width,
        'heads': heads,
        'kv_heads': heads,
        'head_dim': width // heads,
        'mlp_width': 4 * width,
        'vocab_size': fields.size('vocab_size'),
        'context': fields.size('n_positions'),
        'norm_epsilon': fields.number('layer_norm_epsilon', 1e-5),
        'tied_head': fields.flag('tie_word_embeddings', True),
    }


def _read_gpt2(fields: Fields) -> Values:
    fields.only('scale_attn_weights', True)
    fields.only('scale_attn_by_inverse_layer_idx', False)
    fields.only('reorder_and_upcast_attn', False)  # the same function, but for the scale that it may go with
    made = _read_gpt(fields)
    return made | {
        'mlp_width': fields.size('n_inner', made['mlp_width']),
        'activation': fields.word('activation_function', ACTIVATIONS, 'gelu_new'),
    }


def _read_openai(fields: Fields) -> Values:
    fields.only('n_special', 0)
    return _read_gpt(fields) | {'activation': fields.word('afn', OPENAI_ACTIVATIONS, 'gelu')}


def _write_gpt(model: ModelConfig) -> Values:
    return {
        'n_layer': model.layers,
        'n_embd': model.width,
        'n_head': model.heads,
        'n_positions': model.context,
        'vocab_size': model.vocab_size,
        'layer_norm_epsilon': model.norm_epsilon,
        'tie_word_embeddings': model.tied_head,
        'embd_pdrop': model.dropout,
        'resid_pdrop': model.dropout,
        'attn_pdrop': 0.0,
        'initializer_range': model.init_std,
    }


def _write_gpt2(model: ModelConfig) -> Values:
    inner = None if model.mlp_width == 4 * model.width else model.mlp_width
    return _write_gpt(model) | {'n_inner': inner, 'activation_function': theirs(ACTIVATIONS, model.activation)}


def _write_openai(model: ModelConfig) -> Values:
    return _write_gpt(model) | {'afn': theirs(OPENAI_ACTIVATIONS, model.activation)}


_GPT = {
    **OFF, 'norm': ('layer',), 'position': ('learned',), 'feedforward': ('mlp',), 'bias': (True,), 'qk_norm': (False,),
}  # fmt: skip
_GPT2 = {'block': ('pre_norm',), 'final_norm': (True,), 'activation': tuple(ACTIVATIONS.values())}
_OPENAI = {'block': ('post_norm',), 'final_norm': (False,), 'activation': tuple(OPENAI_ACTIVATIONS.values())}
_CHECKS = {
    'kv_heads': lambda model: model.kv_heads == model.heads,
    'head_dim': lambda model: model.head_dim * model.heads == model.width,
}
_FOUR = {'mlp_width': lambda model: model.mlp_width == 4 * model.width}
GPT2 = Dialect(_GPT | _GPT2, _CHECKS, (FULL,), _read_gpt2, _write_gpt2)
OPENAI = Dialect(_GPT | _OPENAI, _CHECKS | _FOUR, (FULL,), _read_openai, _write_openai)
