"""How is a text attended to that goes round a ring of devices? Exactly, and with as much to do for each of them.

Keys and values go from device to device; each merges what its queries find in them by the logsumexp (Liu et al. 2023).
A causal text is cut into twice as many parts as there are devices, and device i holds parts i and 2c - 1 - i, so that
at every turn all have as much to see (as Llama 3: Grattafiori et al. 2024, section 3.3.2); model/long.py has the order.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.chunked import fallen
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN, Sight
from gpt_jax.parallel.team import Team


class _Form(NamedTuple):
    """What is known before the program runs. chunk: queries that are looked at together. window: None where it is
    not known."""

    team: Team
    chunk: int
    softcap: float


def ring(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig, *, team: Team,
    kernel: Any,
) -> jax.Array:  # fmt: skip
    """Exact attention of a text that is held in `order`; `attention_chunk` queries at a time."""
    del kernel
    dtype, part = jnp.dtype(config.matmul_dtype), q_BLHK.shape[1] // 2
    chunk = max(n for n in range(1, min(config.attention_chunk or part, part) + 1) if part % n == 0)
    q_BLHK = (q_BLHK / math.sqrt(q_BLHK.shape[-1])).astype(dtype)
    form = _Form(team, chunk, config.attention_softcap)
    return _ring(q_BLHK, k_BMGK.astype(dtype), v_BMGK.astype(dtype), sight, form).astype(config.activation_dtype)


class _Found(NamedTuple):
    """What queries have found so far: values by exp(score - top), and the sum of these; float32."""

    o: jax.Array
    top: jax.Array
    sum: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ring(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, form: _Form) -> jax.Array:
    return _ring_forward(q_BLHK, k_BMGK, v_BMGK, sight, form)[0]


def _ring_forward(
    q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, form: _Form
) -> tuple[jax.Array, tuple[Any, ...]]:
    team, groups = form.team, k_BMGK.shape[2]
    queries = _queries(q_BLHK, sight, form, groups)
    rows = queries.q_BGSK.shape[:-1]
    found = _Found(jnp.zeros(queries.q_BGSK.shape, jnp.float32), jnp.full(rows, HIDDEN), jnp.zeros(rows))
    memory = (k_BMGK, v_BMGK, sight.segments_BL)

    def look(found: _Found, memory: Any, holder: Any) -> _Found:
        keys = _keys(memory, holder, team)

        def one(pair: tuple[_Queries, _Found]) -> _Found:
            query, found = pair
            for n in range(2):
                key = jax.tree.map(lambda a, n=n: a[n], keys)
                find = functools.partial(_find, query, key, sight, form)
                found = jax.lax.cond(_any_visible(query, key, sight, form), find, lambda found: found, found)
            return found

        return jax.lax.map(one, (queries, found))

    def turn(carry: tuple[_Found, Any], n: jax.Array) -> tuple[tuple[_Found, Any], None]:
        found, memory = carry
        return (look(found, memory, (team.index() - n) % team.size), team.rotate(memory)), None

    (found, memory), _ = jax.lax.scan(turn, (found, memory), jnp.arange(team.size - 1))
    found = look(found, memory, (team.index() + 1) % team.size)
    o, total = _summed(found, sight, form)
    return _positions(o, q_BLHK.shape), (q_BLHK, k_BMGK, v_BMGK, sight, o, total)


def _ring_backward(form: _Form, kept: tuple[Any, ...], do_BLHK: jax.Array) -> tuple[Any, ...]:
    q_BLHK, k_BMGK, v_BMGK, sight, o, total = kept
    team, groups, dtype = form.team, k_BMGK.shape[2], k_BMGK.dtype
    queries = _queries(q_BLHK, sight, form, groups)
    do = _queries(do_BLHK, sight, form, groups).q_BGSK
    product = jnp.sum(do.astype(jnp.float32) * o, axis=-1)
    given = (queries, (do.astype(dtype), total, product))
    nothing = jnp.zeros(_keys((k_BMGK, v_BMGK, None), team.index(), team).k_BGMK.shape, jnp.float32)

    def turn(carry: Any, n: jax.Array) -> tuple[Any, None]:
        dq, memory, gradients = carry
        keys = _keys(memory, (team.index() - n) % team.size, team)

        def one(gradients: Any, query_given: Any) -> tuple[Any, jax.Array]:
            dq, (query, rest) = query_given
            for n in range(2):
                key = jax.tree.map(lambda a, n=n: a[n], keys)
                find = functools.partial(_gradients, query, rest, key, sight, form, n)
                seen = _any_visible(query, key, sight, form)
                dq, gradients = jax.lax.cond(seen, find, lambda dq, gradients: (dq, gradients), dq, gradients)
            return gradients, dq

        gradients, dq = jax.lax.scan(one, gradients, (dq, given))
        return (dq, team.rotate(memory), team.rotate(gradients)), None

    start = (jnp.zeros(queries.q_BGSK.shape, jnp.float32), (k_BMGK, v_BMGK, sight.segments_BL), (nothing, nothing))
    (dq, _, (dk, dv)), _ = jax.lax.scan(turn, start, jnp.arange(team.size))
    d_sink = None
    if sight.sink_H is not None:
        p = jnp.exp(_by_row(sight.sink_H, form.chunk, groups) - total)
        each = (p * product).reshape(*product.shape[:3], -1, form.chunk)
        d_sink = -jnp.sum(each, axis=(0, 1, 4)).reshape(sight.sink_H.shape)
    dk_BMGK, dv_BMGK = (jnp.transpose(a, (1, 0, 3, 2, 4)).reshape(k_BMGK.shape).astype(dtype) for a in (dk, dv))
    return (
        _positions(dq, q_BLHK.shape).astype(dtype), dk_BMGK, dv_BMGK,
        Sight(segments_BL=None, window=None, sink_H=d_sink, slopes_H=None),
    )  # fmt: skip


_ring.defvjp(_ring_forward, _ring_backward)


class _Queries(NamedTuple):
    """Chunks of queries, one after the other: q_BGSK [chunks, B, G, S, K], start and segments of their positions."""

    q_BGSK: jax.Array
    start: jax.Array
    segments: jax.Array | None


class _Keys(NamedTuple):
    """The two parts of a device: keys and values [2, B, G, M, K], start and segments of their positions."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array
    start: jax.Array
    segments: jax.Array | None


def _starts(holder: Any, part: int, team: Team) -> jax.Array:
    """Where the two parts of a device begin in the text."""
    return jnp.stack([jnp.asarray(holder), 2 * team.size - 1 - jnp.asarray(holder)]) * part


def _queries(q_BLHK: jax.Array, sight: Sight, form: _Form, groups: int) -> _Queries:
    batch, length, heads, width = q_BLHK.shape
    chunk, part = form.chunk, length // 2
    q = q_BLHK.reshape(batch, -1, chunk, groups, heads // groups, width)
    q = jnp.transpose(q, (1, 0, 3, 4, 2, 5)).reshape(-1, batch, groups, heads // groups * chunk, width)
    starts = _starts(form.team.index(), part, form.team)[:, None] + jnp.arange(0, part, chunk)
    return _Queries(q, starts.reshape(-1), _cut(sight.segments_BL, chunk))


def _keys(memory: tuple[Any, ...], holder: Any, team: Team) -> _Keys:
    """`memory`: keys, values and segments of the device `holder`."""
    k_BMGK, v_BMGK, segments_BL = memory
    part = k_BMGK.shape[1] // 2
    k, v = (jnp.transpose(a.reshape(a.shape[0], 2, part, *a.shape[2:]), (1, 0, 3, 2, 4)) for a in (k_BMGK, v_BMGK))
    return _Keys(k, v, _starts(holder, part, team), _cut(segments_BL, part))


def _cut(a_BL: jax.Array | None, size: int) -> jax.Array | None:
    return None if a_BL is None else jnp.moveaxis(a_BL.reshape(len(a_BL), -1, size), 1, 0)


def _positions(chunks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_queries`: [chunks, B, G, S, K] -> [B, L, H, K]."""
    batch, length, heads, width = shape
    count, groups = chunks.shape[0], chunks.shape[2]
    a = chunks.reshape(count, batch, groups, heads // groups, length // count, width)
    return jnp.transpose(a, (1, 0, 4, 2, 3, 5)).reshape(shape)


def _any_visible(query: _Queries, key: _Keys, sight: Sight, form: _Form) -> jax.Array:
    seen = query.start + form.chunk > key.start
    if sight.window is not None:
        seen &= query.start - (key.start + key.k_BGMK.shape[2] - 1) < sight.window
    return seen


def _scores(query: _Queries, key: _Keys, sight: Sight, form: _Form) -> tuple[jax.Array, jax.Array | None]:
    """The scores [B, G, S, M], and by how much they follow the products where a soft cap bends them."""
    q_BGSK, k_BGMK = query.q_BGSK, key.k_BGMK
    s_BGSM = _product('BGSK,BGMK->BGSM', q_BGSK, k_BGMK)
    follow = None
    if form.softcap:
        bent = jnp.tanh(s_BGSM / form.softcap)
        s_BGSM, follow = form.softcap * bent, 1 - jnp.square(bent)
    repeats, groups = query.q_BGSK.shape[2] // form.chunk, query.q_BGSK.shape[1]
    distance_LM = query.start + jnp.arange(form.chunk)[:, None] - key.start - jnp.arange(key.k_BGMK.shape[2])
    if sight.slopes_H is not None:
        s_BGSM = s_BGSM - fallen(sight.slopes_H, distance_LM.astype(jnp.float32), groups)
    visible = distance_LM >= 0
    if sight.window is not None:
        visible &= distance_LM < sight.window
    if query.segments is not None and key.segments is not None:
        visible = visible & (query.segments[:, :, None] == key.segments[:, None, :])
        return jnp.where(jnp.tile(visible, (1, repeats, 1))[:, None], s_BGSM, HIDDEN), follow
    return jnp.where(jnp.tile(visible, (repeats, 1)), s_BGSM, HIDDEN), follow


def _find(query: _Queries, key: _Keys, sight: Sight, form: _Form, found: _Found) -> _Found:
    s_BGSM, _ = _scores(query, key, sight, form)
    top_BGS = jnp.maximum(found.top, jnp.max(s_BGSM, axis=-1))
    # A row that sees nothing here has HIDDEN for its top: its scores would count as 1.
    p_BGSM = jnp.where(s_BGSM > HIDDEN, jnp.exp(s_BGSM - top_BGS[..., None]), 0)
    less_BGS = jnp.exp(found.top - top_BGS)
    v_BGMK = key.v_BGMK
    o_BGSK = _product('BGSM,BGMK->BGSK', p_BGSM.astype(v_BGMK.dtype), v_BGMK)
    return _Found(found.o * less_BGS[..., None] + o_BGSK, top_BGS, found.sum * less_BGS + jnp.sum(p_BGSM, axis=-1))


def _summed(found: _Found, sight: Sight, form: _Form) -> tuple[jax.Array, jax.Array]:
    """The values by the softmax, and the logsumexp of the scores."""
    top, total = found.top, found.sum
    scale = jnp.ones_like(top)
    if sight.sink_H is not None:
        sink = _by_row(sight.sink_H, form.chunk, found.o.shape[2])
        higher = jnp.maximum(top, sink)
        scale = jnp.exp(top - higher)
        top, total = higher, total * scale + jnp.exp(sink - higher)
    return found.o * (scale / total)[..., None], top + jnp.log(total)


def _by_row(sink_H: jax.Array, chunk: int, groups: int) -> jax.Array:
    """[H] -> [G, S]."""
    return jnp.repeat(sink_H.astype(jnp.float32).reshape(groups, -1), chunk, axis=-1)


def _gradients(
    query: _Queries, given: tuple[jax.Array, ...], key: _Keys, sight: Sight, form: _Form,
    part: int, dq_BGSK: jax.Array, gradients: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """Adds what one chunk of queries and one part of the keys give (Dao et al. 2022, algorithm 4)."""
    (do_BGSK, total, product), (dk, dv) = given, gradients
    q_BGSK, k_BGMK, v_BGMK = query.q_BGSK, key.k_BGMK, key.v_BGMK
    s_BGSM, follow = _scores(query, key, sight, form)
    p_BGSM = jnp.exp(s_BGSM - total[..., None])
    dp_BGSM = _product('BGSK,BGMK->BGSM', do_BGSK, v_BGMK)
    ds = p_BGSM * (dp_BGSM - product[..., None])
    ds_BGSM = (ds if follow is None else ds * follow).astype(k_BGMK.dtype)
    dk = dk.at[part].add(_product('BGSM,BGSK->BGMK', ds_BGSM, q_BGSK))
    dv = dv.at[part].add(_product('BGSM,BGSK->BGMK', p_BGSM.astype(do_BGSK.dtype), do_BGSK))
    return dq_BGSK + _product('BGSM,BGMK->BGSK', ds_BGSM, k_BGMK), (dk, dv)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
