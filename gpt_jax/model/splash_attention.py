"""Splash attention for TPUs, wrapped as an attention kernel (Dao et al. 2022).

`jax.experimental.pallas.ops.tpu.splash_attention` processes blocks of `attention_chunk` queries and
keys in the chip's fast memory, so that no scores are stored; blocks that the mask hides are neither
fetched nor computed.
"""

import functools
import math

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.model.mask import AttentionMask
from gpt_jax.model.matmul import MATMUL_RESULT
from gpt_jax.model.position import get_position_scheme

TPU_LANES = 128  # a block is a multiple of this many positions


def splash_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    config: ModelConfig,
) -> jax.Array:
    """Compute causal attention with the TPU's splash kernel. -> [B, L, H, K].

    Operates on arrays that this device holds whole. On devices other than TPUs the kernel is
    interpreted, which is slow.

    Raises:
      UserError: ALiBi, or full and window layers that share one loop (scan_layers).
    """
    if get_position_scheme(config).slopes or not isinstance(mask.window, int | None):
        raise UserError(
            'config.model.attention_kernel: splash supports neither ALiBi nor mixed full and '
            'window layers with scan_layers; use chunked'
        )
    dtype, length = jnp.dtype(config.matmul_dtype), q_BLHK.shape[1]
    q_BLHK = q_BLHK / math.sqrt(q_BLHK.shape[-1])
    # The keys that pad the last block are later than all queries, so no query sees them.
    padding = -length % TPU_LANES
    pad_length = ((0, 0), (0, 0), (0, padding), (0, 0))
    q_BHLK, k_BGMK, v_BGMK = (
        jnp.pad(jnp.swapaxes(a.astype(dtype), 1, 2), pad_length) for a in (q_BLHK, k_BMGK, v_BMGK)
    )
    segments_BL = mask.segments_BL
    if segments_BL is not None:
        segments_BL = jnp.pad(segments_BL, ((0, 0), (0, padding)))
    call = functools.partial(_call_kernel, sink_H=mask.sink_H, window=mask.window, config=config)
    o_BHLK = jax.lax.platform_dependent(
        q_BHLK,
        k_BGMK,
        v_BGMK,
        segments_BL,
        tpu=functools.partial(call, interpret=False),
        default=functools.partial(call, interpret=True),
    )
    return jnp.swapaxes(o_BHLK, 1, 2)[:, :length].astype(config.activation_dtype)


def splash_block_size(length: int, chunk: int) -> int:
    """Return the largest multiple of TPU_LANES that divides `length` and is at most `chunk`.

    Args:
      length: positions, a multiple of TPU_LANES.
      chunk: the limit, raised to TPU_LANES; 0: no limit.
    """
    limit = max(TPU_LANES, min(chunk or length, length))
    return max(size for size in range(TPU_LANES, limit + 1, TPU_LANES) if length % size == 0)


def _call_kernel(
    q_BHLK: jax.Array,
    k_BGMK: jax.Array,
    v_BGMK: jax.Array,
    segments_BL: jax.Array | None,
    *,
    sink_H: jax.Array | None,
    window: int | None,
    config: ModelConfig,
    interpret: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length = q_BHLK.shape[1:3]
    shape = (length, length)
    mask = masks.CausalMask(shape) if window is None else masks.LocalMask(shape, (window - 1, 0), 0)
    size = splash_block_size(length, config.attention_chunk)
    # Lay positions along the lanes: heads of 64 dims would fill only half of them.
    layout = kernels.QKVLayout.SEQ_MINOR
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        attn_logits_soft_cap=config.attention_softcap or None,
        residual_checkpoint_name=MATMUL_RESULT,
        block_sizes=kernels.BlockSizes(
            block_q=size,
            block_kv=size,
            block_kv_compute=size,
            block_q_dkv=size,
            block_kv_dkv=size,
            block_kv_dkv_compute=size,
            block_q_dq=size,
            block_kv_dq=size,
            q_layout=layout,
            k_layout=layout,
            v_layout=layout,
        ),
    )

    def attend_row(
        q_HLK: jax.Array, k_GMK: jax.Array, v_GMK: jax.Array, segments_L: jax.Array | None
    ) -> jax.Array:
        ids = None if segments_L is None else kernels.SegmentIds(segments_L, segments_L)
        return attend(q_HLK, k_GMK, v_GMK, ids, sinks=sink_H)

    in_axes = (0, 0, 0, None if segments_BL is None else 0)
    return jax.vmap(attend_row, in_axes=in_axes)(q_BHLK, k_BGMK, v_BGMK, segments_BL)
