"""What does a block compute at each position by itself?

A feed-forward gives its output and what is to be known of it: for routed experts, statistics by name, else nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.products import einsum, spread
from gpt_jax.model.weights import Declare

Statistics = dict[str, jax.Array]  # float32 scalars
ROUTING_LOSSES = ('load_balance', 'router_z')  # statistics that are minimized, by the config's coefficients

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=True),  # GPT-2's and GPT-3's tanh form
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'relu': jax.nn.relu,
    'squared_relu': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021
    'silu': jax.nn.silu,
    'sigmoid': jax.nn.sigmoid,
    'identity': lambda x: x,
}


def mlp(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> tuple[jax.Array, Statistics]:
    """Two matrices with an activation between them. [B, L, D] -> [B, L, D]."""
    h_BLF = einsum('BLD,DF->BLF', x_BLD, declare('up', 'DF', 'hidden'), config)
    if config.bias:
        h_BLF = h_BLF + spread(declare('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = place.activation(ACTIVATIONS[config.activation](h_BLF), 'BLF')
    return _down(declare, h_BLF, config), {}


def gated(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> tuple[jax.Array, Statistics]:
    """Shazeer 2020: down(activation(gate x) * up x). silu is SwiGLU, gelu GEGLU, relu ReGLU, identity bilinear."""
    g_BLF = einsum('BLD,DF->BLF', x_BLD, declare('gate', 'DF', 'hidden'), config)
    h_BLF = einsum('BLD,DF->BLF', x_BLD, declare('up', 'DF', 'hidden'), config)
    if config.bias:
        g_BLF = g_BLF + spread(declare('gate_bias', 'F', 'bias'), g_BLF.shape, g_BLF.dtype)
        h_BLF = h_BLF + spread(declare('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = place.activation(ACTIVATIONS[config.activation](g_BLF) * h_BLF, 'BLF')
    return _down(declare, h_BLF, config), {}


def _down(declare: Declare, h_BLF: jax.Array, config: ModelConfig) -> jax.Array:
    y_BLD = einsum('BLF,FD->BLD', h_BLF, declare('down', 'FD', 'residual'), config)
    if config.bias:
        y_BLD = y_BLD + spread(declare('down_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD


FEEDFORWARDS = {'mlp': mlp, 'gated': gated}
