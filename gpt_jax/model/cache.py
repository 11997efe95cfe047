"""What does a model keep of the tokens it has read? Each layer's keys and values, in arrays of a fixed shape.

The token at position p stands in slot p modulo the layer's slots: in a full layer that is p itself; in a window layer
the slots are a ring just long enough for the window. So the slot of every position, and the position in every slot,
follow from how many tokens a row holds: rows of different lengths share one batch, and to forget the newest tokens it
is enough to lower that number.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.model.chunked import fallen, weighted
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import HIDDEN, Sight


class Layer(struct.PyTreeNode):
    """One layer's keys, as attention uses them (normed, turned), and values."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array


class Cache(struct.PyTreeNode):
    """layers: one each. length_B: int32, the tokens each row holds, and so the position of its next one."""

    layers: tuple[Layer, ...]
    length_B: jax.Array


class Room(struct.PyTreeNode):
    """What one layer is told: its part of the cache, and which tokens come in.

    start_B: the first one's position. count_B: how many of the L are real; those after them leave no trace.
    fresh: nothing is in the cache yet, so that the tokens need look at themselves alone.
    """

    layer: Layer
    start_B: jax.Array
    count_B: jax.Array
    fresh: bool = struct.field(pytree_node=False)


def slots(config: ModelConfig, kind: str, capacity: int, chunk: int) -> int:
    """Slots of a layer of that kind. A window's ring also holds what a chunk writes before its first token has read."""
    return min(capacity, config.window + chunk - 1) if kind == 'window' else capacity


def empty(config: ModelConfig, batch: int, capacity: int, chunk: int) -> Cache:
    """A cache that holds nothing.

    Args:
      capacity: tokens that a row can come to hold.
      chunk: the most tokens that one call adds to a cache that is not fresh, and that can be forgotten at once.
    """
    layers = []
    for kind in config.kinds:
        shape = (batch, config.kv_heads, slots(config, kind, capacity, chunk), config.head_dim)
        layers.append(Layer(*(jnp.zeros(shape, config.matmul_dtype) for _ in 'kv')))
    return Cache(tuple(layers), jnp.zeros(batch, jnp.int32))


def rows(cache: Cache, indices_B: jax.Array) -> Cache:
    """The cache whose row i is row `indices_B[i]` of this one."""
    return jax.tree.map(lambda a: jnp.take(a, indices_B, axis=0), cache)


def write(room: Room, k_BMGK: jax.Array, v_BMGK: jax.Array) -> Layer:
    """The layer with the room's tokens in it."""
    there = room.layer.k_BGMK.shape[2]
    offsets = jnp.arange(k_BMGK.shape[1])
    # Of more tokens than slots the newest are kept; what is not written gets a slot that does not exist.
    wanted = (offsets < room.count_B[:, None]) & (offsets >= room.count_B[:, None] - there)
    slots_BM = jnp.where(wanted, (room.start_B[:, None] + offsets) % there, there)
    if slots_BM.size == 1:  # XLA's CPU compiler makes of one index an update that it computes twice, in copies
        slots_BM = jnp.pad(slots_BM, ((0, 0), (0, 1)), constant_values=there)
        k_BMGK, v_BMGK = (jnp.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))) for a in (k_BMGK, v_BMGK))

    def put(into_GMK: jax.Array, from_MGK: jax.Array, slots_M: jax.Array) -> jax.Array:
        new_GMK = jnp.swapaxes(from_MGK, 0, 1).astype(into_GMK.dtype)
        return into_GMK.at[:, slots_M].set(new_GMK, mode='drop')

    return Layer(*(jax.vmap(put)(*pair, slots_BM) for pair in zip(
        (room.layer.k_BGMK, room.layer.v_BGMK), (k_BMGK, v_BMGK), strict=True
    )))  # fmt: skip


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend(q_BLHK: jax.Array, layer: Layer, room: Room, sight: Sight, config: ModelConfig) -> jax.Array:
    """Attention of a few queries over all that is in the cache, themselves included. [B, L, H, K] -> [B, L, H, K]."""
    batch, length, heads, width = q_BLHK.shape
    groups, there = layer.k_BGMK.shape[1:3]
    newest_B = room.start_B + room.count_B - 1
    at_BM = newest_B[:, None] - (newest_B[:, None] - jnp.arange(there)) % there  # the position in each slot
    distance_BLM = room.start_B[:, None, None] + jnp.arange(length)[:, None] - at_BM[:, None]
    visible_BLM = (distance_BLM >= 0) & (at_BM >= 0)[:, None]
    if sight.window is not None:
        visible_BLM &= distance_BLM < sight.window
    q_BLGRK = (q_BLHK / math.sqrt(width)).astype(layer.k_BGMK.dtype).reshape(batch, length, groups, -1, width)
    q_BGSK = jnp.transpose(q_BLGRK, (0, 2, 3, 1, 4)).reshape(batch, groups, -1, width)
    k_BGMK = layer.k_BGMK
    s_BGSM = _product('BGSK,BGMK->BGSM', q_BGSK, k_BGMK)
    if config.attention_softcap:
        s_BGSM = config.attention_softcap * jnp.tanh(s_BGSM / config.attention_softcap)
    if sight.slopes_H is not None:
        s_BGSM = s_BGSM - fallen(sight.slopes_H, distance_BLM.astype(jnp.float32), groups)
    visible_BGSM = jnp.tile(visible_BLM, (1, heads // groups, 1))[:, None]
    s_BGSM = jnp.where(visible_BGSM, s_BGSM, HIDDEN)
    o_BGSK = weighted(s_BGSM, layer.v_BGMK, sight, length)[0]
    o_BGRLK = o_BGSK.reshape(batch, groups, -1, length, width)
    return jnp.transpose(o_BGRLK, (0, 3, 1, 2, 4)).reshape(q_BLHK.shape).astype(config.activation_dtype)
