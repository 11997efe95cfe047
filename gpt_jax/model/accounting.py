"""How many parameters and FLOPs does a model have? In closed form, each number with its convention.

Nothing here runs the model; tests hold it against the real trees and the compiled program. Bytes are in memory.py.
"""

from collections.abc import Callable
from typing import NamedTuple

from gpt_jax.model.config import ModelConfig


class _Count(NamedTuple):
    """Parameters of a feed-forward: all, and those that one token uses."""

    total: int
    active: int


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by convention.

    total: all that the model means (rows that only pad the vocabulary are left out).
    non_embedding: without token embedding, position table and an untied head (Kaplan et al. 2020).
    without_positions: without the position table only: what takes part in matrix products, head included.
    padded_total: what is really stored, padding rows included.
    active: of the total what one token uses: of the routed experts `experts_per_token`, and all of the rest.
    active_non_embedding: the same of non_embedding.
    """
    c = config
    norm = c.width * (2 if c.norm == 'layer' and c.bias else 1)
    feedforward = _FEEDFORWARDS[c.feedforward](c)
    layer = _attention(c) + feedforward.total + norm * (1 if c.block == 'parallel' else 2)
    blocks = c.layers * layer + norm * c.final_norm
    tables = 1 if c.tied_head else 2
    position = c.context * c.width if c.position == 'learned' else 0
    total = blocks + tables * c.vocab_size * c.width + position
    idle = c.layers * (feedforward.total - feedforward.active)
    return {
        'total': total,
        'non_embedding': blocks,
        'without_positions': total - position,
        'padded_total': total + tables * (c.dims['V'] - c.vocab_size) * c.width,
        'active': total - idle,
        'active_non_embedding': blocks - idle,
    }


def _attention(c: ModelConfig) -> int:
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    biases = (queries + 2 * keys) * (c.bias or c.qkv_bias) + c.width * c.bias
    return 2 * c.width * (queries + keys) + biases + 2 * c.head_dim * c.qk_norm + c.heads * c.attention_sink


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


_FEEDFORWARDS: dict[str, Callable[[ModelConfig], _Count]] = {'mlp': _mlp, 'gated': _gated, 'experts': _experts}


def flops_per_token(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Training FLOPs (forward and backward) per token by convention, for sequences of `context` tokens.

    Parameters are the active ones. A capacity's empty rows, what dropped tokens save, padding and recomputation are not
    counted: they are the program's, not the model's.

    6N_non_embedding: 6 x non-embedding parameters (Kaplan et al. 2020).
    6N: 6 x parameters without positions (an untied input embedding is no matrix product and is left out).
    with_attention: 6N + 12 x (heads x head_dim) x keys, summed over the layers (PaLM, appendix B): all of the score
      matrix. keys is the context, in a window layer at most the window.
    causal: with the pairs of a query and a key that it may see alone: instead of keys, keys x (1 - keys / 2 context),
      which is half of the context in a full layer.
    """
    counts, length = parameters(config), context or config.context
    positions = counts['total'] - counts['without_positions']
    matmul = counts['active'] - positions - (0 if config.tied_head else config.vocab_size * config.width)
    keys = [min(config.window, length) if kind == 'window' else length for kind in config.kinds]
    per_key = 6 * config.heads * config.head_dim
    return {
        '6N_non_embedding': 6 * counts['active_non_embedding'],
        '6N': 6 * matmul,
        'with_attention': 6 * matmul + 2 * per_key * sum(keys),
        'causal': 6 * matmul + per_key * sum(n * (2 * length - n) for n in keys) // length,
    }


UTILIZATION_CONVENTION = 'with_attention'  # the FLOPs in "model FLOPs utilization", as PaLM, nanoGPT and MaxText count
