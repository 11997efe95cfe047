"""What does a block compute at each position by itself?"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.products import einsum, spread
from gpt_jax.model.weights import Declare

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=True),  # GPT-2's and GPT-3's tanh form
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'relu': jax.nn.relu,
    'squared_relu': lambda x: jnp.square(jax.nn.relu(x)),
}


def mlp(declare: Declare, x_BLD: jax.Array, *, config: ModelConfig, place: Any) -> jax.Array:
    """Two matrices with an activation between them. [B, L, D] -> [B, L, D]."""
    h_BLF = einsum('BLD,DF->BLF', x_BLD, declare('up', 'DF', 'hidden'), config)
    if config.bias:
        h_BLF = h_BLF + spread(declare('up_bias', 'F', 'bias'), h_BLF.shape, h_BLF.dtype)
    h_BLF = place.activation(ACTIVATIONS[config.activation](h_BLF), 'BLF')
    y_BLD = einsum('BLF,FD->BLD', h_BLF, declare('down', 'FD', 'residual'), config)
    if config.bias:
        y_BLD = y_BLD + spread(declare('down_bias', 'D', 'bias'), y_BLD.shape, y_BLD.dtype)
    return y_BLD


FEEDFORWARDS = {'mlp': mlp}
