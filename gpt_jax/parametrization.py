"""How do init, forward pass, rates and decay depend on a model's shape? One table per parametrization.

A weight is declared with a role (see model/weights.py); a row of the table says everything that follows from it. What
depends on the shape is a power of m_N = width / base_width and m_L = layers / base_layers, so a model of the base shape
is the same under every parametrization: tune that one, and keep its numbers for the others.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Power(NamedTuple):
    """m_N^width x m_L^layers."""

    width: float
    layers: float

    def of(self, config: Any) -> float:
        """Its value for a model's config."""
        return float(
            (config.width / config.base_width) ** self.width * (config.layers / config.base_layers) ** self.layers
        )


ONE = Power(0, 0)


class Row(NamedTuple):
    """What a role means.

    init: (key, shape, config) -> float32 array, `config` being the model's; multiplied by `std`.
    decay: 0 for what is never decayed, else 1.
    std, rate, decay_scale, epsilon: how the initial deviation, the learning rate, the weight decay and Adam's epsilon
      follow the shape.
    """

    init: Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
    decay: float
    std: Power = ONE
    rate: Power = ONE
    decay_scale: Power = ONE
    epsilon: Power = ONE


class Table(NamedTuple):
    """A parametrization: a row per role, and what the forward pass multiplies.

    branch: each branch, before it is added to the residual stream.
    logits: what the head gives.
    attention: exponent of (base_head_dim / head_dim) by which attention scores are scaled, beside 1/sqrt(head_dim).
    """

    rows: Mapping[str, Row]
    branch: Power = ONE
    logits: Power = ONE
    attention: float = 0.0


def _normal(key: jax.Array, shape: tuple[int, ...], config: Any) -> jax.Array:
    return config.init_std * jax.random.normal(key, shape, jnp.float32)


def _residual(key: jax.Array, shape: tuple[int, ...], config: Any) -> jax.Array:
    # GPT-2, section 2.3: a weight that writes into the residual stream is scaled by 1/sqrt(number of writers).
    return config.init_std / math.sqrt(2 * config.layers) * jax.random.normal(key, shape, jnp.float32)


def _ones(_: jax.Array, shape: tuple[int, ...], __: Any) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def _zeros(_: jax.Array, shape: tuple[int, ...], __: Any) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


STANDARD = Table({
    'embedding': Row(_normal, decay=1),
    'hidden': Row(_normal, decay=1),
    'residual': Row(_residual, decay=1),
    'head': Row(_normal, decay=1),
    'scale': Row(_ones, decay=0),
    'bias': Row(_zeros, decay=0),
})  # fmt: skip

# Yang et al. 2022, table 8, for Adam: a hidden matrix has initial variance 1/m and rate 1/m, logits are divided by m
# and attention scores by head_dim.
_MATRIX = {'std': Power(-0.5, 0), 'rate': Power(-1, 0)}
MUP = Table({
    **STANDARD.rows,
    'hidden': Row(_normal, decay=1, **_MATRIX),
    'residual': Row(_residual, decay=1, **_MATRIX),
}, logits=Power(-1, 0), attention=0.5)  # fmt: skip

# Dey et al. 2025, table 1, with alpha = 1: branches are divided by m_L, which replaces GPT-2's 1/sqrt(layers) beyond
# the base depth; epsilon follows the gradients' size; decay makes up for the rate, so that rate x decay is constant.
_ENDS = {'epsilon': Power(-1, 0)}
_INNER = {'epsilon': Power(-1, -1)}
_INNER_MATRIX = {**_MATRIX, **_INNER, 'decay_scale': Power(1, 0)}
COMPLETEP = Table({
    'embedding': Row(_normal, decay=1, **_ENDS),
    'hidden': Row(_normal, decay=1, **_INNER_MATRIX),
    'residual': Row(_residual, decay=1, **_INNER_MATRIX | {'std': Power(-0.5, 0.5)}),
    'head': Row(_normal, decay=1, **_ENDS),
    'scale': Row(_ones, decay=0, **_INNER),
    'bias': Row(_zeros, decay=0, **_INNER),
}, branch=Power(0, -1), logits=Power(-1, 0), attention=0.5)  # fmt: skip

PARAMETRIZATIONS: Mapping[str, Table] = {'standard': STANDARD, 'mup': MUP, 'completep': COMPLETEP}


def initial(role: str, key: jax.Array, shape: tuple[int, ...], config: Any) -> jax.Array:
    """The first value of a weight with that role, float32."""
    row = PARAMETRIZATIONS[config.parametrization].rows[role]
    value, std = row.init(key, shape, config), row.std.of(config)
    return value if std == 1 else std * value


class Forward(NamedTuple):
    """What the forward pass multiplies: branches, logits, attention scores; each 1.0 for the base shape."""

    branch: float
    logits: float
    attention: float


def forward(config: Any) -> Forward:
    """The forward multipliers of a model's config."""
    table = PARAMETRIZATIONS[config.parametrization]
    return Forward(
        branch=table.branch.of(config),
        logits=table.logits.of(config),
        attention=float((config.base_head_dim / config.head_dim) ** table.attention),
    )


class Factors(NamedTuple):
    """Trees like the params, of Python numbers: factors on learning rate, weight decay and Adam's epsilon."""

    rate: Any
    decay: Any
    epsilon: Any


NO_FACTORS = Factors({}, {}, {})


def factors(roles: Any, config: Any) -> Factors:
    """The optimizer's factors for a tree of roles."""
    rows = PARAMETRIZATIONS[config.parametrization].rows
    return Factors(
        rate=jax.tree.map(lambda role: rows[role].rate.of(config), roles),
        decay=jax.tree.map(lambda role: np.float32(rows[role].decay * rows[role].decay_scale.of(config)), roles),
        epsilon=jax.tree.map(lambda role: rows[role].epsilon.of(config), roles),
    )
