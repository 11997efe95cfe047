"""How do positions look at each other? The projections, and the kernels behind one signature.

A kernel is `kernel(q_BLHK, k_BMGK, v_BMGK, segments_BL, config) -> o_BLHK`: causal attention, within equal segments
where they are given, scaled by 1/sqrt(K), softmax in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN, causal_mask
from gpt_jax.model.weights import Declare, einsum


def multi_head(
    declare: Declare, x_BLD: jax.Array, segments_BL: jax.Array | None, *, config: ModelConfig, place: Any
) -> jax.Array:
    """Multi-head attention; grouped-query where kv_heads < heads (Ainslie et al. 2023). [B, L, D] -> [B, L, D]."""
    q_BLHK = einsum('BLD,DHK->BLHK', x_BLD, declare('query', 'DHK', 'hidden'), config)
    x_BMD = x_BLD  # the memory of a text is the text itself
    k_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('key', 'DGK', 'hidden'), config)
    v_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('value', 'DGK', 'hidden'), config)
    if config.bias:
        q_BLHK = q_BLHK + declare('query_bias', 'HK', 'bias').astype(q_BLHK.dtype)
        k_BMGK = k_BMGK + declare('key_bias', 'GK', 'bias').astype(k_BMGK.dtype)
        v_BMGK = v_BMGK + declare('value_bias', 'GK', 'bias').astype(v_BMGK.dtype)
    q_BLHK = place.activation(q_BLHK, 'BLHK')
    k_BMGK, v_BMGK = place.activation(k_BMGK, 'BMGK'), place.activation(v_BMGK, 'BMGK')
    o_BLHK = KERNELS[config.attention_kernel](q_BLHK, k_BMGK, v_BMGK, segments_BL, config)
    y_BLD = einsum('BLHK,HKD->BLD', o_BLHK, declare('output', 'HKD', 'residual'), config)
    if config.bias:
        y_BLD = y_BLD + declare('output_bias', 'D', 'bias').astype(y_BLD.dtype)
    return y_BLD


def chunked(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """Plain XLA, `attention_chunk` positions at a time (0: all), and only the scores that are visible to a chunk.

    Half of the scores of a causal attention are never computed, and none are kept: the backward pass computes them
    again from their logsumexp (Dao et al. 2022), so a chunk stays in cache on a CPU. Scores lie as [M, L] throughout,
    for then every product of the two passes finds its operands as they are, and only tensors with K are transposed.
    """
    dtype = jnp.dtype(config.matmul_dtype)
    batch, length, _, width = q_BLHK.shape
    q_BLGRK = (q_BLHK / math.sqrt(width)).reshape(batch, length, k_BMGK.shape[2], -1, width)
    q_BGKRL = jnp.transpose(q_BLGRK.astype(dtype), (0, 2, 4, 3, 1))
    k_BGMK, v_BGMK = (jnp.transpose(a.astype(dtype), (0, 2, 1, 3)) for a in (k_BMGK, v_BMGK))
    o_BGKRL = _attend(q_BGKRL, k_BGMK, v_BGMK, segments_BL, config.attention_chunk or length)
    o_BLGRK = jnp.transpose(o_BGKRL.astype(config.activation_dtype), (0, 4, 1, 3, 2))
    return o_BLGRK.reshape(q_BLHK.shape)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BGKRL: jax.Array, k_BGMK: jax.Array, v_BGMK: jax.Array, segments_BL: jax.Array | None, chunk: int
) -> jax.Array:
    return _attend_forward(q_BGKRL, k_BGMK, v_BGMK, segments_BL, chunk)[0]


def _attend_forward(
    q_BGKRL: jax.Array, k_BGMK: jax.Array, v_BGMK: jax.Array, segments_BL: jax.Array | None, chunk: int
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    v_BGKM = jnp.swapaxes(v_BGMK, 2, 3)
    outputs, totals, length = [], [], q_BGKRL.shape[-1]
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        s_BGMRL = _product('BGMK,BGKRL->BGMRL', k_BGMK[:, :, :stop], q_BGKRL[..., start:stop])
        s_BGMRL = jnp.where(causal_mask(range(start, stop), range(stop), segments_BL), s_BGMRL, HIDDEN)
        top_BGRL = jnp.max(s_BGMRL, axis=2)
        p_BGMRL = jnp.exp(s_BGMRL - top_BGRL[:, :, None])
        sum_BGRL = jnp.sum(p_BGMRL, axis=2)
        o_BGKRL = _product('BGKM,BGMRL->BGKRL', v_BGKM[..., :stop], p_BGMRL.astype(v_BGKM.dtype))
        outputs.append(o_BGKRL / sum_BGRL[:, :, None])
        totals.append(top_BGRL + jnp.log(sum_BGRL))
    o_BGKRL, total_BGRL = jnp.concatenate(outputs, axis=-1), jnp.concatenate(totals, axis=-1)
    return o_BGKRL, (q_BGKRL, k_BGMK, v_BGMK, segments_BL, o_BGKRL, total_BGRL)


def _attend_backward(
    chunk: int, kept: tuple[Any, ...], do_BGKRL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q_BGKRL, k_BGMK, v_BGMK, segments_BL, o_BGKRL, total_BGRL = kept
    dtype, length = k_BGMK.dtype, q_BGKRL.shape[-1]
    product_BGRL = jnp.sum(do_BGKRL * o_BGKRL, axis=2)
    do_BGKRL = do_BGKRL.astype(dtype)
    q_BGRLK, do_BGRLK = (jnp.moveaxis(a, 2, 4) for a in (q_BGKRL, do_BGKRL))
    k_BGKM = jnp.swapaxes(k_BGMK, 2, 3)
    dq_BGKRL, dk, dv = jnp.zeros(q_BGKRL.shape, jnp.float32), [], []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        s_BGMRL = _product('BGMK,BGKRL->BGMRL', k_BGMK[:, :, start:stop], q_BGKRL[..., start:])
        visible = causal_mask(range(start, length), range(start, stop), segments_BL)
        p_BGMRL = jnp.exp(jnp.where(visible, s_BGMRL, HIDDEN) - total_BGRL[:, :, None, :, start:])
        dp_BGMRL = _product('BGMK,BGKRL->BGMRL', v_BGMK[:, :, start:stop], do_BGKRL[..., start:])
        ds_BGMRL = (p_BGMRL * (dp_BGMRL - product_BGRL[:, :, None, :, start:])).astype(dtype)
        dv.append(_product('BGMRL,BGRLK->BGMK', p_BGMRL.astype(dtype), do_BGRLK[..., start:, :]))
        dk.append(_product('BGMRL,BGRLK->BGMK', ds_BGMRL, q_BGRLK[..., start:, :]))
        added_BGKRL = _product('BGKM,BGMRL->BGKRL', k_BGKM[..., start:stop], ds_BGMRL)
        dq_BGKRL = dq_BGKRL.at[..., start:].add(added_BGKRL)
    dk_BGMK, dv_BGMK = jnp.concatenate(dk, axis=2), jnp.concatenate(dv, axis=2)
    return dq_BGKRL.astype(dtype), dk_BGMK.astype(dtype), dv_BGMK.astype(dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def cudnn(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """cuDNN's fused attention on NVIDIA GPUs (bfloat16 operands). Segments become an explicit mask."""
    dtype = jnp.dtype(config.matmul_dtype)
    mask = None if segments_BL is None else (segments_BL[:, None, :, None] == segments_BL[:, None, None, :])
    o_BLHK = jax.nn.dot_product_attention(
        q_BLHK.astype(dtype), k_BMGK.astype(dtype), v_BMGK.astype(dtype), mask=mask, is_causal=True,
        implementation='cudnn',
    )  # fmt: skip
    return o_BLHK.astype(config.activation_dtype)


ATTENTIONS = {'multi_head': multi_head}
KERNELS = {'chunked': chunked, 'cudnn': cudnn}
