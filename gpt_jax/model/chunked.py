"""How is causal attention computed in plain XLA without holding all of its scores? In chunks, with its own gradient."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN, Sight, causal_mask, visible_keys


class _Form(NamedTuple):
    """What is known before the program runs."""

    chunk: int
    window: int | None
    softcap: float


def chunked(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig) -> jax.Array:
    """Plain XLA, `attention_chunk` queries at a time (0: all), and only the keys that are visible to a chunk.

    Half of the scores of a causal attention are never computed, and none are kept: the backward pass computes them
    again from their logsumexp (Dao et al. 2022), so a chunk stays in cache on a CPU.
    """
    dtype = jnp.dtype(config.matmul_dtype)
    q_BLHK = (q_BLHK / math.sqrt(q_BLHK.shape[-1])).astype(dtype)
    static = isinstance(sight.window, int)
    form = _Form(
        chunk=config.attention_chunk or q_BLHK.shape[1],
        window=sight.window if static else None,  # type: ignore[arg-type]
        softcap=config.attention_softcap,
    )
    others = sight._replace(window=None if static else sight.window)
    return _attend(q_BLHK, k_BMGK.astype(dtype), v_BMGK.astype(dtype), others, form).astype(config.activation_dtype)


def fallen(slopes_H: Any, distance: Any, groups: int) -> Any:
    """What distances take from the scores: [..., L, M] -> [..., G, R x L, M]."""
    slopes_GR = slopes_H.reshape(groups, -1)
    parts = slopes_GR[..., None, None] * distance[..., None, None, :, :]
    return parts.reshape(*distance.shape[:-2], groups, -1, distance.shape[-1])


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


def _scores(
    q_BGSK: jax.Array, k_BGMK: jax.Array, chunk: range, seen: range, sight: Sight, form: _Form
) -> tuple[jax.Array, jax.Array | None]:
    """The scores, and by how much they follow the products where a soft cap bends them (None: wholly)."""
    s_BGSM = _product('BGSK,BGMK->BGSM', q_BGSK, k_BGMK)
    follow = None
    if form.softcap:
        bent = jnp.tanh(s_BGSM / form.softcap)
        s_BGSM, follow = form.softcap * bent, 1 - jnp.square(bent)
    if sight.slopes_H is not None:
        distance = np.arange(chunk.start, chunk.stop)[:, None] - np.arange(seen.start, seen.stop)
        s_BGSM = s_BGSM - fallen(sight.slopes_H, distance.astype(np.float32), k_BGMK.shape[1])
    repeats = q_BGSK.shape[2] // len(chunk)
    window = sight.window if form.window is None else form.window
    return jnp.where(causal_mask(chunk, seen, repeats, sight.segments_BL, window), s_BGSM, HIDDEN), follow


def weighted(s_BGSM: jax.Array, v_BGMK: jax.Array, sight: Sight, length: int) -> tuple[jax.Array, jax.Array]:
    """The values by the softmax of their scores, float32 [B, G, S, K], and the logsumexp of the scores [B, G, S].

    Args:
      length: positions among the rows S.
    """
    top_BGS = jnp.max(s_BGSM, axis=-1)
    sink_BGS = None if sight.sink_H is None else _sink_rows(sight.sink_H, length, v_BGMK.shape[1])
    if sink_BGS is not None:
        top_BGS = jnp.maximum(top_BGS, sink_BGS)
    p_BGSM = jnp.exp(s_BGSM - top_BGS[..., None])
    sum_BGS = jnp.sum(p_BGSM, axis=-1)
    if sink_BGS is not None:
        sum_BGS = sum_BGS + jnp.exp(sink_BGS - top_BGS)
    o_BGSK = _product('BGSM,BGMK->BGSK', p_BGSM.astype(v_BGMK.dtype), v_BGMK)
    return o_BGSK / sum_BGS[..., None], top_BGS + jnp.log(sum_BGS)


def _sink_rows(sink_H: jax.Array, length: int, groups: int) -> jax.Array:
    """[H] -> [1, G, S], for the rows of a chunk of `length` positions."""
    return jnp.repeat(sink_H.astype(jnp.float32).reshape(1, groups, -1), length, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, form: _Form) -> jax.Array:
    return _attend_forward(q_BLHK, k_BMGK, v_BMGK, sight, form)[0]


def _attend_forward(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, form: _Form
) -> tuple[jax.Array, tuple[Any, ...]]:
    length, heads, groups = q_BLHK.shape[1], q_BLHK.shape[2], k_BMGK.shape[2]
    outputs, totals = [], []
    for part in _ranges(length, form.chunk):
        seen = visible_keys(part, form.window)
        q_BGSK, k_BGMK, v_BGMK = _rows(q_BLHK, part, groups), _rows(k_BMGK, seen, groups), _rows(v_BMGK, seen, groups)
        s_BGSM, _ = _scores(q_BGSK, k_BGMK, part, seen, sight, form)
        o_BGSK, total_BGS = weighted(s_BGSM, v_BGMK, sight, len(part))
        outputs.append(o_BGSK)
        totals.append(total_BGS)
    return _positions(outputs, heads), (q_BLHK, k_BMGK, v_BMGK, sight, outputs, totals)


def _attend_backward(
    form: _Form, kept: tuple[Any, ...], do_BLHK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, Sight]:
    q_BLHK, k_BMGK, v_BMGK, sight, outputs, totals = kept
    dtype, (batch, length, groups, width) = k_BMGK.dtype, k_BMGK.shape
    dq, dk_BGMK, dv_BGMK = [], *(jnp.zeros((batch, groups, length, width), jnp.float32) for _ in 'kv')
    d_sink = None if sight.sink_H is None else jnp.zeros(sight.sink_H.shape, jnp.float32)
    for part, o_BGSK, total_BGS in zip(_ranges(length, form.chunk), outputs, totals, strict=True):
        seen = visible_keys(part, form.window)
        q_BGSK, k_BGMK, v_BGMK = _rows(q_BLHK, part, groups), _rows(k_BMGK, seen, groups), _rows(v_BMGK, seen, groups)
        do_BGSK = _rows(do_BLHK, part, groups)
        product_BGS = jnp.sum(do_BGSK * o_BGSK, axis=-1)
        do_BGSK = do_BGSK.astype(dtype)
        s_BGSM, follow = _scores(q_BGSK, k_BGMK, part, seen, sight, form)
        p_BGSM = jnp.exp(s_BGSM - total_BGS[..., None])
        dp_BGSM = _product('BGSK,BGMK->BGSM', do_BGSK, v_BGMK)
        ds = p_BGSM * (dp_BGSM - product_BGS[..., None])
        ds_BGSM = (ds if follow is None else ds * follow).astype(dtype)
        dq.append(_product('BGSM,BGMK->BGSK', ds_BGSM, k_BGMK))
        dk_BGMK = dk_BGMK.at[:, :, seen.start : seen.stop].add(_product('BGSM,BGSK->BGMK', ds_BGSM, q_BGSK))
        dv_BGMK = dv_BGMK.at[:, :, seen.start : seen.stop].add(
            _product('BGSM,BGSK->BGMK', p_BGSM.astype(dtype), do_BGSK)
        )
        if d_sink is not None:  # a key whose value is 0: ds = p (0 - do . o)
            p_BGS = jnp.exp(_sink_rows(sight.sink_H, len(part), groups) - total_BGS)
            d_sink = d_sink - jnp.sum((p_BGS * product_BGS).reshape(batch, len(d_sink), -1), axis=(0, 2))
    dk_BMGK, dv_BMGK = jnp.swapaxes(dk_BGMK, 1, 2), jnp.swapaxes(dv_BGMK, 1, 2)
    return (
        _positions(dq, q_BLHK.shape[2]).astype(dtype), dk_BMGK.astype(dtype), dv_BMGK.astype(dtype),
        Sight(segments_BL=None, window=None, sink_H=d_sink, slopes_H=None),
    )  # fmt: skip


_attend.defvjp(_attend_forward, _attend_backward)
