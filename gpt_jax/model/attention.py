"""How do positions look at each other? The projections, and the kernels behind one signature.

A kernel is `kernel(q_BLHK, k_BMGK, v_BMGK, sight, config) -> o_BLHK`: causal attention over what `sight` lets a query
see (model/mask.py), scaled by 1/sqrt(K), softmax in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.model import cache
from gpt_jax.model.chunked import chunked
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.mask import Sight
from gpt_jax.model.norm import head_norm
from gpt_jax.model.position import POSITIONS
from gpt_jax.model.products import einsum, scaled, spread
from gpt_jax.model.splash import splash
from gpt_jax.model.weights import Declare
from gpt_jax.parametrization import forward


def multi_head(
    declare: Declare, x_BLD: jax.Array, positions_BL: jax.Array | None, sight: Sight, room: cache.Room | None, *,
    config: ModelConfig, place: Any,
) -> tuple[jax.Array, cache.Layer | None]:  # fmt: skip
    """Multi-head attention; grouped-query where kv_heads < heads, multi-query where it is 1 (Ainslie et al. 2023).

    [B, L, D] -> [B, L, D], and the layer's cache with these tokens in it, where there is one.
    """
    q_BLHK = einsum('BLD,DHK->BLHK', x_BLD, declare('query', 'DHK', 'hidden'), config)
    x_BMD = x_BLD  # the memory of a text is the text itself
    k_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('key', 'DGK', 'hidden'), config)
    v_BMGK = einsum('BMD,DGK->BMGK', x_BMD, declare('value', 'DGK', 'hidden'), config)
    if config.bias or config.qkv_bias:
        q_BLHK = q_BLHK + spread(declare('query_bias', 'HK', 'bias'), q_BLHK.shape, q_BLHK.dtype)
        k_BMGK = k_BMGK + spread(declare('key_bias', 'GK', 'bias'), k_BMGK.shape, k_BMGK.dtype)
        v_BMGK = v_BMGK + spread(declare('value_bias', 'GK', 'bias'), v_BMGK.shape, v_BMGK.dtype)
    if config.qk_norm:
        q_BLHK = head_norm(q_BLHK, declare('query_norm', 'K', 'scale'), config)
        k_BMGK = head_norm(k_BMGK, declare('key_norm', 'K', 'scale'), config)
    if (turn := POSITIONS[config.position].turn) is not None:
        q_BLHK, k_BMGK = turn(q_BLHK, positions_BL, config), turn(k_BMGK, positions_BL, config)
    q_BLHK = place.activation(scaled(q_BLHK, forward(config).attention), 'BLHK')
    k_BMGK, v_BMGK = place.activation(k_BMGK, 'BMGK'), place.activation(v_BMGK, 'BMGK')
    if config.attention_sink:
        sight = sight._replace(sink_H=declare('sink', 'H', 'bias'))
    kept = None if room is None else cache.write(room, k_BMGK, v_BMGK)
    if room is None or room.fresh:
        o_BLHK = _local(config.attention_kernel, place)(q_BLHK, k_BMGK, v_BMGK, sight, config)
    else:
        assert kept is not None
        o_BLHK = cache.attend(q_BLHK, kept, room, sight, config)
    y_BLD = einsum('BLHK,HKD->BLD', o_BLHK, declare('output', 'HKD', 'residual'), config)
    if config.bias:
        y_BLD = y_BLD + spread(declare('output_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD, kept


def _local(name: str, place: Any) -> Callable[..., jax.Array]:
    """The kernel, on each device's own rows where the compiler could not cut it into them."""
    if name not in OPAQUE:
        return KERNELS[name]

    def run(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig) -> jax.Array:
        def one(rows: tuple[Any, ...], sink_H: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array]]:
            q_BLHK, k_BMGK, v_BMGK, segments_BL = rows
            return KERNELS[name](q_BLHK, k_BMGK, v_BMGK, Sight(segments_BL, sight.window, sink_H), config), {}

        return place.apart(one)((q_BLHK, k_BMGK, v_BMGK, sight.segments_BL), sight.sink_H)[0]

    return run


def cudnn(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, sight: Sight, config: ModelConfig) -> jax.Array:
    """cuDNN's fused attention on NVIDIA GPUs (bfloat16 operands). Segments become an explicit mask."""
    if jax.default_backend() != 'gpu' or config.matmul_dtype == 'float32':
        raise UserError(
            'config.model.attention_kernel: cudnn wants an NVIDIA GPU and 16-bit operands, and here are '
            f'{jax.default_backend()} and {config.matmul_dtype}; chunked runs everywhere'
        )
    slopes = POSITIONS[config.position].slopes
    if config.attention_softcap or slopes or sight.sink_H is not None or not isinstance(sight.window, int | None):
        raise UserError(
            'config.model.attention_kernel: cudnn knows no soft cap, ALiBi or sink, and no layers of two kinds under '
            'scan_layers; chunked does'
        )
    dtype = jnp.dtype(config.matmul_dtype)
    segments_BL = sight.segments_BL
    mask = None if segments_BL is None else (segments_BL[:, None, :, None] == segments_BL[:, None, None, :])
    o_BLHK = jax.nn.dot_product_attention(
        q_BLHK.astype(dtype), k_BMGK.astype(dtype), v_BMGK.astype(dtype), mask=mask, is_causal=True,
        local_window_size=None if sight.window is None else (sight.window - 1, 0), implementation='cudnn',
    )  # fmt: skip
    return o_BLHK.astype(config.activation_dtype)


ATTENTIONS = {'multi_head': multi_head}
Kernel = Callable[[jax.Array, jax.Array, jax.Array, Sight, ModelConfig], jax.Array]
KERNELS: dict[str, Kernel] = {'chunked': chunked, 'cudnn': cudnn, 'splash': splash}
OPAQUE = ('splash',)  # kernels that the compiler cannot cut over devices
