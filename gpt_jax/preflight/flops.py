"""How many FLOPs should the compiled step have, and why more than the model's? Closed forms, reason by reason."""

from gpt_jax.model import accounting
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.splash import block


def explained(config: ModelConfig) -> dict[str, float]:
    """Training FLOPs per token of the program, by reason; they add up to what the compiled step is expected to have.

    model: 6N + 12 x (heads x head_dim) x keys (PaLM, appendix B; accounting's 'with_attention'). unseen: of scores that
    the causal mask hides and that are skipped (negative). scores again: the backward pass's own products on pairs of
    positions beyond the four that the convention counts. recomputed: the forward products that rematerialization
    repeats. padding: vocabulary rows that mean nothing, and vectors that are counted in N but are no products.
    """
    counts = accounting.flops_per_token(config)
    layers, length = config.layers, config.context
    pair = 2 * config.heads * config.head_dim * layers  # one product on all pairs of one token with one key
    full = 12 * config.heads * config.head_dim * sum(min(config.window or length, length) if k == 'window' else length
                                                     for k in config.kinds)  # fmt: skip
    seen = pairs(config)
    backward = {'splash': 7}.get(config.attention_kernel, 5)
    again = {'none': 0, 'dots': 0 if config.attention_kernel == 'splash' else 2, 'block': 2}[config.remat]
    matrices = _matrices(config)
    forward = 2 * layers * (matrices['all'] - matrices['last']) if config.remat == 'block' else 0
    head = config.dims['V'] * config.width
    products = 6 * (layers * matrices['all'] + head)
    return {
        'model': counts['with_attention'],
        'unseen pairs skipped': 6 * pair * seen - full,
        'scores computed again': (2 + backward - 6) * pair * seen,
        'rematerialization': forward + again * pair * seen,
        'padding, less vectors': products - counts['6N'],
    }


def pairs(config: ModelConfig) -> float:
    """Keys that a token's scores are computed with, on average over tokens and layers; whole blocks of them."""
    length = config.context
    if config.attention_kernel == 'splash':
        size = block(length, config.attention_chunk)
    else:
        size = min(config.attention_chunk or length, length)
    total = 0
    for kind in config.kinds:
        for start in range(0, length, size):
            end = min(start + size, length)
            first = max(0, start - config.window + 1) if kind == 'window' else 0
            if config.attention_kernel == 'splash':
                first -= first % size
            total += (end - start) * (end - first)
    return total / length / len(config.kinds)


def _matrices(config: ModelConfig) -> dict[str, int]:
    """Weights of a layer's products that one token uses, and those of the last product, which nothing is made from."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = 2 * config.width * (queries + keys)
    one = config.width * config.mlp_width
    if config.feedforward == 'experts':
        used = config.experts_per_token + config.shared_experts
        return {'all': attention + 3 * one * used + config.width * config.experts, 'last': 0}
    return {'all': attention + (2 if config.feedforward == 'mlp' else 3) * one, 'last': one}
