"""Expected FLOPs of the compiled step, by reason, and the bytes of saved activations."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.core import model_counts
from gpt_jax.core.config import ModelConfig
from gpt_jax.model import loss as losses
from gpt_jax.model import weights
from gpt_jax.model.gpt import GPT, unstack_layers
from gpt_jax.model.splash_attention import splash_block_size
from gpt_jax.parallel.sharding import UNSHARDED


def explain_flops(model_config: ModelConfig) -> dict[str, float]:
    """Return the training FLOPs per token of the program, by reason.

    The reasons add up to the expected FLOPs of the compiled step:
      model: 6N + 12 x (heads x head_dim) x keys (PaLM, appendix B; 'with_attention' of
        core/model_counts.py).
      unseen pairs skipped: scores that the causal mask hides and that are not computed (negative).
      scores computed again: products on pairs of positions in the backward pass beyond the four
        of the convention.
      rematerialization: forward products that the backward pass repeats.
      padding, less vectors: padded rows of the vocabulary, less the vectors, which N counts but no
        product uses.
    """
    counts = model_counts.flops_per_token(model_config)
    layers, length = model_config.layers, model_config.context
    attention_width = model_config.heads * model_config.head_dim
    # FLOPs of one product per pair of positions, over all layers.
    pair_flops = 2 * attention_width * layers
    window = min(model_config.window or length, length)
    visible_keys = sum(window if kind == 'window' else length for kind in model_config.layer_kinds)
    full = 12 * attention_width * visible_keys
    scored_keys = count_scored_keys(model_config)
    is_splash = model_config.attention_kernel == 'splash'
    backward_products = 7 if is_splash else 5
    repeated_products = {'none': 0, 'dots': 0 if is_splash else 2, 'block': 2}[model_config.remat]
    layer_weights, last_weights = _count_product_weights(model_config)
    repeated_forward = 0
    if model_config.remat == 'block':
        repeated_forward = 2 * layers * (layer_weights - last_weights)
    head = model_config.dims['V'] * model_config.width
    products = 6 * (layers * layer_weights + head)
    return {
        'model': counts['with_attention'],
        'unseen pairs skipped': 6 * pair_flops * scored_keys - full,
        'scores computed again': (2 + backward_products - 6) * pair_flops * scored_keys,
        'rematerialization': repeated_forward + repeated_products * pair_flops * scored_keys,
        'padding, less vectors': products - counts['6N'],
    }


def count_scored_keys(model_config: ModelConfig) -> float:
    """Count the keys per query whose scores are computed, in whole blocks.

    The result is the mean over the positions of a sequence and over the layers.
    """
    length = model_config.context
    is_splash = model_config.attention_kernel == 'splash'
    if is_splash:
        block_size = splash_block_size(length, model_config.attention_chunk)
    else:
        block_size = min(model_config.attention_chunk or length, length)
    total = 0
    for kind in model_config.layer_kinds:
        for start in range(0, length, block_size):
            end = min(start + block_size, length)
            first = max(0, start - model_config.window + 1) if kind == 'window' else 0
            if is_splash:
                first -= first % block_size
            total += (end - start) * (end - first)
    return total / length / len(model_config.layer_kinds)


def _count_product_weights(model_config: ModelConfig) -> tuple[int, int]:
    """Return (weights of the products of a layer for one token, those of the last product).

    Rematerialization does not repeat the last product, whose result no gradient needs. With
    experts it does: the gradient of the routing weights needs the result.
    """
    queries = model_config.heads * model_config.head_dim
    keys = model_config.kv_heads * model_config.head_dim
    attention = 2 * model_config.width * (queries + keys)
    matrix = model_config.width * model_config.mlp_width
    if model_config.feedforward == 'experts':
        active = model_config.experts_per_token + model_config.shared_experts
        router = model_config.width * model_config.experts
        return attention + 3 * matrix * active + router, 0
    matrices = 2 if model_config.feedforward == 'mlp' else 3
    return attention + matrices * matrix, matrix


def count_activation_bytes(model_config: ModelConfig, batch: int) -> int:
    """Count the bytes that the forward pass saves for the backward pass under `remat`.

    This is not a closed form: the model is differentiated abstractly, and the residuals are added
    up, without weights and tokens. It is the memory at the middle of a step, with the gradients
    that the loss has computed by then (features and head). Weights, their gradients, optimizer
    moments and the working memory of a layer come on top. The count is exact with scanned layers
    (`scan_layers`). With unrolled layers, XLA shares and repeats results between the two passes as
    it sees fit; in jaxlib 0.10, it undoes rematerialization on CPU.

    Args:
      batch: number of sequences of the full context.
    """
    tokens_BL = jnp.zeros((batch, model_config.context), jnp.int32)
    model, key = GPT(model_config, UNSHARDED, train=True), jax.random.key(0)

    def init() -> Any:
        variables = model.init({'params': key, 'dropout': key}, tokens_BL[:1, :1])
        params = weights.unbox(variables['params'])
        return params if model_config.scan_layers else unstack_layers(params, model_config.layers)

    def objective(params: Any) -> jax.Array:
        features: Any = model.apply({'params': params}, tokens_BL, rngs={'dropout': key})
        ones_BL = jnp.ones(tokens_BL.shape, jnp.float32)
        losses_sum = losses.compute_loss(
            features.x_BLD, features.w_VD, tokens_BL, ones_BL, model_config
        )
        return losses_sum.objective

    make_vjp = jax.make_jaxpr(lambda params: jax.vjp(objective, params)[1])
    jaxpr = make_vjp(jax.eval_shape(init)).jaxpr
    inputs = {*jaxpr.invars, *jaxpr.constvars}
    residuals = {
        id(var): var.aval for var in jaxpr.outvars if not hasattr(var, 'val') and var not in inputs
    }
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in residuals.values())
