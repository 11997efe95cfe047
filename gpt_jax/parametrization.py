"""How do initialization, learning rate and weight decay depend on a weight's role? One table per parametrization.

A weight is declared with a role (see model/weights.py); a row of the table says everything that follows from it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Row(NamedTuple):
    """What a role means.

    init: (key, shape, config) -> float32 array, `config` being the model's (init_std, layers).
    rate: factor on the learning rate.
    decay: factor on the weight decay.
    """

    init: Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
    rate: float
    decay: float


def _normal(key: jax.Array, shape: tuple[int, ...], config: Any) -> jax.Array:
    return config.init_std * jax.random.normal(key, shape, jnp.float32)


def _residual(key: jax.Array, shape: tuple[int, ...], config: Any) -> jax.Array:
    # GPT-2, section 2.3: a weight that writes into the residual stream is scaled by 1/sqrt(number of writers).
    return config.init_std / math.sqrt(2 * config.layers) * jax.random.normal(key, shape, jnp.float32)


def _ones(_: jax.Array, shape: tuple[int, ...], __: Any) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def _zeros(_: jax.Array, shape: tuple[int, ...], __: Any) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


STANDARD: Mapping[str, Row] = {
    'embedding': Row(_normal, rate=1, decay=1),
    'hidden': Row(_normal, rate=1, decay=1),
    'residual': Row(_residual, rate=1, decay=1),
    'head': Row(_normal, rate=1, decay=1),
    'scale': Row(_ones, rate=1, decay=0),
    'bias': Row(_zeros, rate=1, decay=0),
}

PARAMETRIZATIONS: Mapping[str, Mapping[str, Row]] = {'standard': STANDARD}


def decay_factors(parametrization: str, roles: Any) -> Any:
    """The tree of weight-decay factors for a tree of roles."""
    return jax.tree.map(lambda role: np.float32(PARAMETRIZATIONS[parametrization][role].decay), roles)
