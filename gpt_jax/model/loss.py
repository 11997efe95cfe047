"""Output head and cross-entropy loss in float32, computed in chunks of positions.

The head and the loss are one function of the features, computed for `loss_chunk` positions at a
time (0: all), so that the [B, L, V] logits need not exist at once. Its gradient is linear in the
incoming one (a scalar), so each chunk's gradient is computed right after its loss, while its logits
are available: the logits are neither stored nor computed twice.

A head with a low-rank adapter is two heads whose logits are added: the features times the weights,
and the adapter's hidden features times its second factor. Internally every head is such a sum of
one or two terms.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import custom_vjp_primal_tree_values

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.low_rank import AdaptedWeight
from gpt_jax.model.mask import MASK_VALUE
from gpt_jax.model.matmul import einsum, materialize_zeros, needs_gradient
from gpt_jax.model.quantization import matmul_operand, matmul_transposed
from gpt_jax.parallel.axis_group import SINGLE_DEVICE, AxisGroup

Terms = tuple[jax.Array, ...]  # the features, or the weights, of each term of the head

# Logits


def compute_logits(
    x_BLD: jax.Array, w_VD: Any, config: ModelConfig, first_row: Any = 0
) -> jax.Array:
    """Compute the logits, float32 [B, L, V].

    Rows that only pad the vocabulary get MASK_VALUE, which softmax turns into 0.

    Args:
      x_BLD: features.
      w_VD: the head's weights; may be quantized or have an adapter.
      config: the model's config.
      first_row: the id of the first row of `w_VD`.
    """
    xs, ws = _split_terms(x_BLD, w_VD, config)
    return _sum_logits(xs, ws, config, first_row)


def compute_decode_logits(x_BLD: jax.Array, w_VD: Any, config: ModelConfig) -> jax.Array:
    """Compute the logits of a few tokens, fast on a CPU; otherwise as `compute_logits`."""
    xs, ws = _split_terms(x_BLD, w_VD, config)
    terms = (
        matmul_transposed(x.reshape(-1, x.shape[-1]), w, config.matmul_dtype)
        for x, w in zip(xs, ws, strict=True)
    )
    z_2d = functools.reduce(jnp.add, terms)
    return _cap_and_mask(z_2d.reshape(*x_BLD.shape[:-1], -1), config, 0)


def _split_terms(x_BLD: jax.Array, w_VD: Any, config: ModelConfig) -> tuple[Terms, Terms]:
    """Return the features [B, L, D or rank] and the weights [V, D or rank] of each term."""
    if not isinstance(w_VD, AdaptedWeight):
        return (x_BLD,), (w_VD,)
    dropped_BLD, b_DI = w_VD.dropout(x_BLD), jnp.swapaxes(w_VD.b, 0, 1)
    h_BLI = einsum('BLD,DI->BLI', dropped_BLD, b_DI, config)
    return (x_BLD, h_BLI * w_VD.scale.astype(h_BLI.dtype)), (w_VD.w, w_VD.a)


def _sum_logits(xs: Terms, ws: Terms, config: ModelConfig, first_row: Any) -> jax.Array:
    dtype = jnp.dtype(config.matmul_dtype)

    def multiply(x_BLD: jax.Array, w_VD: Any) -> jax.Array:
        w_VD, scale_V = matmul_operand(w_VD, dtype)
        z_BLV = jnp.einsum(
            'BLD,VD->BLV', x_BLD.astype(dtype), w_VD, preferred_element_type=jnp.float32
        )
        return z_BLV if scale_V is None else z_BLV * scale_V

    z_BLV = functools.reduce(jnp.add, map(multiply, xs, ws))
    return _cap_and_mask(z_BLV, config, first_row)


def _cap_and_mask(z_BLV: jax.Array, config: ModelConfig, first_row: Any) -> jax.Array:
    """Apply the soft cap, and mask the rows that pad the vocabulary."""
    if config.logit_softcap:
        z_BLV = config.logit_softcap * jnp.tanh(z_BLV / config.logit_softcap)
    if config.dims['V'] > config.vocab_size:
        is_token_V = first_row + jnp.arange(z_BLV.shape[-1]) < config.vocab_size
        z_BLV = jnp.where(is_token_V, z_BLV, MASK_VALUE)
    return z_BLV


# Loss


class LossSums(NamedTuple):
    """Weighted sums over the batch; float32 scalars.

    objective: the minimized sum; the only one with a gradient.
    cross_entropy: -log p(target) in nats.
    squared_log_z: log(Z)^2 (Chowdhery et al. 2022); the objective has `z_loss` times this.
    """

    objective: jax.Array
    cross_entropy: jax.Array
    squared_log_z: jax.Array


class _ChunkLogits(NamedTuple):
    """The logits of a chunk.

    z_BLV: the logits of this device's rows.
    lse_BL: the logsumexp of the logits of all rows.
    target_BL: the logits of the targets.
    is_target_BLV: which of this device's rows are targets.
    """

    z_BLV: jax.Array
    lse_BL: jax.Array
    target_BL: jax.Array
    is_target_BLV: jax.Array


def compute_loss(
    x_BLD: jax.Array,
    w_VD: Any,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    config: ModelConfig,
    group: AxisGroup = SINGLE_DEVICE,
) -> LossSums:
    """Sum the losses of the targets, times their weights.

    train/step.py adds the sums of all microbatches and devices, and divides them once by the sum of
    all weights. The weights come with the batch (data/loader.py); without them every target counts.

    Only the objective is differentiable, with respect to x and w.

    Args:
      x_BLD: features.
      w_VD: the head's weights; may have an adapter.
      targets_BL: int32 ids.
      weights_BL: float32.
      config: the model's config.
      group: the devices that share the rows of `w_VD`, each with an equal part of them and with
        the same x.
    """
    return _sum_losses(*_split_terms(x_BLD, w_VD, config), targets_BL, weights_BL, config, group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _sum_losses(
    xs: Terms,
    ws: Terms,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    config: ModelConfig,
    group: AxisGroup,
) -> LossSums:
    def chunk_losses(xs: Terms, targets_BL: jax.Array, weights_BL: jax.Array) -> LossSums:
        logits = _compute_chunk_logits(config, group, xs, ws, targets_BL)
        return _chunk_sums(config, logits, weights_BL)

    length = targets_BL.shape[1]
    chunk = _chunk_size(config, length)
    if chunk == length:
        return chunk_losses(xs, targets_BL, weights_BL)

    def add(sums: LossSums, inputs: Any) -> tuple[LossSums, None]:
        return jax.tree.map(jnp.add, sums, chunk_losses(*inputs)), None

    inputs = _split_length((xs, targets_BL, weights_BL), chunk)
    return jax.lax.scan(add, _zero_sums(), inputs)[0]


def _forward(
    xs: Any, ws: Any, targets_BL: Any, weights_BL: Any, config: ModelConfig, group: AxisGroup
) -> tuple[LossSums, tuple[Any, Any]]:
    """Compute the sums, and the objective's gradients as the residuals."""
    xs_needed, ws_needed = needs_gradient(xs), needs_gradient(ws)
    xs, ws, targets_BL, weights_BL = custom_vjp_primal_tree_values((xs, ws, targets_BL, weights_BL))
    gradients_of = functools.partial(_chunk_gradients, config, group, ws, xs_needed, ws_needed)
    length = targets_BL.shape[1]
    chunk = _chunk_size(config, length)
    if chunk == length:
        sums, dxs, dws = gradients_of(xs, targets_BL, weights_BL)
        return sums, (dxs, dws)

    def add(carry: Any, inputs: Any) -> tuple[Any, Any]:
        sums, dxs, dws = gradients_of(*inputs)
        return jax.tree.map(jnp.add, carry, (sums, dws)), dxs

    inputs = _split_length((xs, targets_BL, weights_BL), chunk)
    zeros = tuple(
        jnp.zeros_like(w) if needed else None for w, needed in zip(ws, ws_needed, strict=True)
    )
    (sums, dws), dxs = jax.lax.scan(add, (_zero_sums(), zeros), inputs)
    return sums, (_join_length(dxs), dws)


def _backward(
    config: ModelConfig, group: AxisGroup, gradients: tuple[Any, Any], d_sums: Any
) -> tuple[Any, ...]:
    del config, group
    d_objective = materialize_zeros(d_sums).objective
    dxs, dws = jax.tree.map(lambda d: (d * d_objective).astype(d.dtype), gradients)
    return dxs, dws, None, None


_sum_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def _compute_chunk_logits(
    config: ModelConfig, group: AxisGroup, xs: Terms, ws: Terms, targets_BL: jax.Array
) -> _ChunkLogits:
    rows = ws[0].shape[0]
    first_row = group.index() * rows
    z_BLV = _sum_logits(xs, ws, config, first_row)
    is_target_BLV = targets_BL[..., None] == first_row + jnp.arange(rows)
    if group.size == 1:
        target_BL = jnp.take_along_axis(z_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return _ChunkLogits(z_BLV, jax.nn.logsumexp(z_BLV, axis=-1), target_BL, is_target_BLV)
    top_BL = group.max(jax.lax.stop_gradient(jnp.max(z_BLV, axis=-1)))
    local_sum_BL = jnp.sum(jnp.exp(z_BLV - top_BL[..., None]), axis=-1)
    local_target_BL = jnp.sum(jnp.where(is_target_BLV, z_BLV, 0), axis=-1)
    sum_BL, target_BL = group.sum((local_sum_BL, local_target_BL))
    return _ChunkLogits(z_BLV, top_BL + jnp.log(sum_BL), target_BL, is_target_BLV)


def _chunk_sums(config: ModelConfig, logits: _ChunkLogits, weights_BL: jax.Array) -> LossSums:
    lse_BL = logits.lse_BL
    cross_entropy = jnp.sum((lse_BL - logits.target_BL) * weights_BL)
    if not config.z_loss:
        return LossSums(cross_entropy, cross_entropy, jnp.zeros((), jnp.float32))
    squared_log_z = jnp.sum(jnp.square(lse_BL) * weights_BL)
    return LossSums(cross_entropy + config.z_loss * squared_log_z, cross_entropy, squared_log_z)


def _chunk_gradients(
    config: ModelConfig,
    group: AxisGroup,
    ws: Terms,
    xs_needed: tuple[bool, ...],
    ws_needed: tuple[bool, ...],
    xs: Terms,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
) -> tuple[LossSums, tuple[Any, ...], tuple[Any, ...]]:
    """Return the sums and the gradients of the objective: dz w for x, and dz^T x for w.

    Without a soft cap and z-loss, dz = (softmax(z) - one-hot(target)) x weight. The gradient for x
    is the part that this device's rows of w contribute.
    """
    dtype = jnp.dtype(config.matmul_dtype)
    logits = _compute_chunk_logits(config, group, xs, ws, targets_BL)
    z_BLV, lse_BL = logits.z_BLV, logits.lse_BL
    p_BLV = jnp.exp(z_BLV - lse_BL[..., None])
    if config.z_loss:
        p_BLV = p_BLV * (1 + 2 * config.z_loss * lse_BL)[..., None]
    dz_BLV = (p_BLV - logits.is_target_BLV) * weights_BL[..., None]
    if config.logit_softcap:  # the dz of a masked row is 0, and must stay 0
        cap_derivative_BLV = 1 - jnp.square(z_BLV / config.logit_softcap)
        dz_BLV = jnp.where(z_BLV > MASK_VALUE, dz_BLV * cap_derivative_BLV, 0)
    dz = dz_BLV.reshape(-1, dz_BLV.shape[-1]).astype(dtype)

    def gradient_by_x(x: jax.Array, w: jax.Array) -> jax.Array:
        dx = jnp.dot(dz, w.astype(dtype), preferred_element_type=jnp.float32)
        return dx.reshape(x.shape).astype(x.dtype)

    def gradient_by_w(x: jax.Array, w: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1]).astype(dtype)
        dims = (((0,), (0,)), ((), ()))
        dw = jax.lax.dot_general(dz, rows, dims, preferred_element_type=jnp.float32)
        return dw.astype(w.dtype)

    dxs = tuple(
        gradient_by_x(x, w) if needed else None
        for x, w, needed in zip(xs, ws, xs_needed, strict=True)
    )
    dws = tuple(
        gradient_by_w(x, w) if needed else None
        for x, w, needed in zip(xs, ws, ws_needed, strict=True)
    )
    return _chunk_sums(config, logits, weights_BL), dxs, dws


# Scores of given targets


def compute_log_probs(
    x_BLD: jax.Array,
    w_VD: Any,
    targets_BL: jax.Array,
    config: ModelConfig,
    group: AxisGroup = SINGLE_DEVICE,
) -> jax.Array:
    """Return log p of every target, in nats: float32 [B, L].

    Processes `loss_chunk` positions at a time; the gradient recomputes their logits. Arguments as
    for `compute_loss`.
    """
    xs, ws = _split_terms(x_BLD, w_VD, config)

    @jax.checkpoint
    def score(xs: Terms, targets_BL: jax.Array) -> jax.Array:
        logits = _compute_chunk_logits(config, group, xs, ws, targets_BL)
        return logits.target_BL - logits.lse_BL

    return _map_chunks(score, xs, targets_BL, config)


def score_targets(
    x_BLD: jax.Array,
    w_VD: Any,
    targets_BL: jax.Array,
    config: ModelConfig,
    group: AxisGroup = SINGLE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """Return log p of every target in nats, and whether it is the most probable id.

    float32 and bool, [B, L]; without a gradient. Of equally probable ids, the first counts as the
    most probable. Arguments as for `compute_loss`.
    """
    xs, ws = _split_terms(x_BLD, w_VD, config)

    def score(xs: Terms, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = _compute_chunk_logits(config, group, xs, ws, targets_BL)
        top_BL, first_row = jnp.max(logits.z_BLV, axis=-1), group.index() * ws[0].shape[0]
        # Of the devices' most probable ids, the first whose logit is the overall maximum.
        argmax_BL = first_row + jnp.argmax(logits.z_BLV, axis=-1)
        argmax_BL = jnp.where(top_BL == group.max(top_BL), argmax_BL, jnp.iinfo(jnp.int32).max)
        return logits.target_BL - logits.lse_BL, -group.max(-argmax_BL) == targets_BL

    return _map_chunks(score, xs, targets_BL, config)


def _map_chunks(
    function: Callable[[Terms, jax.Array], Any],
    xs: Terms,
    targets_BL: jax.Array,
    config: ModelConfig,
) -> Any:
    """Apply `function` chunk by chunk; it returns arrays [B, chunk]."""
    chunk = _chunk_size(config, targets_BL.shape[1])
    inputs = _split_length((xs, targets_BL), chunk)
    chunks = jax.lax.map(lambda inputs: function(*inputs), inputs)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(targets_BL.shape), chunks)


# Chunks along the length


def _chunk_size(config: ModelConfig, length: int) -> int:
    """Return the largest divisor of `length` that is at most `loss_chunk`."""
    limit = config.loss_chunk or length
    return max(size for size in range(1, min(limit, length) + 1) if length % size == 0)


def _split_length(tree: Any, chunk: int) -> Any:
    """Split every array [B, L, ...] into [L / chunk, B, chunk, ...].

    Splits the length so that the batch stays sharded over devices.
    """

    def split(a: jax.Array) -> jax.Array:
        batch, length = a.shape[:2]
        return jnp.moveaxis(a.reshape(batch, length // chunk, chunk, *a.shape[2:]), 1, 0)

    return jax.tree.map(split, tree)


def _join_length(tree: Any) -> Any:
    """Invert `_split_length`: [L / chunk, B, chunk, D] -> [B, L, D] for every array."""

    def join(a: jax.Array) -> jax.Array:
        chunks, batch, chunk = a.shape[:3]
        return jnp.moveaxis(a, 0, 1).reshape(batch, chunks * chunk, -1)

    return jax.tree.map(join, tree)


def _zero_sums() -> LossSums:
    return LossSums(*(jnp.zeros((), jnp.float32) for _ in LossSums._fields))
