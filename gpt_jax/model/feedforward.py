"""Dense feed-forward layers: two matrices, or three with a gate; activation functions.

A feed-forward layer returns its output and a dict of statistics, which only routed experts fill
(experts.py). Devices that share F (in attention, H) hold different parts of the length between the
branches: a branch gathers the whole length and scatters the sum of the devices' outputs (sequence
parallelism; Korthikanti et al. 2022).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.registry import resolve
from gpt_jax.model.matmul import broadcast_param, einsum
from gpt_jax.model.weights import ParamFn
from gpt_jax.parallel.sharding import ShardingPolicy

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=True),  # the tanh form of GPT-2 and GPT-3
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'relu': jax.nn.relu,
    'squared_relu': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021
    'silu': jax.nn.silu,
    'sigmoid': jax.nn.sigmoid,
    'identity': lambda x: x,
}


def get_activation(config: ModelConfig) -> Callable[[jax.Array], jax.Array]:
    """Look up the activation function that the config names."""
    return resolve(config.activation, ACTIVATIONS, 'model.activation')


def mlp(
    param: ParamFn, x_BLD: jax.Array, *, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Apply two matrices with an activation between them. [B, L, D] -> [B, L, D]."""
    x_BLD = policy.group('F').all_gather(x_BLD, 1)
    h_BLF = einsum('BLD,DF->BLF', x_BLD, param('up', 'DF', 'hidden'), config)
    if config.bias:
        h_BLF = h_BLF + broadcast_param(param('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = policy.activation(get_activation(config)(h_BLF), 'BLF')
    return _project_down(param, h_BLF, config, policy), {}


def gated(
    param: ParamFn, x_BLD: jax.Array, *, config: ModelConfig, policy: ShardingPolicy
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute down(activation(gate x) * up x) (Shazeer 2020). [B, L, D] -> [B, L, D].

    Activation silu gives SwiGLU, gelu GEGLU, relu ReGLU, sigmoid GLU, identity the bilinear form.
    """
    x_BLD = policy.group('F').all_gather(x_BLD, 1)
    g_BLF = einsum('BLD,DF->BLF', x_BLD, param('gate', 'DF', 'hidden'), config)
    h_BLF = einsum('BLD,DF->BLF', x_BLD, param('up', 'DF', 'hidden'), config)
    if config.bias:
        g_BLF = g_BLF + broadcast_param(param('gate_bias', 'F', 'bias'), g_BLF.shape, g_BLF.dtype)
        h_BLF = h_BLF + broadcast_param(param('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = policy.activation(get_activation(config)(g_BLF) * h_BLF, 'BLF')
    return _project_down(param, h_BLF, config, policy), {}


def _project_down(
    param: ParamFn, h_BLF: jax.Array, config: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    y_BLD = einsum('BLF,FD->BLD', h_BLF, param('down', 'FD', 'residual'), config)
    y_BLD = policy.group('F').reduce_scatter(y_BLD, 1)
    if config.bias:
        y_BLD = y_BLD + broadcast_param(param('down_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD
