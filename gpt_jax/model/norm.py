"""How are activations normalized? Statistics are taken in float32 whatever the activations' type."""

from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.products import spread
from gpt_jax.model.weights import Declare


def layer_norm(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> jax.Array:
    """Ba et al. 2016: (x - mean) / sqrt(variance + epsilon) * scale + bias, over D."""
    del place
    x = x_BLD.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + config.norm_epsilon)
    y = centred * inverse * spread(declare('scale', 'D', 'scale'), x.shape, x.dtype)
    if config.bias:
        y = y + spread(declare('bias', 'D', 'bias'), x.shape, x.dtype)
    return y.astype(config.activation_dtype)


def rms_norm(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> jax.Array:
    """Zhang & Sennrich 2019: x / sqrt(mean(x^2) + epsilon) * scale, over D."""
    del place
    return _rms(x_BLD, declare('scale', 'D', 'scale'), config)


def head_norm(a_BLHK: jax.Array, scale_K: jax.Array, config: ModelConfig) -> jax.Array:
    """The RMS norm of each head's query or key, with one scale for all heads (Henry et al. 2020; Qwen 3)."""
    return _rms(a_BLHK, scale_K, config)


def _rms(a: jax.Array, scale: jax.Array, config: ModelConfig) -> jax.Array:
    x = a.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + config.norm_epsilon)
    return (x * inverse * spread(scale, x.shape, x.dtype)).astype(config.activation_dtype)


NORMS = {'layer': layer_norm, 'rms': rms_norm}
