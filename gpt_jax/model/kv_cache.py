"""Key/value cache for generation: each layer's keys and values in arrays of a fixed shape.

The token at position p is in slot p modulo the layer's number of slots: in a full layer that is p
itself; in a window layer the slots are a ring buffer just long enough for the window. So the slot
of every position, and the position in every slot, follow from the number of tokens in a row. Rows
of different lengths can share a batch, and lowering that number removes the newest tokens.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.core.config import ModelConfig
from gpt_jax.model.chunked_attention import alibi_bias, compute_scores, softmax_average
from gpt_jax.model.mask import MASK_VALUE, AttentionMask


class LayerKVCache(struct.PyTreeNode):
    """One layer's keys, as attention uses them (normalized, rotated), and values. M: slots."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array


class KVCache(struct.PyTreeNode):
    """A model's cache. length_B: int32, number of tokens in each row: the next one's position."""

    layers: tuple[LayerKVCache, ...]
    length_B: jax.Array


class SlotInfo(struct.PyTreeNode):
    """One layer's part of the cache, and the tokens that enter it.

    start_B: the position of the first of these tokens.
    count_B: how many of the L tokens are real; the rest are padding and are not stored.
    prefill: whether the cache is empty, so that the tokens attend only to each other.
    """

    layer: LayerKVCache
    start_B: jax.Array
    count_B: jax.Array
    prefill: bool = struct.field(pytree_node=False)


def count_slots(config: ModelConfig, kind: str, capacity: int, chunk: int) -> int:
    """Return the number of slots in a layer of this kind.

    A window's ring buffer has room for a whole chunk, whose last tokens are written before its
    first token attends.
    """
    return min(capacity, config.window + chunk - 1) if kind == 'window' else capacity


def init_cache(config: ModelConfig, batch: int, capacity: int, chunk: int) -> KVCache:
    """Make an empty cache.

    Args:
      batch: number of rows.
      capacity: maximum number of tokens in a row.
      chunk: maximum number of tokens that one call adds to a cache that is not empty, and that can
        be removed at once.
    """
    layers = []
    for kind in config.layer_kinds:
        slots = count_slots(config, kind, capacity, chunk)
        shape = (batch, config.kv_heads, slots, config.head_dim)
        dtype = config.matmul_dtype
        layers.append(LayerKVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)))
    return KVCache(tuple(layers), jnp.zeros(batch, jnp.int32))


def gather_rows(cache: KVCache, indices_B: jax.Array) -> KVCache:
    """Return the cache whose row i is row `indices_B[i]` of the given one."""
    return jax.tree.map(lambda a: jnp.take(a, indices_B, axis=0), cache)


def update_cache(slot: SlotInfo, k_BMGK: jax.Array, v_BMGK: jax.Array) -> LayerKVCache:
    """Return the layer's cache with the keys and values of the new tokens.

    Called by `multi_head_attention` (attention.py), after the rotation of the keys.
    """
    slots = slot.layer.k_BGMK.shape[2]
    offsets = jnp.arange(k_BMGK.shape[1])
    # If there are more tokens than slots, the newest are stored; the others get a slot that does
    # not exist.
    stored = (offsets < slot.count_B[:, None]) & (offsets >= slot.count_B[:, None] - slots)
    slots_BM = jnp.where(stored, (slot.start_B[:, None] + offsets) % slots, slots)
    if slots_BM.size == 1:
        # For a single index, XLA's CPU compiler copies the cache and writes it twice. A second
        # index, which is dropped, avoids that.
        slots_BM = jnp.pad(slots_BM, ((0, 0), (0, 1)), constant_values=slots)
        k_BMGK, v_BMGK = (jnp.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))) for a in (k_BMGK, v_BMGK))

    def write_row(cached_GMK: jax.Array, new_MGK: jax.Array, slots_M: jax.Array) -> jax.Array:
        new_GMK = jnp.swapaxes(new_MGK, 0, 1).astype(cached_GMK.dtype)
        return cached_GMK.at[:, slots_M].set(new_GMK, mode='drop')

    write = jax.vmap(write_row)
    return LayerKVCache(
        write(slot.layer.k_BGMK, k_BMGK, slots_BM), write(slot.layer.v_BGMK, v_BMGK, slots_BM)
    )


def attend_to_cache(
    q_BLHK: jax.Array, cache: LayerKVCache, slot: SlotInfo, mask: AttentionMask, config: ModelConfig
) -> jax.Array:
    """Compute attention of the new tokens over all cached ones, themselves included.

    Args:
      q_BLHK: queries of the new tokens.
      cache: the layer's cache after `update_cache`.
      slot: as given to `update_cache`.

    Returns:
      [B, L, H, K], in `activation_dtype`.
    """
    batch, length, heads, width = q_BLHK.shape
    groups, slots = cache.k_BGMK.shape[1:3]
    newest_B = slot.start_B + slot.count_B - 1
    # The position of the token in each slot; negative where the slot is empty.
    position_BM = newest_B[:, None] - (newest_B[:, None] - jnp.arange(slots)) % slots
    queries_BL = slot.start_B[:, None] + jnp.arange(length)
    distance_BLM = queries_BL[..., None] - position_BM[:, None]
    visible_BLM = (distance_BLM >= 0) & (position_BM >= 0)[:, None]
    if mask.window is not None:
        visible_BLM &= distance_BLM < mask.window
    q_BLHK = (q_BLHK / math.sqrt(width)).astype(cache.k_BGMK.dtype)
    q_BLGRK = q_BLHK.reshape(batch, length, groups, -1, width)
    q_BGSK = jnp.transpose(q_BLGRK, (0, 2, 3, 1, 4)).reshape(batch, groups, -1, width)
    s_BGSM, _ = compute_scores(q_BGSK, cache.k_BGMK, config.attention_softcap)
    if mask.slopes_H is not None:
        s_BGSM = s_BGSM - alibi_bias(mask.slopes_H, distance_BLM.astype(jnp.float32), groups)
    visible_BGSM = jnp.tile(visible_BLM, (1, heads // groups, 1))[:, None]
    s_BGSM = jnp.where(visible_BGSM, s_BGSM, MASK_VALUE)
    o_BGSK, _ = softmax_average(s_BGSM, cache.v_BGMK, mask, length)
    o_BGRLK = o_BGSK.reshape(batch, groups, -1, length, width)
    o_BLHK = jnp.transpose(o_BGRLK, (0, 3, 1, 2, 4)).reshape(q_BLHK.shape)
    return o_BLHK.astype(config.activation_dtype)
