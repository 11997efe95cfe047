"""Context parallelism: attention over a sequence whose length is split across devices.

The field mesh.context_parallel chooses the scheme, used if mesh.context is more than 1:

- ring: keys and values travel around the devices; each device merges its queries' partial results
  by their logsumexp (Liu et al. 2023). Works for any number of heads, and is a kernel itself:
  model.attention_kernel must be chunked.
- all_to_all: exchanges heads for length, so that each device has the whole length of some heads,
  which any kernel can process (Ulysses; Jacobs et al. 2023).

A scheme is a function `f(q_BLHK, k_BMGK, v_BMGK, mask, config, *, group, kernel) -> o_BLHK` that
runs inside shard_map; `group` is the devices that share the length.

For the ring, a causal sequence is split into twice as many parts as there are devices, and device i
of c holds parts i and 2c - 1 - i, so that all devices have the same amount of work at every turn
(as in Llama 3; Grattafiori et al. 2024, section 3.3.2). `sequence_order` gives that order.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.chunked_attention import alibi_bias, compute_scores, sink_rows
from gpt_jax.model.mask import MASK_VALUE, AttentionMask
from gpt_jax.model.matmul import einsum_float32
from gpt_jax.parallel.axis_group import AxisGroup


def sequence_order(length: int, devices: int, scheme: str) -> np.ndarray:
    """Return the positions of a sequence in the order in which the devices hold them.

    Args:
      length: the sequence's length.
      devices: number of devices that share it.
      scheme: 'ring' or 'all_to_all'.

    Returns:
      int32 [length].
    """
    positions = np.arange(length, dtype=np.int32)
    if scheme != 'ring':
        return positions
    parts = positions.reshape(2 * devices, -1)
    return np.concatenate([parts[n] for i in range(devices) for n in (i, 2 * devices - 1 - i)])


def all_to_all_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    config: ModelConfig,
    *,
    group: AxisGroup,
    kernel: Callable[..., jax.Array],
) -> jax.Array:
    """Exchange heads for length, call the kernel, exchange back.

    The number of query heads must be divisible by the size of `group`.
    """
    q_BLHK = group.all_to_all(q_BLHK, 2, 1)
    kv_heads = k_BMGK.shape[2]
    if kv_heads % group.size == 0:
        k_BMGK, v_BMGK = group.all_to_all(k_BMGK, 2, 1), group.all_to_all(v_BMGK, 2, 1)
    else:  # fewer heads than devices: each gathers all and takes the one that its queries read
        index = group.index() * kv_heads // group.size
        k_BMGK, v_BMGK = (
            jax.lax.dynamic_slice_in_dim(group.all_gather(a_BMGK, 1), index, 1, axis=2)
            for a_BMGK in (k_BMGK, v_BMGK)
        )
    segments_BL = None if mask.segments_BL is None else group.all_gather(mask.segments_BL, 1)
    sink_H, slopes_H = (
        None if a_H is None else group.shard(jnp.asarray(a_H), 0)
        for a_H in (mask.sink_H, mask.slopes_H)
    )
    local_mask = AttentionMask(segments_BL, mask.window, sink_H, slopes_H)
    o_BLHK = kernel(q_BLHK, k_BMGK, v_BMGK, local_mask, config)
    return group.all_to_all(o_BLHK, 1, 2)


# Ring attention


class _RingOptions(NamedTuple):
    """Settings known at trace time. chunk: how many queries are processed together."""

    group: AxisGroup
    chunk: int
    softcap: float


class _QueryChunks(NamedTuple):
    """Chunks of queries: q_BGSK [chunks, B, G, S, K]; start and segments of each chunk."""

    q_BGSK: jax.Array
    start: jax.Array
    segments: jax.Array | None


class _KeyParts(NamedTuple):
    """A device's two parts: keys and values [2, B, G, M, K]; start and segments of each part."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array
    start: jax.Array
    segments: jax.Array | None


class _SoftmaxState(NamedTuple):
    """A softmax average over the keys so far, float32, with scores relative to their maximum.

    o: the sum of exp(score - top) x value. top: the largest score. sum: of exp(score - top).
    """

    o: jax.Array
    top: jax.Array
    sum: jax.Array


def ring_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    config: ModelConfig,
    *,
    group: AxisGroup,
    kernel: Any,
) -> jax.Array:
    """Compute exact attention of a sequence in `sequence_order`; `kernel` is unused.

    At most `attention_chunk` queries are processed at a time.
    """
    del kernel
    dtype, part = jnp.dtype(config.matmul_dtype), q_BLHK.shape[1] // 2
    limit = min(config.attention_chunk or part, part)
    chunk = max(n for n in range(1, limit + 1) if part % n == 0)
    options = _RingOptions(group, chunk, config.attention_softcap)
    q_BLHK = (q_BLHK / math.sqrt(q_BLHK.shape[-1])).astype(dtype)
    o_BLHK = _ring(q_BLHK, k_BMGK.astype(dtype), v_BMGK.astype(dtype), mask, options)
    return o_BLHK.astype(config.activation_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ring(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    options: _RingOptions,
) -> jax.Array:
    return _ring_forward(q_BLHK, k_BMGK, v_BMGK, mask, options)[0]


def _ring_forward(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    options: _RingOptions,
) -> tuple[jax.Array, tuple[Any, ...]]:
    group = options.group
    chunks = _split_queries(q_BLHK, mask, options, k_BMGK.shape[2])
    shape = chunks.q_BGSK.shape
    state = _SoftmaxState(
        jnp.zeros(shape, jnp.float32), jnp.full(shape[:-1], MASK_VALUE), jnp.zeros(shape[:-1])
    )
    block = (k_BMGK, v_BMGK, mask.segments_BL)  # this device's, then its neighbors' in turn

    def attend(state: _SoftmaxState, block: Any, owner: Any) -> _SoftmaxState:
        parts = _split_keys(block, owner, group)

        def attend_chunk(inputs: tuple[_QueryChunks, _SoftmaxState]) -> _SoftmaxState:
            chunk, state = inputs
            for n in range(2):
                part = jax.tree.map(lambda a, n=n: a[n], parts)
                update = functools.partial(_update_state, chunk, part, mask, options)
                visible = _any_visible(chunk, part, mask, options)
                state = jax.lax.cond(visible, update, lambda state: state, state)
            return state

        return jax.lax.map(attend_chunk, (chunks, state))

    def turn(carry: tuple[_SoftmaxState, Any], n: jax.Array) -> tuple[Any, None]:
        state, block = carry
        owner = (group.index() - n) % group.size
        return (attend(state, block, owner), group.ppermute(block)), None

    (state, block), _ = jax.lax.scan(turn, (state, block), jnp.arange(group.size - 1))
    state = attend(state, block, (group.index() + 1) % group.size)
    o, lse = _normalize(state, mask, options)
    return _from_chunks(o, q_BLHK.shape), (q_BLHK, k_BMGK, v_BMGK, mask, o, lse)


def _ring_backward(
    options: _RingOptions, residuals: tuple[Any, ...], do_BLHK: jax.Array
) -> tuple[Any, ...]:
    """Make a second trip around the ring; keys and values travel together with their gradients."""
    q_BLHK, k_BMGK, v_BMGK, mask, o, lse = residuals
    group, kv_heads, dtype = options.group, k_BMGK.shape[2], k_BMGK.dtype
    chunks = _split_queries(q_BLHK, mask, options, kv_heads)
    do = _split_queries(do_BLHK, mask, options, kv_heads).q_BGSK
    delta = jnp.sum(do.astype(jnp.float32) * o, axis=-1)
    chunk_inputs = (chunks, (do.astype(dtype), lse, delta))

    def turn(carry: Any, n: jax.Array) -> tuple[Any, None]:
        dq, block, dkv = carry
        parts = _split_keys(block, (group.index() - n) % group.size, group)

        def add_chunk(dkv: Any, inputs: Any) -> tuple[Any, jax.Array]:
            dq, (chunk, output_gradient) = inputs
            for n in range(2):
                part = jax.tree.map(lambda a, n=n: a[n], parts)
                add = functools.partial(
                    _add_gradients, chunk, output_gradient, part, mask, options, n
                )
                visible = _any_visible(chunk, part, mask, options)
                dq, dkv = jax.lax.cond(visible, add, lambda dq, dkv: (dq, dkv), dq, dkv)
            return dkv, dq

        dkv, dq = jax.lax.scan(add_chunk, dkv, (dq, chunk_inputs))
        return (dq, group.ppermute(block), group.ppermute(dkv)), None

    block = (k_BMGK, v_BMGK, mask.segments_BL)
    parts_shape = _split_keys((k_BMGK, v_BMGK, None), group.index(), group).k_BGMK.shape
    zeros = jnp.zeros(parts_shape, jnp.float32)
    start = (jnp.zeros(chunks.q_BGSK.shape, jnp.float32), block, (zeros, zeros))
    (dq, _, (dk, dv)), _ = jax.lax.scan(turn, start, jnp.arange(group.size))
    d_sink = None
    if mask.sink_H is not None:  # the sink is a key whose value is 0: ds = p (0 - do . o)
        p = jnp.exp(sink_rows(mask.sink_H, options.chunk, kv_heads) - lse)
        per_query = (p * delta).reshape(*delta.shape[:3], -1, options.chunk)
        d_sink = -jnp.sum(per_query, axis=(0, 1, 4)).reshape(mask.sink_H.shape)
    dk_BMGK, dv_BMGK = (
        jnp.transpose(a, (1, 0, 3, 2, 4)).reshape(k_BMGK.shape).astype(dtype) for a in (dk, dv)
    )
    return (
        _from_chunks(dq, q_BLHK.shape).astype(dtype),
        dk_BMGK,
        dv_BMGK,
        AttentionMask(segments_BL=None, window=None, sink_H=d_sink, slopes_H=None),
    )


_ring.defvjp(_ring_forward, _ring_backward)


# One chunk of queries against one part of keys


def _any_visible(
    chunk: _QueryChunks, part: _KeyParts, mask: AttentionMask, options: _RingOptions
) -> jax.Array:
    visible = chunk.start + options.chunk > part.start
    if mask.window is not None:
        last_key = part.start + part.k_BGMK.shape[2] - 1
        visible &= chunk.start - last_key < mask.window
    return visible


def _masked_scores(
    chunk: _QueryChunks, part: _KeyParts, mask: AttentionMask, options: _RingOptions
) -> tuple[jax.Array, jax.Array | None]:
    """Return `compute_scores` with ALiBi and mask."""
    s_BGSM, cap_derivative = compute_scores(chunk.q_BGSK, part.k_BGMK, options.softcap)
    groups = chunk.q_BGSK.shape[1]
    repeats = chunk.q_BGSK.shape[2] // options.chunk
    queries_L = chunk.start + jnp.arange(options.chunk)
    distance_LM = queries_L[:, None] - part.start - jnp.arange(part.k_BGMK.shape[2])
    if mask.slopes_H is not None:
        s_BGSM = s_BGSM - alibi_bias(mask.slopes_H, distance_LM.astype(jnp.float32), groups)
    visible = distance_LM >= 0
    if mask.window is not None:
        visible &= distance_LM < mask.window
    if chunk.segments is not None and part.segments is not None:
        visible = visible & (chunk.segments[:, :, None] == part.segments[:, None, :])
        visible = jnp.tile(visible, (1, repeats, 1))[:, None]
    else:
        visible = jnp.tile(visible, (repeats, 1))
    return jnp.where(visible, s_BGSM, MASK_VALUE), cap_derivative


def _update_state(
    chunk: _QueryChunks,
    part: _KeyParts,
    mask: AttentionMask,
    options: _RingOptions,
    state: _SoftmaxState,
) -> _SoftmaxState:
    s_BGSM, _ = _masked_scores(chunk, part, mask, options)
    top_BGS = jnp.maximum(state.top, jnp.max(s_BGSM, axis=-1))
    # A row that sees no key here has the maximum MASK_VALUE, so its scores would count as exp(0).
    p_BGSM = jnp.where(s_BGSM > MASK_VALUE, jnp.exp(s_BGSM - top_BGS[..., None]), 0)
    rescale_BGS = jnp.exp(state.top - top_BGS)
    v_BGMK = part.v_BGMK
    o_BGSK = einsum_float32('BGSM,BGMK->BGSK', p_BGSM.astype(v_BGMK.dtype), v_BGMK)
    return _SoftmaxState(
        state.o * rescale_BGS[..., None] + o_BGSK,
        top_BGS,
        state.sum * rescale_BGS + jnp.sum(p_BGSM, axis=-1),
    )


def _normalize(
    state: _SoftmaxState, mask: AttentionMask, options: _RingOptions
) -> tuple[jax.Array, jax.Array]:
    """Return the softmax averages of the values, and the logsumexp of the scores."""
    top, total = state.top, state.sum
    rescale = jnp.ones_like(top)
    if mask.sink_H is not None:
        sink = sink_rows(mask.sink_H, options.chunk, state.o.shape[2])
        new_top = jnp.maximum(top, sink)
        rescale = jnp.exp(top - new_top)
        top, total = new_top, total * rescale + jnp.exp(sink - new_top)
    return state.o * (rescale / total)[..., None], top + jnp.log(total)


def _add_gradients(
    chunk: _QueryChunks,
    output_gradient: tuple[jax.Array, ...],
    part: _KeyParts,
    mask: AttentionMask,
    options: _RingOptions,
    n: int,
    dq_BGSK: jax.Array,
    dkv: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Add the gradients of a chunk of queries and part `n` of the keys.

    Dao et al. 2022, algorithm 4. `output_gradient` is do, the logsumexp, and the sum of do x o.
    """
    (do_BGSK, lse, delta), (dk, dv) = output_gradient, dkv
    q_BGSK, k_BGMK, v_BGMK = chunk.q_BGSK, part.k_BGMK, part.v_BGMK
    s_BGSM, cap_derivative = _masked_scores(chunk, part, mask, options)
    p_BGSM = jnp.exp(s_BGSM - lse[..., None])
    dp_BGSM = einsum_float32('BGSK,BGMK->BGSM', do_BGSK, v_BGMK)
    ds = p_BGSM * (dp_BGSM - delta[..., None])
    ds_BGSM = (ds if cap_derivative is None else ds * cap_derivative).astype(k_BGMK.dtype)
    dk = dk.at[n].add(einsum_float32('BGSM,BGSK->BGMK', ds_BGSM, q_BGSK))
    dv = dv.at[n].add(einsum_float32('BGSM,BGSK->BGMK', p_BGSM.astype(do_BGSK.dtype), do_BGSK))
    return dq_BGSK + einsum_float32('BGSM,BGMK->BGSK', ds_BGSM, k_BGMK), (dk, dv)


# Layouts


def _part_starts(owner: Any, part: int, group: AxisGroup) -> jax.Array:
    """Return where the two parts of device `owner` begin in the sequence."""
    return jnp.stack([jnp.asarray(owner), 2 * group.size - 1 - jnp.asarray(owner)]) * part


def _split_queries(
    q_BLHK: jax.Array, mask: AttentionMask, options: _RingOptions, groups: int
) -> _QueryChunks:
    batch, length, heads, width = q_BLHK.shape
    chunk, repeats = options.chunk, heads // groups
    q = q_BLHK.reshape(batch, -1, chunk, groups, repeats, width)
    q = jnp.transpose(q, (1, 0, 3, 4, 2, 5)).reshape(-1, batch, groups, repeats * chunk, width)
    starts = _part_starts(options.group.index(), length // 2, options.group)
    starts = starts[:, None] + jnp.arange(0, length // 2, chunk)
    return _QueryChunks(q, starts.reshape(-1), _split_length(mask.segments_BL, chunk))


def _from_chunks(chunks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Invert `_split_queries`: [chunks, B, G, S, K] -> [B, L, H, K]."""
    batch, length, heads, width = shape
    count, groups = chunks.shape[0], chunks.shape[2]
    a = chunks.reshape(count, batch, groups, heads // groups, length // count, width)
    return jnp.transpose(a, (1, 0, 4, 2, 3, 5)).reshape(shape)


def _split_keys(block: tuple[Any, ...], owner: Any, group: AxisGroup) -> _KeyParts:
    """Split the keys, values and segments of device `owner` into its two parts."""
    k_BMGK, v_BMGK, segments_BL = block
    part = k_BMGK.shape[1] // 2
    k, v = (
        jnp.transpose(a.reshape(a.shape[0], 2, part, *a.shape[2:]), (1, 0, 3, 2, 4))
        for a in (k_BMGK, v_BMGK)
    )
    return _KeyParts(k, v, _part_starts(owner, part, group), _split_length(segments_BL, part))


def _split_length(a_BL: jax.Array | None, size: int) -> jax.Array | None:
    return None if a_BL is None else jnp.moveaxis(a_BL.reshape(len(a_BL), -1, size), 1, 0)


# By mesh.context_parallel.
CONTEXT_PARALLEL: dict[str, Callable[..., jax.Array]] = {
    'ring': ring_attention,
    'all_to_all': all_to_all_attention,
}
