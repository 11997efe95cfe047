"""How does a TPU attend without keeping any scores? JAX's splash attention, in the form of our kernels."""

import functools
import math

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import Sight
from gpt_jax.model.position import POSITIONS
from gpt_jax.model.products import PRODUCT

LANES = 128  # a block is so many positions, or a multiple of it


def splash(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig) -> jax.Array:
    """jax.experimental.pallas.ops.tpu.splash_attention: blocks of `attention_chunk` queries and keys, in the chip's
    fast memory (Dao et al. 2022); blocks that the mask hides are neither fetched nor computed.

    Runs on arrays that this device holds wholly. Elsewhere than on a TPU it is interpreted, which is slow.

    Raises:
      UserError: ALiBi, or layers of two kinds under scan_layers.
    """
    if POSITIONS[config.position].slopes or not isinstance(sight.window, int | None):
        raise UserError(
            'config.model.attention_kernel: splash knows no ALiBi, and no layers of two kinds under scan_layers; '
            'chunked does'
        )
    dtype, length = jnp.dtype(config.matmul_dtype), q_BLHK.shape[1]
    q_BLHK = q_BLHK / math.sqrt(q_BLHK.shape[-1])
    # Keys that only fill the last block are later than all queries, so that none sees them.
    fill = -length % LANES
    q_BHLK, k_BGMK, v_BGMK = (
        jnp.pad(jnp.swapaxes(a.astype(dtype), 1, 2), ((0, 0), (0, 0), (0, fill), (0, 0)))
        for a in (q_BLHK, k_BMGK, v_BMGK)
    )
    segments_BL = None if sight.segments_BL is None else jnp.pad(sight.segments_BL, ((0, 0), (0, fill)))
    call = functools.partial(_attend, sink_H=sight.sink_H, window=sight.window, config=config)
    o_BHLK = jax.lax.platform_dependent(
        q_BHLK, k_BGMK, v_BGMK, segments_BL,
        tpu=functools.partial(call, interpret=False), default=functools.partial(call, interpret=True),
    )  # fmt: skip
    return jnp.swapaxes(o_BHLK, 1, 2)[:, :length].astype(config.activation_dtype)


def block(length: int, chunk: int) -> int:
    """The largest multiple of LANES that divides `length`, itself one, and is at most `chunk` (0: at most all)."""
    limit = max(LANES, min(chunk or length, length))
    return max(size for size in range(LANES, limit + 1, LANES) if length % size == 0)


def _attend(
    q_BHLK: jax.Array, k_BGMK: jax.Array, v_BGMK: jax.Array, segments_BL: jax.Array | None, *,
    sink_H: jax.Array | None, window: int | None, config: ModelConfig, interpret: bool,
) -> jax.Array:  # fmt: skip
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length = q_BHLK.shape[1:3]
    side = (length, length)
    mask = masks.CausalMask(side) if window is None else masks.LocalMask(side, (window - 1, 0), 0)
    size = block(length, config.attention_chunk)
    turned = kernels.QKVLayout.SEQ_MINOR  # positions along the lanes: heads of 64 would fill half of them
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=1, interpret=interpret,
        attn_logits_soft_cap=config.attention_softcap or None, residual_checkpoint_name=PRODUCT,
        block_sizes=kernels.BlockSizes(
            block_q=size, block_kv=size, block_kv_compute=size, block_q_dkv=size, block_kv_dkv=size,
            block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
            q_layout=turned, k_layout=turned, v_layout=turned,
        ),
    )  # fmt: skip

    def one(q_HLK: jax.Array, k_GMK: jax.Array, v_GMK: jax.Array, segments_L: jax.Array | None) -> jax.Array:
        ids = None if segments_L is None else kernels.SegmentIds(segments_L, segments_L)
        return attend(q_HLK, k_GMK, v_GMK, ids, sinks=sink_H)

    return jax.vmap(one, in_axes=(0, 0, 0, None if segments_BL is None else 0))(q_BHLK, k_BGMK, v_BGMK, segments_BL)
