"""Parameter and FLOP counts of a model in closed form, each under a named convention.

Nothing here runs the model or needs JAX; tests compare it with the real parameter trees and the
compiled program. Bytes are counted in preflight/model_cost.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gpt_jax.core.config_fields import require
from gpt_jax.core.registry import resolve

if TYPE_CHECKING:  # config.py itself imports this module, to compute the length of a run
    from gpt_jax.core.config import ModelConfig


_NORMS = {'parallel': 1, 'sandwich_norm': 4}  # by block; 2 for all others


class _Count(NamedTuple):
    """Parameters of a feed-forward layer: all of them, and those that one token uses."""

    total: int
    active: int


def parameters(config: ModelConfig) -> dict[str, int]:
    """Count the parameters under each convention.

    Returns:
      total: all parameters, except rows that only pad the vocabulary.
      non_embedding: total without token embedding, position table and untied head (Kaplan et al.
        2020).
      without_positions: total without the position table.
      padded_total: all stored parameters, padding rows included.
      active: the part of total that one token uses: `experts_per_token` of the routed experts, and
        everything else.
      active_non_embedding: the part of non_embedding that one token uses.
    """
    c = config
    norm = _count_custom(c, 'norm') or c.width * (2 if c.norm == 'layer' and c.bias else 1)
    attention = _count_custom(c, 'attention') or _attention(c)
    feedforward = _feedforward(c)
    layer = attention + feedforward.total + norm * count_norms(c)
    blocks = c.layers * layer + norm * c.final_norm
    tables = 1 if c.tied_head else 2
    position = c.context * c.width if c.position == 'learned' else 0
    total = blocks + tables * c.vocab_size * c.width + position
    unused = c.layers * (feedforward.total - feedforward.active)
    return {
        'total': total,
        'non_embedding': blocks,
        'without_positions': total - position,
        'padded_total': total + tables * (c.dims['V'] - c.vocab_size) * c.width,
        'active': total - unused,
        'active_non_embedding': blocks - unused,
    }


def count_norms(c: ModelConfig) -> int:
    """Count the norms of a layer, not those inside its attention."""
    return _NORMS.get(c.block, 2)


def _count_custom(c: ModelConfig, field: str) -> int:
    """Count the parameters of a part given as a dotted path; 0 if it has no `count_parameters`."""
    word = getattr(c, field)
    if ':' not in word:
        return 0
    count = getattr(resolve(word, {}, f'model.{field}'), 'count_parameters', None)
    return int(count(c)) if count is not None else 0


def _attention(c: ModelConfig) -> int:
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    biases = (queries + 2 * keys) * (c.bias or c.qkv_bias) + c.width * c.bias
    normed = 2 * c.head_dim if c.qk_norm_per_head else queries + keys
    return 2 * c.width * (queries + keys) + biases + normed * c.qk_norm + c.heads * c.attention_sink


def _mlp(c: ModelConfig) -> _Count:
    count = 2 * c.width * c.mlp_width + (c.mlp_width + c.width) * c.bias
    return _Count(count, count)


def _gated(c: ModelConfig) -> _Count:
    count = 3 * c.width * c.mlp_width + (2 * c.mlp_width + c.width) * c.bias
    return _Count(count, count)


def _experts(c: ModelConfig) -> _Count:
    expert = 3 * c.width * c.mlp_width
    always = c.width * c.experts + c.shared_experts * expert
    return _Count(always + c.experts * expert, always + c.experts_per_token * expert)


def _feedforward(c: ModelConfig) -> _Count:
    if c.feedforward in _FEEDFORWARDS:
        return _FEEDFORWARDS[c.feedforward](c)
    count = _count_custom(c, 'feedforward')
    require(
        count > 0,
        'model.feedforward',
        f'must have an attribute count_parameters(config), got {c.feedforward!r} without one; '
        'it is needed to count parameters and FLOPs',
    )
    return _Count(count, count)


_FEEDFORWARDS: dict[str, Callable[[ModelConfig], _Count]] = {
    'mlp': _mlp,
    'gated': _gated,
    'experts': _experts,
}


def flops_per_token(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Count the training FLOPs (forward and backward) per token under each convention.

    Only active parameters count. Empty slots of experts, dropped tokens, padding and
    rematerialization do not: they belong to the program, not to the model.

    Args:
      config: the model.
      context: sequence length in tokens; None: the model's context.

    Returns:
      6N_non_embedding: 6 x active non-embedding parameters (Kaplan et al. 2020).
      6N: 6 x active parameters without positions; an untied input embedding is a lookup and not
        counted.
      with_attention: 6N + 12 x (heads x head_dim) x keys, summed over the layers (PaLM, appendix
        B): the whole score matrix. keys is the context length, or at most the window in a window
        layer.
      causal: like with_attention, but only for the keys that each query can see: keys x (1 -
        keys / (2 context)) instead of keys, which is half the context in a full layer.
    """
    counts, length = parameters(config), context or config.context
    positions = counts['total'] - counts['without_positions']
    matmul = (
        counts['active'] - positions - (0 if config.tied_head else config.vocab_size * config.width)
    )
    keys = [
        min(config.window, length) if kind == 'window' else length for kind in config.layer_kinds
    ]
    per_key = 6 * config.heads * config.head_dim
    return {
        '6N_non_embedding': 6 * counts['active_non_embedding'],
        '6N': 6 * matmul,
        'with_attention': 6 * matmul + 2 * per_key * sum(keys),
        'causal': 6 * matmul + per_key * sum(n * (2 * length - n) for n in keys) // length,
    }


# The FLOPs of "model FLOPs utilization", as PaLM, nanoGPT and MaxText count them.
UTILIZATION_CONVENTION = 'with_attention'
