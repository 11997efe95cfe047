"""How far is the model from the text? Cross-entropy in float32 that need not hold all of B x L x V.

The head and the loss are one function of the features, taken `loss_chunk` positions at a time (0: all). Its gradient is
linear in the incoming one (a scalar), so each chunk's gradient is computed right after its loss, while its logits are
at hand: the logits are neither kept nor computed twice.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN
from gpt_jax.model.quantized import operand
from gpt_jax.model.turned import across
from gpt_jax.parallel.team import ALONE, Team


def logits(x_BLD: jax.Array, w_VD: jax.Array, config: ModelConfig, first: Any = 0) -> jax.Array:
    """float32 [B, L, V]; the rows that only pad the vocabulary get a score that softmax turns into 0.

    `w_VD` may be quantized. `first` is the number of its first row.
    """
    dtype = jnp.dtype(config.matmul_dtype)
    w_VD, scale_V = operand(w_VD, dtype)
    z_BLV = jnp.einsum('BLD,VD->BLV', x_BLD.astype(dtype), w_VD, preferred_element_type=jnp.float32)
    return _bounded(z_BLV if scale_V is None else z_BLV * scale_V, config, first)


def scores(x_BLD: jax.Array, w_VD: jax.Array, config: ModelConfig) -> jax.Array:
    """The same, as a few tokens want it."""
    z_2d = across(x_BLD.reshape(-1, x_BLD.shape[-1]), w_VD, config.matmul_dtype)
    return _bounded(z_2d.reshape(*x_BLD.shape[:-1], -1), config, 0)


def _bounded(z_BLV: jax.Array, config: ModelConfig, first: Any) -> jax.Array:
    if config.logit_softcap:
        z_BLV = config.logit_softcap * jnp.tanh(z_BLV / config.logit_softcap)
    if config.dims['V'] > config.vocab_size:
        z_BLV = jnp.where(first + jnp.arange(z_BLV.shape[-1]) < config.vocab_size, z_BLV, HIDDEN)
    return z_BLV


class Losses(NamedTuple):
    """Summed over the batch, weighted; float32 scalars. objective: what is minimized, the only one with a gradient.

    text: -log p(target) in nats. normalizer: log(Z)^2 (Chowdhery et al. 2022), `z_loss` times of it in the objective.
    """

    objective: jax.Array
    text: jax.Array
    normalizer: jax.Array


def _losses(config: ModelConfig, total_BL: jax.Array, z_BL: jax.Array, weights_BL: jax.Array) -> Losses:
    text = jnp.sum((total_BL - z_BL) * weights_BL)
    if not config.z_loss:
        return Losses(text, text, jnp.zeros((), jnp.float32))
    normalizer = jnp.sum(jnp.square(total_BL) * weights_BL)
    return Losses(text + config.z_loss * normalizer, text, normalizer)


def _measured(
    config: ModelConfig, team: Team, x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(logits of this device's rows, their logsumexp over all rows, the targets' logits, which of the rows are hit)."""
    first = team.index() * w_VD.shape[0]
    z_BLV = logits(x_BLD, w_VD, config, first)
    hit_BLV = targets_BL[..., None] == first + jnp.arange(w_VD.shape[0])
    if team.size == 1:
        z_BL = jnp.take_along_axis(z_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return z_BLV, jax.nn.logsumexp(z_BLV, axis=-1), z_BL, hit_BLV
    top_BL = team.max(jax.lax.stop_gradient(jnp.max(z_BLV, axis=-1)))
    sums = (jnp.sum(jnp.exp(z_BLV - top_BL[..., None]), axis=-1), jnp.sum(jnp.where(hit_BLV, z_BLV, 0), axis=-1))
    sum_BL, z_BL = team.sum(sums)
    return z_BLV, top_BL + jnp.log(sum_BL), z_BL, hit_BLV


def _chunk_losses(
    config: ModelConfig, team: Team, x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> Losses:
    _, total_BL, z_BL, _ = _measured(config, team, x_BLD, w_VD, targets_BL)
    return _losses(config, total_BL, z_BL, weights_BL)


def _chunk_gradients(
    config: ModelConfig, team: Team, x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[Losses, tuple[jax.Array, jax.Array]]:
    """_chunk_losses, and the objective's gradients by x and w: dz w and dz^T x, where without a soft cap and z-loss
    dz = (softmax(z) - one-hot(target)) x weight. Of x it is the part that this device's rows of w give."""
    dtype = jnp.dtype(config.matmul_dtype)
    z_BLV, total_BL, z_BL, hit_BLV = _measured(config, team, x_BLD, w_VD, targets_BL)
    p_BLV = jnp.exp(z_BLV - total_BL[..., None])
    if config.z_loss:
        p_BLV = p_BLV * (1 + 2 * config.z_loss * total_BL)[..., None]
    dz_BLV = (p_BLV - hit_BLV) * weights_BL[..., None]
    if config.logit_softcap:  # a hidden row's dz is 0, and must stay so
        bend_BLV = 1 - jnp.square(z_BLV / config.logit_softcap)
        dz_BLV = jnp.where(z_BLV > HIDDEN, dz_BLV * bend_BLV, 0)
    dz, x = (a.reshape(-1, a.shape[-1]).astype(dtype) for a in (dz_BLV, x_BLD))
    dx = jnp.dot(dz, w_VD.astype(dtype), preferred_element_type=jnp.float32)
    dw = jax.lax.dot_general(dz, x, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    losses = _losses(config, total_BL, z_BL, weights_BL)
    return losses, (dx.reshape(x_BLD.shape).astype(x_BLD.dtype), dw.astype(w_VD.dtype))


def _chunks(array: jax.Array, chunk: int) -> jax.Array:
    """[B, L, ...] -> [L / chunk, B, chunk, ...]: cut along the length, so that the batch stays spread over devices."""
    batch, length = array.shape[:2]
    return jnp.moveaxis(array.reshape(batch, length // chunk, chunk, *array.shape[2:]), 1, 0)


def _chunk_size(config: ModelConfig, length: int) -> int:
    """The largest divisor of `length` that is at most `loss_chunk`."""
    limit = config.loss_chunk or length
    return max(size for size in range(1, min(limit, length) + 1) if length % size == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def summed_losses(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig,
    team: Team = ALONE,
) -> Losses:  # fmt: skip
    """Of the batch's targets by their weights. The objective is differentiable in x and w, the others in nothing.

    Args:
      team: the devices that share the rows of `w_VD`, each with an equal part of them and with the same x.
    """
    chunk = _chunk_size(config, x_BLD.shape[1])
    if chunk == x_BLD.shape[1]:
        return _chunk_losses(config, team, x_BLD, w_VD, targets_BL, weights_BL)

    def body(sums: Losses, inputs: tuple[jax.Array, ...]) -> tuple[Losses, None]:
        x, targets, weights = inputs
        return jax.tree.map(jnp.add, sums, _chunk_losses(config, team, x, w_VD, targets, weights)), None

    inputs = tuple(_chunks(a, chunk) for a in (x_BLD, targets_BL, weights_BL))
    return jax.lax.scan(body, _nothing(), inputs)[0]


def _nothing() -> Losses:
    return Losses(*(jnp.zeros((), jnp.float32) for _ in Losses._fields))


def _forward(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig, team: Team
) -> tuple[Losses, tuple[jax.Array, jax.Array]]:
    chunk = _chunk_size(config, x_BLD.shape[1])
    if chunk == x_BLD.shape[1]:
        return _chunk_gradients(config, team, x_BLD, w_VD, targets_BL, weights_BL)

    def body(carry: Any, inputs: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        sums, dw_VD = carry
        x, targets, weights = inputs
        losses, (dx, dw) = _chunk_gradients(config, team, x, w_VD, targets, weights)
        return (jax.tree.map(jnp.add, sums, losses), dw_VD + dw), dx

    inputs = tuple(_chunks(a, chunk) for a in (x_BLD, targets_BL, weights_BL))
    (sums, dw_VD), dx = jax.lax.scan(body, (_nothing(), jnp.zeros_like(w_VD)), inputs)
    return sums, (jnp.moveaxis(dx, 0, 1).reshape(x_BLD.shape), dw_VD)


def _backward(
    config: ModelConfig, team: Team, gradients: tuple[jax.Array, jax.Array], scales: Losses
) -> tuple[jax.Array, jax.Array, None, None]:
    del config, team
    dx_BLD, dw_VD = gradients
    return (dx_BLD * scales.objective).astype(dx_BLD.dtype), dw_VD * scales.objective, None, None


summed_losses.defvjp(_forward, _backward)


def log_probabilities(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, config: ModelConfig, team: Team = ALONE
) -> jax.Array:
    """log p of every target, in nats: float32 [B, L]. `loss_chunk` positions at a time, whose logits are computed again
    for the gradient; `team` as for `summed_losses`."""

    @jax.checkpoint
    def one(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, targets = inputs
        _, total_BL, z_BL, _ = _measured(config, team, x, w_VD, targets)
        return z_BL - total_BL

    chunk = _chunk_size(config, x_BLD.shape[1])
    found = jax.lax.map(one, (_chunks(x_BLD, chunk), _chunks(targets_BL, chunk)))
    return jnp.moveaxis(found, 0, 1).reshape(targets_BL.shape)


def predictions(
    x_BLD: jax.Array, w_VD: jax.Array, targets_BL: jax.Array, config: ModelConfig, team: Team = ALONE
) -> tuple[jax.Array, jax.Array]:
    """(log p of every target in nats, whether no other id is likelier): float32 and bool, [B, L]. Without a gradient;
    of equally likely ids the first is the likeliest. Chunks and `team` as for `log_probabilities`."""

    def one(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, targets = inputs
        z_BLV, total_BL, z_BL, _ = _measured(config, team, x, w_VD, targets)
        top_BL, first = jnp.max(z_BLV, axis=-1), team.index() * w_VD.shape[0]
        # Of several devices' likeliest ids the first that is as likely as any.
        likeliest_BL = jnp.where(
            top_BL == team.max(top_BL), first + jnp.argmax(z_BLV, axis=-1), jnp.iinfo(jnp.int32).max
        )
        return z_BL - total_BL, -team.max(-likeliest_BL) == targets

    chunk = _chunk_size(config, x_BLD.shape[1])
    found = jax.lax.map(one, (_chunks(x_BLD, chunk), _chunks(targets_BL, chunk)))
    log_p_BL, hit_BL = (jnp.moveaxis(a, 0, 1).reshape(targets_BL.shape) for a in found)
    return log_p_BL, hit_BL
