"""How far is the model from the text? Cross-entropy in float32 that need not hold all of B x L x V.

The head and the loss are one function of the features, taken `loss_chunk` positions at a time (0: all). Its gradient is
linear in the incoming one (a scalar), so each chunk's gradient is computed right after its loss, while its logits are
at hand: the logits are neither kept nor computed twice.
"""

import functools

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN


def logits(x_BLD: jax.Array, w_VD: jax.Array, config: ModelConfig) -> jax.Array:
    """float32 [B, L, V]; the rows that only pad the vocabulary get a score that softmax turns into 0."""
    dtype = jnp.dtype(config.matmul_dtype)
    z_BLV = jnp.einsum('BLD,VD->BLV', x_BLD.astype(dtype), w_VD.astype(dtype), preferred_element_type=jnp.float32)
    if w_VD.shape[0] > config.vocab_size:
        z_BLV = jnp.where(jnp.arange(w_VD.shape[0]) < config.vocab_size, z_BLV, HIDDEN)
    return z_BLV


def token_losses(x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, config: ModelConfig) -> jax.Array:
    """-log p(target) of every position in nats. float32 [B, L]."""
    z_BLV = logits(x_BLD, w_VD, config)
    z_BL = jnp.take_along_axis(z_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(z_BLV, axis=-1) - z_BL


def _chunk_loss(
    config: ModelConfig, x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> jax.Array:
    return jnp.sum(token_losses(x_BLD, w_VD, targets_BL, config) * weights_BL)


def _chunk_gradients(
    config: ModelConfig, x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """_chunk_loss and its gradients by x and w: with dz = (softmax(z) - one-hot(target)) x weight, dz w and dz^T x."""
    dtype = jnp.dtype(config.matmul_dtype)
    z_BLV = logits(x_BLD, w_VD, config)
    total_BL = jax.nn.logsumexp(z_BLV, axis=-1)
    z_BL = jnp.take_along_axis(z_BLV, targets_BL[..., None], axis=-1)[..., 0]
    hit_BLV = targets_BL[..., None] == jnp.arange(w_VD.shape[0])
    dz_BLV = (jnp.exp(z_BLV - total_BL[..., None]) - hit_BLV) * weights_BL[..., None]
    dz, x = (a.reshape(-1, a.shape[-1]).astype(dtype) for a in (dz_BLV, x_BLD))
    dx = jnp.dot(dz, w_VD.astype(dtype), preferred_element_type=jnp.float32)
    dw = jax.lax.dot_general(dz, x, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    loss = jnp.sum((total_BL - z_BL) * weights_BL)
    return loss, (dx.reshape(x_BLD.shape).astype(x_BLD.dtype), dw.astype(w_VD.dtype))


def _chunks(array: jax.Array, chunk: int) -> jax.Array:
    """[B, L, ...] -> [L / chunk, B, chunk, ...]: cut along the length, so that the batch stays spread over devices."""
    batch, length = array.shape[:2]
    return jnp.moveaxis(array.reshape(batch, length // chunk, chunk, *array.shape[2:]), 1, 0)


def _chunk_size(config: ModelConfig, length: int) -> int:
    """The largest divisor of `length` that is at most `loss_chunk`."""
    limit = config.loss_chunk or length
    return max(size for size in range(1, min(limit, length) + 1) if length % size == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def summed_loss(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig
) -> jax.Array:
    """sum of weight x -log p(target) over the batch, in nats. Float32 scalar; differentiable in x and w."""
    chunk = _chunk_size(config, x_BLD.shape[1])
    if chunk == x_BLD.shape[1]:
        return _chunk_loss(config, x_BLD, w_VD, targets_BL, weights_BL)
    inputs = tuple(_chunks(a, chunk) for a in (x_BLD, targets_BL, weights_BL))
    body = lambda total, c: (total + _chunk_loss(config, c[0], w_VD, c[1], c[2]), None)  # noqa: E731
    return jax.lax.scan(body, jnp.zeros((), jnp.float32), inputs)[0]


def _forward(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    chunk = _chunk_size(config, x_BLD.shape[1])
    if chunk == x_BLD.shape[1]:
        return _chunk_gradients(config, x_BLD, w_VD, targets_BL, weights_BL)

    def body(carry, inputs):
        total, dw_VD = carry
        x, targets, weights = inputs
        loss, (dx, dw) = _chunk_gradients(config, x, w_VD, targets, weights)
        return (total + loss, dw_VD + dw), dx

    inputs = tuple(_chunks(a, chunk) for a in (x_BLD, targets_BL, weights_BL))
    (total, dw_VD), dx = jax.lax.scan(body, (jnp.zeros((), jnp.float32), jnp.zeros_like(w_VD)), inputs)
    return total, (jnp.moveaxis(dx, 0, 1).reshape(x_BLD.shape), dw_VD)


def _backward(
    config: ModelConfig, gradients: tuple[jax.Array, jax.Array], scale: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    del config
    dx_BLD, dw_VD = gradients
    return (dx_BLD * scale).astype(dx_BLD.dtype), dw_VD * scale, None, None


summed_loss.defvjp(_forward, _backward)
