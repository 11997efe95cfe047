"""Multi-head attention: projections, positions, and a choice of attention kernels.

A kernel is a function `kernel(q_BLHK, k_BMGK, v_BMGK, mask, config) -> o_BLHK`: causal attention
restricted by `mask` (model/mask.py), scaled by 1/sqrt(K), with the softmax in float32.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import forward_multipliers
from gpt_jax.core.registry import resolve
from gpt_jax.model import kv_cache
from gpt_jax.model.chunked_attention import chunked_attention
from gpt_jax.model.context_parallel import CONTEXT_PARALLEL
from gpt_jax.model.kv_cache import LayerKVCache, SlotInfo
from gpt_jax.model.mask import NO_WINDOW, AttentionMask
from gpt_jax.model.matmul import apply_multiplier, broadcast_param, einsum
from gpt_jax.model.norms import get_rms_scale, scale_by_rms
from gpt_jax.model.position import RotateFn, get_position_scheme
from gpt_jax.model.splash_attention import splash_attention
from gpt_jax.model.weights import ParamFn
from gpt_jax.parallel.axis_group import SINGLE_DEVICE
from gpt_jax.parallel.sharding import ShardingPolicy


def multi_head_attention(
    param: ParamFn,
    x_BLD: jax.Array,
    positions_BL: jax.Array | None,
    mask: AttentionMask,
    slot: SlotInfo | None,
    *,
    config: ModelConfig,
    policy: ShardingPolicy,
) -> tuple[jax.Array, LayerKVCache | None]:
    """Compute multi-head attention.

    Grouped-query if kv_heads < heads, multi-query if kv_heads is 1 (Ainslie et al. 2023).

    Args:
      x_BLD: the input of the layer.
      positions_BL: int32, or None for 0, 1, 2, ...
      mask: what queries see besides the causal order.
      slot: the layer's cache and the tokens that enter it; None without a cache.

    Returns:
      The output [B, L, D], and the layer's cache with these tokens added (None without one).
    """
    x_BLD = policy.group('H').all_gather(x_BLD, 1)
    q_BLHK, k_BMGK, v_BMGK = _project(param, x_BLD, config, policy)
    scheme = get_position_scheme(config)
    if scheme.rotate is not None:
        rotate = functools.partial(_rotate, scheme.rotate, positions_BL, mask.window, config)
        q_BLHK, k_BMGK = rotate(q_BLHK), rotate(k_BMGK)
    q_BLHK = apply_multiplier(q_BLHK, forward_multipliers(config).attention)
    if mask.score_factor is not None:
        q_BLHK = (q_BLHK.astype(jnp.float32) * mask.score_factor).astype(q_BLHK.dtype)
        mask = mask._replace(score_factor=None)
    q_BLHK = policy.activation(q_BLHK, 'BLHK')
    k_BMGK, v_BMGK = policy.activation(k_BMGK, 'BMGK'), policy.activation(v_BMGK, 'BMGK')
    if config.attention_sink:
        mask = mask._replace(sink_H=param('sink', 'H', 'bias'))
    if scheme.slopes is not None:
        mask = mask._replace(slopes_H=policy.group('H').shard(scheme.slopes(config.heads), 0))
    k_BMGK = _select_kv_head(k_BMGK, q_BLHK.shape[2], config, policy)
    v_BMGK = _select_kv_head(v_BMGK, q_BLHK.shape[2], config, policy)

    cache = None if slot is None else kv_cache.update_cache(slot, k_BMGK, v_BMGK)
    if cache is None or slot is None or slot.prefill:
        kernel = resolve(config.attention_kernel, ATTENTION_KERNELS, 'model.attention_kernel')
        if (group := policy.group('L')).size > 1:
            parallel = CONTEXT_PARALLEL[policy.context_parallel]
            kernel = functools.partial(parallel, group=group, kernel=kernel)
        o_BLHK = kernel(q_BLHK, k_BMGK, v_BMGK, mask, config)
    else:
        o_BLHK = kv_cache.attend_to_cache(q_BLHK, cache, slot, mask, config)
    y_BLD = einsum('BLHK,HKD->BLD', o_BLHK, param('output', 'HKD', 'residual'), config)
    y_BLD = policy.group('H').reduce_scatter(y_BLD, 1)
    if config.bias:
        bias_D = param('output_bias', 'D', 'bias')
        y_BLD = y_BLD + broadcast_param(bias_D, y_BLD.shape, y_BLD.dtype)
    return y_BLD, cache


def _project(
    param: ParamFn, x_BLD: jax.Array, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries, keys and values, with biases and QK norm if the config asks for them."""
    q_BLHK = einsum('BLD,DHK->BLHK', x_BLD, param('query', 'DHK', 'hidden'), config)
    x_BMD = x_BLD  # self-attention: keys and values come from the same text
    k_BMGK = einsum('BMD,DGK->BMGK', x_BMD, param('key', 'DGK', 'hidden'), config)
    v_BMGK = einsum('BMD,DGK->BMGK', x_BMD, param('value', 'DGK', 'hidden'), config)
    if config.bias or config.qkv_bias:
        q_bias, k_bias = param('query_bias', 'HK', 'bias'), param('key_bias', 'GK', 'bias')
        v_bias = param('value_bias', 'GK', 'bias')
        q_BLHK = q_BLHK + broadcast_param(q_bias, q_BLHK.shape, q_BLHK.dtype)
        k_BMGK = k_BMGK + broadcast_param(k_bias, k_BMGK.shape, k_BMGK.dtype)
        v_BMGK = v_BMGK + broadcast_param(v_bias, v_BMGK.shape, v_BMGK.dtype)
    if config.qk_norm:
        q_BLHK = _apply_qk_norm(param, 'query_norm', 'H', q_BLHK, config, policy)
        k_BMGK = _apply_qk_norm(param, 'key_norm', 'G', k_BMGK, config, policy)
    return q_BLHK, k_BMGK, v_BMGK


def _apply_qk_norm(
    param: ParamFn,
    name: str,
    letter: str,
    a_BLHK: jax.Array,
    config: ModelConfig,
    policy: ShardingPolicy,
) -> jax.Array:
    """Normalize each head, or all together, of queries (letter H) or keys (letter G)."""
    if config.qk_norm_per_head:
        return scale_by_rms(a_BLHK, get_rms_scale(param, name, 'K', config), config)
    is_shared = a_BLHK.shape[2] < config.dims[letter]
    devices = policy.group(letter) if is_shared else SINGLE_DEVICE
    scale = get_rms_scale(param, name, f'{letter}K', config)
    return scale_by_rms(a_BLHK, scale, config, devices)


def _rotate(
    rotate: RotateFn,
    positions_BL: jax.Array | None,
    window: int | jax.Array | None,
    config: ModelConfig,
    a_BLHK: jax.Array,
) -> jax.Array:
    """Rotate queries or keys as the kind of the layer asks for (window_rotary_base)."""
    if window is None or not config.window_rotary_base:
        return rotate(a_BLHK, positions_BL, config)
    window_config = dataclasses.replace(
        config, rotary_base=config.window_rotary_base, rotary_scaling='none'
    )
    rotated_BLHK = rotate(a_BLHK, positions_BL, window_config)
    if isinstance(window, int):
        return rotated_BLHK
    # Full and window layers share one loop.
    return jnp.where(window < NO_WINDOW, rotated_BLHK, rotate(a_BLHK, positions_BL, config))


def _select_kv_head(
    a_BMGK: jax.Array, local_heads: int, config: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    """Select the key/value head of this device's query heads.

    Applies only if devices share the query heads and there are fewer key/value heads than devices:
    then each device holds all key/value heads, and its query heads read one of them.
    """
    group = policy.group('H')
    if a_BMGK.shape[2] * group.size == config.kv_heads:
        return a_BMGK
    queries_per_kv_head = config.heads // config.kv_heads
    index = group.index() * local_heads // queries_per_kv_head
    return jax.lax.dynamic_slice_in_dim(a_BMGK, index, 1, axis=2)


def cudnn_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: AttentionMask,
    config: ModelConfig,
) -> jax.Array:
    """Compute causal attention with cuDNN's fused kernel, on NVIDIA GPUs with bfloat16 operands.

    Segments become an explicit mask.

    Raises:
      UserError: no NVIDIA GPU, float32 operands, or an option that cuDNN does not support.
    """
    if jax.default_backend() != 'gpu' or config.matmul_dtype == 'float32':
        raise UserError(
            'config.model.attention_kernel: cudnn must have an NVIDIA GPU and 16-bit operands, '
            f'got {jax.default_backend()} and {config.matmul_dtype}; use chunked'
        )
    window = mask.window
    biased = mask.slopes_H is not None or mask.sink_H is not None
    if config.attention_softcap or biased or not isinstance(window, int | None):
        raise UserError(
            'config.model.attention_kernel: cudnn supports no soft cap, ALiBi, sink, or mixed full '
            'and window layers with scan_layers; use chunked'
        )
    dtype = jnp.dtype(config.matmul_dtype)
    same_segment = None
    if (segments_BL := mask.segments_BL) is not None:
        same_segment = segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
    o_BLHK = jax.nn.dot_product_attention(
        q_BLHK.astype(dtype),
        k_BMGK.astype(dtype),
        v_BMGK.astype(dtype),
        mask=same_segment,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation='cudnn',
    )
    return o_BLHK.astype(config.activation_dtype)


ATTENTIONS = {'multi_head': multi_head_attention}
ATTENTION_KERNELS = {
    'chunked': chunked_attention,
    'cudnn': cudnn_attention,
    'splash': splash_attention,
}
