"""Causal attention in plain XLA, chunk by chunk, with a gradient that stores no scores.

`attention_chunk` queries are processed at a time (0: all), against only the keys that the chunk can
see, so about half of the scores of full causal attention are never computed. The backward pass
recomputes the scores from their logsumexp (Dao et al. 2022), so a chunk stays in a CPU's cache.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.mask import MASK_VALUE, AttentionMask, causal_mask, visible_keys
from gpt_jax.model.matmul import einsum_float32


class _StaticOptions(NamedTuple):
    """Settings known at trace time. window: None if there is none or if it is an array."""

    chunk: int
    window: int | None
    softcap: float


def chunked_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    config: ModelConfig,
) -> jax.Array:
    """Compute causal attention, `attention_chunk` queries at a time. -> [B, L, H, K]."""
    dtype = jnp.dtype(config.matmul_dtype)
    q_BLHK = (q_BLHK / math.sqrt(q_BLHK.shape[-1])).astype(dtype)
    window = mask.window if isinstance(mask.window, int) else None
    options = _StaticOptions(
        chunk=config.attention_chunk or q_BLHK.shape[1],
        window=window,
        softcap=config.attention_softcap,
    )
    dynamic_mask = mask._replace(window=None if window is not None else mask.window)
    k_BMGK, v_BMGK = k_BMGK.astype(dtype), v_BMGK.astype(dtype)
    o_BLHK = _attend(q_BLHK, k_BMGK, v_BMGK, dynamic_mask, options)
    return o_BLHK.astype(config.activation_dtype)


# Functions that the KV cache and ring attention use too. S: the rows of scores that share keys.


def compute_scores(
    q_BGSK: jax.Array, k_BGMK: jax.Array, softcap: float
) -> tuple[jax.Array, jax.Array | None]:
    """Compute attention scores, float32, with a tanh soft cap unless it is 0.

    Returns:
      The scores [B, G, S, M], and the soft cap's derivative at each; None without a cap.
    """
    s_BGSM = einsum_float32('BGSK,BGMK->BGSM', q_BGSK, k_BGMK)
    if not softcap:
        return s_BGSM, None
    tanh_BGSM = jnp.tanh(s_BGSM / softcap)
    return softcap * tanh_BGSM, 1 - jnp.square(tanh_BGSM)


def alibi_bias(slopes_H: Any, distance: Any, groups: int) -> Any:
    """Compute what ALiBi subtracts from scores: distances [..., L, M] -> [..., G, R x L, M]."""
    slopes_GR = slopes_H.reshape(groups, -1)
    bias = slopes_GR[..., None, None] * distance[..., None, None, :, :]
    return bias.reshape(*distance.shape[:-2], groups, -1, distance.shape[-1])


def softmax_average(
    s_BGSM: jax.Array, v_BGMK: jax.Array, mask: AttentionMask, length: int
) -> tuple[jax.Array, jax.Array]:
    """Average the values by the softmax of their scores.

    Args:
      s_BGSM: float32, masked.
      length: number of positions in the rows S.

    Returns:
      The averages, float32 [B, G, S, K], and the logsumexp of the scores [B, G, S].
    """
    top_BGS = jnp.max(s_BGSM, axis=-1)
    sink_BGS = None if mask.sink_H is None else sink_rows(mask.sink_H, length, v_BGMK.shape[1])
    if sink_BGS is not None:
        top_BGS = jnp.maximum(top_BGS, sink_BGS)
    p_BGSM = jnp.exp(s_BGSM - top_BGS[..., None])
    sum_BGS = jnp.sum(p_BGSM, axis=-1)
    if sink_BGS is not None:
        sum_BGS = sum_BGS + jnp.exp(sink_BGS - top_BGS)
    o_BGSK = einsum_float32('BGSM,BGMK->BGSK', p_BGSM.astype(v_BGMK.dtype), v_BGMK)
    return o_BGSK / sum_BGS[..., None], top_BGS + jnp.log(sum_BGS)


def sink_rows(sink_H: jax.Array, length: int, groups: int) -> jax.Array:
    """Repeat the sink of each head for `length` positions: [H] -> [1, G, S]."""
    return jnp.repeat(sink_H.astype(jnp.float32).reshape(1, groups, -1), length, axis=-1)


# The chunks


def _chunk_ranges(length: int, chunk: int) -> list[range]:
    return [range(start, min(start + chunk, length)) for start in range(0, length, chunk)]


def _to_rows(a_BLHK: jax.Array, positions: range, groups: int) -> jax.Array:
    """Arrange some positions as rows of scores: [B, L, H, K] -> [B, G, S, K]."""
    batch, _, heads, width = a_BLHK.shape
    shape = (batch, len(positions), groups, heads // groups, width)
    a_BLGRK = a_BLHK[:, positions.start : positions.stop].reshape(shape)
    return jnp.transpose(a_BLGRK, (0, 2, 3, 1, 4)).reshape(batch, groups, -1, width)


def _from_rows(chunks: list[jax.Array], heads: int) -> jax.Array:
    """Invert `_to_rows` for all chunks: [B, G, S, K] each -> [B, L, H, K]."""
    batch, groups, _, width = chunks[0].shape

    def positions_first(a_BGSK: jax.Array) -> jax.Array:
        a_BGRLK = a_BGSK.reshape(batch, groups, heads // groups, -1, width)
        return jnp.transpose(a_BGRLK, (0, 3, 1, 2, 4)).reshape(batch, -1, heads, width)

    return jnp.concatenate([positions_first(chunk) for chunk in chunks], axis=1)


def _masked_scores(
    q_BGSK: jax.Array,
    k_BGMK: jax.Array,
    queries: range,
    keys: range,
    mask: AttentionMask,
    options: _StaticOptions,
) -> tuple[jax.Array, jax.Array | None]:
    """Return `compute_scores` with ALiBi and mask, for the positions `queries` and `keys`."""
    s_BGSM, cap_derivative = compute_scores(q_BGSK, k_BGMK, options.softcap)
    if mask.slopes_H is not None:
        distance = np.arange(queries.start, queries.stop)[:, None]
        distance = distance - np.arange(keys.start, keys.stop)
        s_BGSM = s_BGSM - alibi_bias(mask.slopes_H, distance.astype(np.float32), k_BGMK.shape[1])
    repeats = q_BGSK.shape[2] // len(queries)
    window = mask.window if options.window is None else options.window
    visible = causal_mask(queries, keys, repeats, mask.segments_BL, window)
    return jnp.where(visible, s_BGSM, MASK_VALUE), cap_derivative


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    options: _StaticOptions,
) -> jax.Array:
    return _attend_forward(q_BLHK, k_BMGK, v_BMGK, mask, options)[0]


def _attend_forward(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    options: _StaticOptions,
) -> tuple[jax.Array, tuple[Any, ...]]:
    length, heads, groups = q_BLHK.shape[1], q_BLHK.shape[2], k_BMGK.shape[2]
    outputs, logsumexps = [], []
    for queries in _chunk_ranges(length, options.chunk):
        keys = visible_keys(queries, options.window)
        q_BGSK = _to_rows(q_BLHK, queries, groups)
        k_BGMK, v_BGMK = _to_rows(k_BMGK, keys, groups), _to_rows(v_BMGK, keys, groups)
        s_BGSM, _ = _masked_scores(q_BGSK, k_BGMK, queries, keys, mask, options)
        o_BGSK, lse_BGS = softmax_average(s_BGSM, v_BGMK, mask, len(queries))
        outputs.append(o_BGSK)
        logsumexps.append(lse_BGS)
    return _from_rows(outputs, heads), (q_BLHK, k_BMGK, v_BMGK, mask, outputs, logsumexps)


def _attend_backward(
    options: _StaticOptions, residuals: tuple[Any, ...], do_BLHK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, AttentionMask]:
    """Compute the gradients (Dao et al. 2022, algorithm 4)."""
    q_BLHK, k_BMGK, v_BMGK, mask, outputs, logsumexps = residuals
    dtype, (batch, length, groups, width) = k_BMGK.dtype, k_BMGK.shape
    dq_chunks = []
    dk_BGMK = jnp.zeros((batch, groups, length, width), jnp.float32)
    dv_BGMK = jnp.zeros((batch, groups, length, width), jnp.float32)
    d_sink = None if mask.sink_H is None else jnp.zeros(mask.sink_H.shape, jnp.float32)
    chunks = zip(_chunk_ranges(length, options.chunk), outputs, logsumexps, strict=True)
    for queries, o_BGSK, lse_BGS in chunks:
        keys = visible_keys(queries, options.window)
        q_BGSK = _to_rows(q_BLHK, queries, groups)
        k_BGMK, v_BGMK = _to_rows(k_BMGK, keys, groups), _to_rows(v_BMGK, keys, groups)
        do_BGSK = _to_rows(do_BLHK, queries, groups)
        delta_BGS = jnp.sum(do_BGSK * o_BGSK, axis=-1)
        do_BGSK = do_BGSK.astype(dtype)
        s_BGSM, cap_derivative = _masked_scores(q_BGSK, k_BGMK, queries, keys, mask, options)
        p_BGSM = jnp.exp(s_BGSM - lse_BGS[..., None])
        dp_BGSM = einsum_float32('BGSK,BGMK->BGSM', do_BGSK, v_BGMK)
        ds = p_BGSM * (dp_BGSM - delta_BGS[..., None])
        ds_BGSM = (ds if cap_derivative is None else ds * cap_derivative).astype(dtype)
        dq_chunks.append(einsum_float32('BGSM,BGMK->BGSK', ds_BGSM, k_BGMK))
        dk_chunk_BGMK = einsum_float32('BGSM,BGSK->BGMK', ds_BGSM, q_BGSK)
        dv_chunk_BGMK = einsum_float32('BGSM,BGSK->BGMK', p_BGSM.astype(dtype), do_BGSK)
        dk_BGMK = dk_BGMK.at[:, :, keys.start : keys.stop].add(dk_chunk_BGMK)
        dv_BGMK = dv_BGMK.at[:, :, keys.start : keys.stop].add(dv_chunk_BGMK)
        if d_sink is not None:  # the sink is a key whose value is 0: ds = p (0 - do . o)
            p_BGS = jnp.exp(sink_rows(mask.sink_H, len(queries), groups) - lse_BGS)
            per_head = (p_BGS * delta_BGS).reshape(batch, len(d_sink), -1)
            d_sink = d_sink - jnp.sum(per_head, axis=(0, 2))
    return (
        _from_rows(dq_chunks, q_BLHK.shape[2]).astype(dtype),
        jnp.swapaxes(dk_BGMK, 1, 2).astype(dtype),
        jnp.swapaxes(dv_BGMK, 1, 2).astype(dtype),
        AttentionMask(segments_BL=None, window=None, sink_H=d_sink, slopes_H=None),
    )


_attend.defvjp(_attend_forward, _attend_backward)
