"""How do positions look at each other? The projections, and the kernels behind one signature.

A kernel is `kernel(q_BLHK, k_BMGK, v_BMGK, segments_BL, config) -> o_BLHK`: causal attention, within equal segments
where they are given, scaled by 1/sqrt(K), softmax in float32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN, causal_mask
from gpt_jax.model.products import einsum, scaled, spread
from gpt_jax.model.weights import Declare
from gpt_jax.parametrization import forward


def multi_head(
    declare: Declare, x_BLD: jax.Array, segments_BL: jax.Array | None, *, config: ModelConfig, place: Any
) -> jax.Array:
    """Multi-head attention; grouped-query where kv_heads < heads (Ainslie et al. 2023). [B, L, D] -> [B, L, D]."""
    q_BLHK = einsum('BLD,DHK->BLHK', x_BLD, declare('query', 'DHK', 'hidden'), config)
    x_BMD = x_BLD  # the memory of a text is the text itself
    k_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('key', 'DGK', 'hidden'), config)
    v_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('value', 'DGK', 'hidden'), config)
    if config.bias:
        q_BLHK = q_BLHK + spread(declare('query_bias', 'HK', 'bias'), q_BLHK.shape, q_BLHK.dtype)
        k_BMGK = k_BMGK + spread(declare('key_bias', 'GK', 'bias'), k_BMGK.shape, k_BMGK.dtype)
        v_BMGK = v_BMGK + spread(declare('value_bias', 'GK', 'bias'), v_BMGK.shape, v_BMGK.dtype)
    q_BLHK = place.activation(scaled(q_BLHK, forward(config).attention), 'BLHK')
    k_BMGK, v_BMGK = place.activation(k_BMGK, 'BMGK'), place.activation(v_BMGK, 'BMGK')
    o_BLHK = KERNELS[config.attention_kernel](q_BLHK, k_BMGK, v_BMGK, segments_BL, config)
    y_BLD = einsum('BLHK,HKD->BLD', o_BLHK, declare('output', 'HKD', 'residual'), config)
    if config.bias:
        y_BLD = y_BLD + spread(declare('output_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD


def chunked(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """Plain XLA, `attention_chunk` queries at a time (0: all), and only the keys that are visible to a chunk.

    Half of the scores of a causal attention are never computed, and none are kept: the backward pass computes them
    again from their logsumexp (Dao et al. 2022), so a chunk stays in cache on a CPU.
    """
    dtype = jnp.dtype(config.matmul_dtype)
    q_BLHK = (q_BLHK / math.sqrt(q_BLHK.shape[-1])).astype(dtype)
    chunk = config.attention_chunk or q_BLHK.shape[1]
    return _attend(q_BLHK, k_BMGK.astype(dtype), v_BMGK.astype(dtype), segments_BL, chunk).astype(
        config.activation_dtype
    )


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _ranges(length: int, chunk: int) -> list[range]:
    return [range(start, min(start + chunk, length)) for start in range(0, length, chunk)]


def _rows(a_BLHK: jax.Array, chunk: range, groups: int) -> jax.Array:
    """The chunk's positions as rows of scores: [B, L, H, K] -> [B, G, S, K]."""
    batch, _, heads, width = a_BLHK.shape
    a_BLGRK = a_BLHK[:, chunk.start : chunk.stop].reshape(batch, len(chunk), groups, heads // groups, width)
    return jnp.transpose(a_BLGRK, (0, 2, 3, 1, 4)).reshape(batch, groups, -1, width)


def _positions(chunks: list[jax.Array], heads: int) -> jax.Array:
    """The inverse of `_rows`, of all chunks: [B, G, S, K] each -> [B, L, H, K]."""
    batch, groups, _, width = chunks[0].shape
    parts = [a_BGSK.reshape(batch, groups, heads // groups, -1, width) for a_BGSK in chunks]
    return jnp.concatenate(
        [jnp.transpose(a_BGRLK, (0, 3, 1, 2, 4)).reshape(batch, -1, heads, width) for a_BGRLK in parts], axis=1
    )


def _scores(q_BGSK: jax.Array, k_BGMK: jax.Array, chunk: range, segments_BL: jax.Array | None) -> jax.Array:
    s_BGSM = _product('BGSK,BGMK->BGSM', q_BGSK, k_BGMK)
    repeats = q_BGSK.shape[2] // len(chunk)
    return jnp.where(causal_mask(chunk, range(chunk.stop), repeats, segments_BL), s_BGSM, HIDDEN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, chunk: int
) -> jax.Array:
    return _attend_forward(q_BLHK, k_BMGK, v_BMGK, segments_BL, chunk)[0]


def _attend_forward(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, chunk: int
) -> tuple[jax.Array, tuple[Any, ...]]:
    length, heads, groups = q_BLHK.shape[1], q_BLHK.shape[2], k_BMGK.shape[2]
    outputs, totals = [], []
    for part in _ranges(length, chunk):
        seen = range(part.stop)
        q_BGSK, k_BGMK, v_BGMK = _rows(q_BLHK, part, groups), _rows(k_BMGK, seen, groups), _rows(v_BMGK, seen, groups)
        s_BGSM = _scores(q_BGSK, k_BGMK, part, segments_BL)
        top_BGS = jnp.max(s_BGSM, axis=-1)
        p_BGSM = jnp.exp(s_BGSM - top_BGS[..., None])
        sum_BGS = jnp.sum(p_BGSM, axis=-1)
        o_BGSK = _product('BGSM,BGMK->BGSK', p_BGSM.astype(v_BGMK.dtype), v_BGMK)
        outputs.append(o_BGSK / sum_BGS[..., None])
        totals.append(top_BGS + jnp.log(sum_BGS))
    return _positions(outputs, heads), (q_BLHK, k_BMGK, v_BMGK, segments_BL, outputs, totals)


def _attend_backward(
    chunk: int, kept: tuple[Any, ...], do_BLHK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q_BLHK, k_BMGK, v_BMGK, segments_BL, outputs, totals = kept
    dtype, (batch, length, groups, width) = k_BMGK.dtype, k_BMGK.shape
    dq, dk_BGMK, dv_BGMK = [], *(jnp.zeros((batch, groups, length, width), jnp.float32) for _ in 'kv')
    for part, o_BGSK, total_BGS in zip(_ranges(length, chunk), outputs, totals, strict=True):
        seen = range(part.stop)
        q_BGSK, k_BGMK, v_BGMK = _rows(q_BLHK, part, groups), _rows(k_BMGK, seen, groups), _rows(v_BMGK, seen, groups)
        do_BGSK = _rows(do_BLHK, part, groups)
        product_BGS = jnp.sum(do_BGSK * o_BGSK, axis=-1)
        do_BGSK = do_BGSK.astype(dtype)
        p_BGSM = jnp.exp(_scores(q_BGSK, k_BGMK, part, segments_BL) - total_BGS[..., None])
        dp_BGSM = _product('BGSK,BGMK->BGSM', do_BGSK, v_BGMK)
        ds_BGSM = (p_BGSM * (dp_BGSM - product_BGS[..., None])).astype(dtype)
        dq.append(_product('BGSM,BGMK->BGSK', ds_BGSM, k_BGMK))
        dk_BGMK = dk_BGMK.at[:, :, : part.stop].add(_product('BGSM,BGSK->BGMK', ds_BGSM, q_BGSK))
        dv_BGMK = dv_BGMK.at[:, :, : part.stop].add(_product('BGSM,BGSK->BGMK', p_BGSM.astype(dtype), do_BGSK))
    dk_BMGK, dv_BMGK = jnp.swapaxes(dk_BGMK, 1, 2), jnp.swapaxes(dv_BGMK, 1, 2)
    return _positions(dq, q_BLHK.shape[2]).astype(dtype), dk_BMGK.astype(dtype), dv_BMGK.astype(dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def cudnn(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, segments_BL: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """cuDNN's fused attention on NVIDIA GPUs (bfloat16 operands). Segments become an explicit mask."""
    if jax.default_backend() != 'gpu' or config.matmul_dtype == 'float32':
        raise UserError(
            'config.model.attention_kernel: cudnn wants an NVIDIA GPU and 16-bit operands, and here are '
            f'{jax.default_backend()} and {config.matmul_dtype}; chunked runs everywhere'
        )
    dtype = jnp.dtype(config.matmul_dtype)
    mask = None if segments_BL is None else (segments_BL[:, None, :, None] == segments_BL[:, None, None, :])
    o_BLHK = jax.nn.dot_product_attention(
        q_BLHK.astype(dtype), k_BMGK.astype(dtype), v_BMGK.astype(dtype), mask=mask, is_causal=True,
        implementation='cudnn',
    )  # fmt: skip
    return o_BLHK.astype(config.activation_dtype)


ATTENTIONS = {'multi_head': multi_head}
KERNELS = {'chunked': chunked, 'cudnn': cudnn}
