"""How far is the model from the text? Cross-entropy in float32 that need not hold all of B x L x V.

The head and the loss are one function of the features, taken `loss_chunk` positions at a time (0: all). Its gradient is
linear in the incoming one (a scalar), so each chunk's gradient is computed right after its loss, while its logits are
at hand: the logits are neither kept nor computed twice.

A head with an adapter is two heads whose logits are added: the features with the weights, and what the adapter makes of
them with its own. Inside, the head is such a sum: one term, or two.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.lowrank import Adapted
from gpt_jax.model.mask import HIDDEN
from gpt_jax.model.products import einsum
from gpt_jax.model.quantized import operand
from gpt_jax.model.turned import across
from gpt_jax.model.wanted import arrays, values
from gpt_jax.parallel.team import ALONE, Team

Terms = tuple[jax.Array, ...]


def logits(x_BLD: jax.Array, w_VD: Any, config: ModelConfig, first: Any = 0) -> jax.Array:
    """float32 [B, L, V]; the rows that only pad the vocabulary get a score that softmax turns into 0.

    `w_VD` may be quantized, or have an adapter. `first` is the number of its first row.
    """
    return _logits(*_terms(x_BLD, w_VD, config), config, first)


def _terms(x_BLD: jax.Array, w_VD: Any, config: ModelConfig) -> tuple[Terms, tuple[Any, ...]]:
    """What is multiplied, [B, L, D or I] each, and with what, [V, D or I] each."""
    if not isinstance(w_VD, Adapted):
        return (x_BLD,), (w_VD,)
    seen_BLD, b_DI = w_VD.dropped(x_BLD), jnp.swapaxes(w_VD.b, 0, 1)
    h_BLI = einsum('BLD,DI->BLI', seen_BLD, b_DI, config)
    return (x_BLD, h_BLI * w_VD.scale.astype(h_BLI.dtype)), (w_VD.w, w_VD.a)


def _logits(xs: Terms, ws: tuple[Any, ...], config: ModelConfig, first: Any) -> jax.Array:
    return _bounded(
        functools.reduce(jnp.add, (_term(x, w, config) for x, w in zip(xs, ws, strict=True))), config, first
    )


def _term(x_BLD: jax.Array, w_VD: Any, config: ModelConfig) -> jax.Array:
    dtype = jnp.dtype(config.matmul_dtype)
    w_VD, scale_V = operand(w_VD, dtype)
    z_BLV = jnp.einsum('BLD,VD->BLV', x_BLD.astype(dtype), w_VD, preferred_element_type=jnp.float32)
    return z_BLV if scale_V is None else z_BLV * scale_V


def scores(x_BLD: jax.Array, w_VD: Any, config: ModelConfig) -> jax.Array:
    """The same, as a few tokens want it."""
    xs, ws = _terms(x_BLD, w_VD, config)
    each = (across(x.reshape(-1, x.shape[-1]), w, config.matmul_dtype) for x, w in zip(xs, ws, strict=True))
    z_2d = functools.reduce(jnp.add, each)
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


class Wanted(NamedTuple):
    """Of which terms the gradients are wanted."""

    xs: tuple[bool, ...]
    ws: tuple[bool, ...]


def _losses(config: ModelConfig, total_BL: jax.Array, z_BL: jax.Array, weights_BL: jax.Array) -> Losses:
    text = jnp.sum((total_BL - z_BL) * weights_BL)
    if not config.z_loss:
        return Losses(text, text, jnp.zeros((), jnp.float32))
    normalizer = jnp.sum(jnp.square(total_BL) * weights_BL)
    return Losses(text + config.z_loss * normalizer, text, normalizer)


def _measured(
    config: ModelConfig, team: Team, xs: Terms, ws: Terms, targets_BL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(logits of this device's rows, their logsumexp over all rows, the targets' logits, which of the rows are hit)."""
    rows = ws[0].shape[0]
    first = team.index() * rows
    z_BLV = _logits(xs, ws, config, first)
    hit_BLV = targets_BL[..., None] == first + jnp.arange(rows)
    if team.size == 1:
        z_BL = jnp.take_along_axis(z_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return z_BLV, jax.nn.logsumexp(z_BLV, axis=-1), z_BL, hit_BLV
    top_BL = team.max(jax.lax.stop_gradient(jnp.max(z_BLV, axis=-1)))
    sums = (jnp.sum(jnp.exp(z_BLV - top_BL[..., None]), axis=-1), jnp.sum(jnp.where(hit_BLV, z_BLV, 0), axis=-1))
    sum_BL, z_BL = team.sum(sums)
    return z_BLV, top_BL + jnp.log(sum_BL), z_BL, hit_BLV


def _chunk_losses(
    config: ModelConfig, team: Team, xs: Terms, ws: Terms, targets_BL: jax.Array, weights_BL: jax.Array
) -> Losses:
    _, total_BL, z_BL, _ = _measured(config, team, xs, ws, targets_BL)
    return _losses(config, total_BL, z_BL, weights_BL)


def _chunk_gradients(
    config: ModelConfig, team: Team, wanted: Wanted, xs: Terms, ws: Terms, targets_BL: jax.Array, weights_BL: jax.Array
) -> tuple[Losses, tuple[Any, ...], tuple[Any, ...]]:
    """_chunk_losses, and the objective's gradients by x and w: dz w and dz^T x, where without a soft cap and z-loss
    dz = (softmax(z) - one-hot(target)) x weight. Of x it is the part that this device's rows of w give."""
    dtype = jnp.dtype(config.matmul_dtype)
    z_BLV, total_BL, z_BL, hit_BLV = _measured(config, team, xs, ws, targets_BL)
    p_BLV = jnp.exp(z_BLV - total_BL[..., None])
    if config.z_loss:
        p_BLV = p_BLV * (1 + 2 * config.z_loss * total_BL)[..., None]
    dz_BLV = (p_BLV - hit_BLV) * weights_BL[..., None]
    if config.logit_softcap:  # a hidden row's dz is 0, and must stay so
        bend_BLV = 1 - jnp.square(z_BLV / config.logit_softcap)
        dz_BLV = jnp.where(z_BLV > HIDDEN, dz_BLV * bend_BLV, 0)
    dz = dz_BLV.reshape(-1, dz_BLV.shape[-1]).astype(dtype)

    def by_x(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.dot(dz, w.astype(dtype), preferred_element_type=jnp.float32).reshape(x.shape).astype(x.dtype)

    def by_w(x: jax.Array, w: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]).astype(dtype)
        dw = jax.lax.dot_general(dz, rows, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return dw.astype(w.dtype)

    dxs = tuple(by_x(x, w) if want else None for x, w, want in zip(xs, ws, wanted.xs, strict=True))
    dws = tuple(by_w(x, w) if want else None for x, w, want in zip(xs, ws, wanted.ws, strict=True))
    return _losses(config, total_BL, z_BL, weights_BL), dxs, dws


def _chunks(array: jax.Array, chunk: int) -> jax.Array:
    """[B, L, ...] -> [L / chunk, B, chunk, ...]: cut along the length, so that the batch stays spread over devices."""
    batch, length = array.shape[:2]
    return jnp.moveaxis(array.reshape(batch, length // chunk, chunk, *array.shape[2:]), 1, 0)


def _chunk_size(config: ModelConfig, length: int) -> int:
    """The largest divisor of `length` that is at most `loss_chunk`."""
    limit = config.loss_chunk or length
    return max(size for size in range(1, min(limit, length) + 1) if length % size == 0)


def summed_losses(
    x_BLD: jax.Array, w_VD: Any, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig, team: Team = ALONE
) -> Losses:
    """Of the batch's targets by their weights. The objective is differentiable in x and w, the others in nothing.

    Args:
      w_VD: the head's weights; may have an adapter.
      team: the devices that share the rows of `w_VD`, each with an equal part of them and with the same x.
    """
    return _summed_losses(*_terms(x_BLD, w_VD, config), targets_BL, weights_BL, config, team)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _summed_losses(
    xs: Terms, ws: Terms, targets_BL: jax.Array, weights_BL: jax.Array, config: ModelConfig, team: Team
) -> Losses:
    length = targets_BL.shape[1]
    chunk = _chunk_size(config, length)
    if chunk == length:
        return _chunk_losses(config, team, xs, ws, targets_BL, weights_BL)

    def body(sums: Losses, inputs: Any) -> tuple[Losses, None]:
        x_chunks, targets, weights = inputs
        return jax.tree.map(jnp.add, sums, _chunk_losses(config, team, x_chunks, ws, targets, weights)), None

    inputs = jax.tree.map(lambda a: _chunks(a, chunk), (xs, targets_BL, weights_BL))
    return jax.lax.scan(body, _nothing(), inputs)[0]


def _nothing() -> Losses:
    return Losses(*(jnp.zeros((), jnp.float32) for _ in Losses._fields))


def _forward(
    xs: Any, ws: Any, targets_BL: Any, weights_BL: Any, config: ModelConfig, team: Team
) -> tuple[Losses, tuple[Any, Any]]:
    (*terms, targets_BL, weights_BL), wanted_terms = values((*xs, *ws, targets_BL, weights_BL))
    count = len(xs)
    xs, ws = tuple(terms[:count]), tuple(terms[count:])
    wanted = Wanted(wanted_terms[:count], wanted_terms[count : 2 * count])
    length = targets_BL.shape[1]
    chunk = _chunk_size(config, length)
    if chunk == length:
        losses, dxs, dws = _chunk_gradients(config, team, wanted, xs, ws, targets_BL, weights_BL)
        return losses, (dxs, dws)

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        x_chunks, targets, weights = inputs
        losses, dxs, dws = _chunk_gradients(config, team, wanted, x_chunks, ws, targets, weights)
        return jax.tree.map(jnp.add, carry, (losses, dws)), dxs

    inputs = jax.tree.map(lambda a: _chunks(a, chunk), (xs, targets_BL, weights_BL))
    start = tuple(jnp.zeros_like(w) if want else None for w, want in zip(ws, wanted.ws, strict=True))
    (sums, dws), dxs = jax.lax.scan(body, (_nothing(), start), inputs)
    whole = lambda d: jnp.moveaxis(d, 0, 1).reshape(d.shape[1], length, -1)  # noqa: E731
    return sums, (jax.tree.map(whole, dxs), dws)


def _backward(config: ModelConfig, team: Team, gradients: tuple[Any, Any], scales: Any) -> tuple[Any, ...]:
    del config, team
    objective = arrays(scales).objective
    dxs, dws = jax.tree.map(lambda d: (d * objective).astype(d.dtype), gradients)
    return dxs, dws, None, None


_summed_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def log_probabilities(
    x_BLD: jax.Array, w_VD: Any, targets_BL: jax.Array, config: ModelConfig, team: Team = ALONE
) -> jax.Array:
    """log p of every target, in nats: float32 [B, L]. `loss_chunk` positions at a time, whose logits are computed again
    for the gradient; `w_VD` and `team` as for `summed_losses`."""
    xs, ws = _terms(x_BLD, w_VD, config)

    @jax.checkpoint
    def one(inputs: tuple[Terms, jax.Array]) -> jax.Array:
        x_chunks, targets = inputs
        _, total_BL, z_BL, _ = _measured(config, team, x_chunks, ws, targets)
        return z_BL - total_BL

    chunk = _chunk_size(config, x_BLD.shape[1])
    found = jax.lax.map(one, jax.tree.map(lambda a: _chunks(a, chunk), (xs, targets_BL)))
    return jnp.moveaxis(found, 0, 1).reshape(targets_BL.shape)


def predictions(
    x_BLD: jax.Array, w_VD: Any, targets_BL: jax.Array, config: ModelConfig, team: Team = ALONE
) -> tuple[jax.Array, jax.Array]:
    """(log p of every target in nats, whether no other id is likelier): float32 and bool, [B, L]. Without a gradient;
    of equally likely ids the first is the likeliest. Chunks, `w_VD` and `team` as for `log_probabilities`."""
    xs, ws = _terms(x_BLD, w_VD, config)

    def one(inputs: tuple[Terms, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_chunks, targets = inputs
        z_BLV, total_BL, z_BL, _ = _measured(config, team, x_chunks, ws, targets)
        top_BL, first = jnp.max(z_BLV, axis=-1), team.index() * ws[0].shape[0]
        # Of several devices' likeliest ids the first that is as likely as any.
        likeliest_BL = jnp.where(
            top_BL == team.max(top_BL), first + jnp.argmax(z_BLV, axis=-1), jnp.iinfo(jnp.int32).max
        )
        return z_BL - total_BL, -team.max(-likeliest_BL) == targets

    chunk = _chunk_size(config, x_BLD.shape[1])
    found = jax.lax.map(one, jax.tree.map(lambda a: _chunks(a, chunk), (xs, targets_BL)))
    log_p_BL, hit_BL = (jnp.moveaxis(a, 0, 1).reshape(targets_BL.shape) for a in found)
    return log_p_BL, hit_BL
