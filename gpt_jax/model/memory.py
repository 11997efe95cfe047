"""How many bytes does a model need beside its weights? What a cache holds, and what the backward pass keeps."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.model import cache, weights
from gpt_jax.model import loss as losses
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.parallel.place import ANYWHERE


def cache_bytes(config: ModelConfig, batch: int, capacity: int, chunk: int) -> int:
    """Of model/cache.py's `empty`: keys and values in `matmul_dtype`, and an int32 for each row.

    Args:
      capacity: tokens that a row can come to hold.
      chunk: the most tokens that one call adds; a window layer's ring is so much longer.
    """
    slots = sum(cache.slots(config, kind, capacity, chunk) for kind in config.kinds)
    each = config.kv_heads * config.head_dim * jnp.dtype(config.matmul_dtype).itemsize
    return batch * (2 * slots * each + 4)


def activation_bytes(config: ModelConfig, batch: int) -> int:
    """What the forward pass keeps for the backward pass of `batch` sequences of the whole context, by `remat`.

    Not in closed form: the model is differentiated in the abstract, and what is handed on is added up, weights and
    tokens apart. It is what there is at the middle of a step, the gradients that the loss has at hand by then (features
    and head) included; the weights, their gradients, the optimizer's moments and what a layer holds while it is at work
    come on top. Exact where the layers are rolled up (`scan_layers`). Written out, XLA shares and repeats results
    between the two passes as it sees fit, and that of jaxlib 0.10 undoes rematerialization on a CPU.
    """
    tokens_BL = jnp.zeros((batch, config.context), jnp.int32)
    model, key = GPT(config, ANYWHERE, train=True), jax.random.key(0)

    def init() -> Any:
        params = weights.unbox(model.init({'params': key, 'dropout': key}, tokens_BL[:1, :1])['params'])
        return params if config.scan_layers else unstack(params, config.layers)

    def objective(params: Any) -> jax.Array:
        features: Any = model.apply({'params': params}, tokens_BL, rngs={'dropout': key})
        ones_BL = jnp.ones(tokens_BL.shape, jnp.float32)
        return losses.summed_losses(features.x_BLD, features.w_VD, tokens_BL, ones_BL, config).objective

    program = jax.make_jaxpr(lambda params: jax.vjp(objective, params)[1])(jax.eval_shape(init)).jaxpr
    given = {*program.invars, *program.constvars}
    kept = {id(var): var.aval for var in program.outvars if not hasattr(var, 'val') and var not in given}
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in kept.values())
