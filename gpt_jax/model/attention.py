"""How do positions look at each other? The projections, and the kernels behind one signature.

A kernel is `kernel(q_BLHK, k_BMGK, v_BMGK, segments_BL, config) -> o_BLHK`: causal attention, within equal segments
where they are given, scaled by 1/sqrt(K), softmax in float32.
"""

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
    """Plain XLA, `attention_chunk` queries at a time (0: all), each chunk against the keys it may see and no others.

    Half of the scores of a causal attention are never computed, and the rest stay in cache on a CPU.
    """
    length, groups = q_BLHK.shape[1], k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(*q_BLHK.shape[:2], groups, -1, q_BLHK.shape[-1])
    chunk = config.attention_chunk or length
    outputs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        visible = causal_mask(start, stop, segments_BL)
        outputs.append(_attend(q_BLGRK[:, start:stop], k_BMGK[:, :stop], v_BMGK[:, :stop], visible, config))
    o_BLGRK = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)
    return o_BLGRK.reshape(q_BLHK.shape)


def _attend(
    q_BLGRK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, visible: jax.Array, config: ModelConfig
) -> jax.Array:
    dtype = jnp.dtype(config.matmul_dtype)
    q_BLGRK = (q_BLGRK / math.sqrt(q_BLGRK.shape[-1])).astype(dtype)
    s_BGRLM = jnp.einsum('BLGRK,BMGK->BGRLM', q_BLGRK, k_BMGK.astype(dtype), preferred_element_type=jnp.float32)
    p_BGRLM = jax.nn.softmax(jnp.where(visible, s_BGRLM, HIDDEN), axis=-1).astype(dtype)
    o_BLGRK = jnp.einsum('BGRLM,BMGK->BLGRK', p_BGRLM, v_BMGK.astype(dtype), preferred_element_type=jnp.float32)
    return o_BLGRK.astype(config.activation_dtype)


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
