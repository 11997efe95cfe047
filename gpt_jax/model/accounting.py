"""How many parameters and FLOPs does a model have? In closed form, each number with its convention.

Nothing here runs the model; tests hold it against the real trees and the compiled program.
"""

from gpt_jax.model.config import ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by convention.

    total: all that the model means (rows that only pad the vocabulary are left out).
    non_embedding: without token embedding, position table and an untied head (Kaplan et al. 2020).
    without_positions: without the position table only: what takes part in matrix products, head included.
    padded_total: what is really stored, padding rows included.
    """
    c = config
    norm = c.width * (2 if c.norm == 'layer' and c.bias else 1)
    query, kv = c.width * c.heads * c.head_dim, c.width * c.kv_heads * c.head_dim
    attention = 2 * query + 2 * kv
    feedforward = 2 * c.width * c.mlp_width
    if c.bias:
        attention += (c.heads + 2 * c.kv_heads) * c.head_dim + c.width
        feedforward += c.mlp_width + c.width
    blocks = c.layers * (attention + feedforward + 2 * norm) + norm
    tables = 1 if c.tied_head else 2
    embedding = tables * c.vocab_size * c.width
    position = c.context * c.width if c.position == 'learned' else 0
    padding = tables * (c.dims['V'] - c.vocab_size) * c.width
    total = blocks + embedding + position
    return {
        'total': total,
        'non_embedding': blocks,
        'without_positions': total - position,
        'padded_total': total + padding,
    }


def flops_per_token(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Training FLOPs (forward and backward) per token by convention, for sequences of `context` tokens.

    6N_non_embedding: 6 x non-embedding parameters (Kaplan et al. 2020).
    6N: 6 x parameters without positions (an untied input embedding is no matrix product and is left out).
    with_attention: 6N + 12 x layers x (heads x head_dim) x context (PaLM, appendix B): all of the score matrix.
    causal: 6N + 6 x layers x (heads x head_dim) x context: the half of it that a causal model needs.
    """
    counts = parameters(config)
    matmul = counts['without_positions'] - (0 if config.tied_head else config.vocab_size * config.width)
    scores = 6 * config.layers * config.heads * config.head_dim * (context or config.context)
    return {
        '6N_non_embedding': 6 * counts['non_embedding'],
        '6N': 6 * matmul,
        'with_attention': 6 * matmul + 2 * scores,
        'causal': 6 * matmul + scores,
    }


UTILIZATION_CONVENTION = 'with_attention'  # the FLOPs in "model FLOPs utilization", as PaLM, nanoGPT and MaxText count
