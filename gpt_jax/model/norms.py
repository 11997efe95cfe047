"""Layer norm and RMS norm; statistics are float32 for activations of any dtype."""

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.matmul import broadcast_param
from gpt_jax.model.weights import ParamFn
from gpt_jax.parallel.axis_group import SINGLE_DEVICE, AxisGroup
from gpt_jax.parallel.sharding import ShardingPolicy


def layer_norm(
    param: ParamFn, x_BLD: jax.Array, *, config: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    """Compute (x - mean) / sqrt(variance + epsilon) * scale + bias, over D (Ba et al. 2016)."""
    del policy
    x = x_BLD.astype(jnp.float32)
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    inverse_std = jax.lax.rsqrt(variance + config.norm_epsilon)
    y = centered * inverse_std * broadcast_param(param('scale', 'D', 'scale'), x.shape, x.dtype)
    if config.bias:
        y = y + broadcast_param(param('bias', 'D', 'bias'), x.shape, x.dtype)
    return y.astype(config.activation_dtype)


def rms_norm(
    param: ParamFn, x_BLD: jax.Array, *, config: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    """Compute x / sqrt(mean(x^2) + epsilon) * scale, over D (Zhang & Sennrich 2019)."""
    del policy
    return scale_by_rms(x_BLD, get_rms_scale(param, 'scale', 'D', config), config)


def get_rms_scale(param: ParamFn, name: str, letters: str, config: ModelConfig) -> jax.Array:
    """Declare and return the scale of an RMS norm.

    A zero-centered one is stored as the difference from 1, as in Gemma; like a bias, it begins with
    0 and does not decay.
    """
    if config.norm == 'zero_centered_rms':
        difference: jax.Array = param(name, letters, 'bias')
        return 1 + difference
    scale: jax.Array = param(name, letters, 'scale')
    return scale


def scale_by_rms(
    x: jax.Array, scale: jax.Array, config: ModelConfig, devices: AxisGroup = SINGLE_DEVICE
) -> jax.Array:
    """Apply an RMS norm over the last dims, those of the scale.

    Attention calls it for queries and keys (QK norm; Henry et al. 2020): for each head, with one
    scale [K] for all heads (Qwen 3), or for all heads together, with a scale [H, K] (OLMo 2).

    Args:
      devices: the devices that share these dims.
    """
    x_float32 = x.astype(jnp.float32)
    axes = tuple(range(-scale.ndim, 0))
    mean_square = devices.mean(jnp.mean(jnp.square(x_float32), axis=axes, keepdims=True))
    inverse_rms = jax.lax.rsqrt(mean_square + config.norm_epsilon)
    y = x_float32 * inverse_rms * broadcast_param(scale, x.shape, x_float32.dtype)
    return y.astype(config.activation_dtype)


NORMS = {'layer': layer_norm, 'rms': rms_norm, 'zero_centered_rms': rms_norm}
