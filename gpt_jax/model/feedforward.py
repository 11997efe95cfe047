"""What does a block compute at each position by itself?

A feed-forward gives its output and what is to be known of it: for routed experts, statistics by name, else nothing.
Between the branches each of the devices that share F (or H, in attention) has its own part of the length; a branch
gathers the whole, and scatters the sum of what they make of it (Korthikanti et al. 2022).
"""

from typing import Any

import jax

from gpt_jax.model.activation import ACTIVATIONS
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.experts import Statistics, experts
from gpt_jax.model.products import einsum, spread
from gpt_jax.model.weights import Declare


def mlp(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> tuple[jax.Array, Statistics]:
    """Two matrices with an activation between them. [B, L, D] -> [B, L, D]."""
    x_BLD = place.team('F').gather(x_BLD, 1)
    h_BLF = einsum('BLD,DF->BLF', x_BLD, declare('up', 'DF', 'hidden'), config)
    if config.bias:
        h_BLF = h_BLF + spread(declare('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = place.activation(ACTIVATIONS[config.activation](h_BLF), 'BLF')
    return _down(declare, h_BLF, config, place), {}


def gated(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> tuple[jax.Array, Statistics]:
    """Shazeer 2020: down(activation(gate x) * up x). silu is SwiGLU, gelu GEGLU, relu ReGLU, identity bilinear."""
    x_BLD = place.team('F').gather(x_BLD, 1)
    g_BLF = einsum('BLD,DF->BLF', x_BLD, declare('gate', 'DF', 'hidden'), config)
    h_BLF = einsum('BLD,DF->BLF', x_BLD, declare('up', 'DF', 'hidden'), config)
    if config.bias:
        g_BLF = g_BLF + spread(declare('gate_bias', 'F', 'bias'), g_BLF.shape, g_BLF.dtype)
        h_BLF = h_BLF + spread(declare('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = place.activation(ACTIVATIONS[config.activation](g_BLF) * h_BLF, 'BLF')
    return _down(declare, h_BLF, config, place), {}


def _down(declare: Declare, h_BLF: jax.Array, config: ModelConfig, place: Any) -> jax.Array:
    y_BLD = einsum('BLF,FD->BLD', h_BLF, declare('down', 'FD', 'residual'), config)
    y_BLD = place.team('F').scatter(y_BLD, 1)
    if config.bias:
        y_BLD = y_BLD + spread(declare('down_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD


FEEDFORWARDS = {'mlp': mlp, 'gated': gated, 'experts': experts}
