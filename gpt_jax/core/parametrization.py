"""Parametrizations: how init, multipliers and the optimizer depend on a model's shape.

Standard, muP (Yang et al. 2022) and CompleteP (Dey et al. 2025), each a table with one row per
role. A weight is declared with a role (model/weights.py), and the role's row determines the rest.
Every shape-dependent factor is a power of m_N = width / base_width and m_L = layers / base_layers,
so a model of the base shape is the same under every parametrization: tune hyperparameters at the
base shape, and reuse them at other shapes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.core.config import ModelConfig


class ShapePower(NamedTuple):
    """The factor m_N^width x m_L^layers."""

    width: float
    layers: float

    def evaluate(self, config: ModelConfig) -> float:
        width_ratio = config.width / config.base_width
        layers_ratio = config.layers / config.base_layers
        return float(width_ratio**self.width * layers_ratio**self.layers)


CONSTANT = ShapePower(0, 0)


class RoleRule(NamedTuple):
    """What a weight's role determines.

    init: (key, shape, config) -> float32 array, multiplied by `std`.
    decay: 1, or 0 for weights that are never decayed.
    std, lr, decay_scale, epsilon: how the initial standard deviation, the learning rate, the weight
      decay and Adam's epsilon depend on the shape.
    """

    init: Callable[[jax.Array, tuple[int, ...], ModelConfig], jax.Array]
    decay: float
    std: ShapePower = CONSTANT
    lr: ShapePower = CONSTANT
    decay_scale: ShapePower = CONSTANT
    epsilon: ShapePower = CONSTANT


class Parametrization(NamedTuple):
    """A rule per role, and the multipliers of the forward pass.

    branch: multiplies each branch before it is added to the residual stream.
    logits: multiplies the logits.
    attention: exponent of the factor (base_head_dim / head_dim) on attention scores, which applies
      in addition to 1/sqrt(head_dim).
    """

    rules: Mapping[str, RoleRule]
    branch: ShapePower = CONSTANT
    logits: ShapePower = CONSTANT
    attention: float = 0.0


def _normal(key: jax.Array, shape: tuple[int, ...], config: ModelConfig) -> jax.Array:
    return config.init_std * jax.random.normal(key, shape, jnp.float32)


def _residual(key: jax.Array, shape: tuple[int, ...], config: ModelConfig) -> jax.Array:
    # GPT-2, section 2.3: the n weights that write to the residual stream are scaled by 1/sqrt(n).
    std = config.init_std / math.sqrt(2 * config.layers)
    return std * jax.random.normal(key, shape, jnp.float32)


def _ones(_: jax.Array, shape: tuple[int, ...], __: ModelConfig) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def _zeros(_: jax.Array, shape: tuple[int, ...], __: ModelConfig) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


STANDARD = Parametrization(
    {
        'embedding': RoleRule(_normal, decay=1),
        'hidden': RoleRule(_normal, decay=1),
        'residual': RoleRule(_residual, decay=1),
        'head': RoleRule(_normal, decay=1),
        'scale': RoleRule(_ones, decay=0),
        'bias': RoleRule(_zeros, decay=0),
    }
)

# Factors over the width, for AdamW:
# - std, lr, logits, attention: Yang et al. 2022, table 8. A hidden matrix has 1/m_N of the variance
#   and of the learning rate; logits are divided by m_N, and attention scores by head_dim instead of
#   its root.
# - decay_scale: Dey et al. 2025, table 1 (hidden WD), and MuAdamW of microsoft/mup. AdamW decays by
#   rate x decay; without the factor, that would vanish with the width.
# - epsilon: Dey et al. 2025, table 1; Everett et al. 2024. With logits divided by m_N, the gradient
#   of every entry falls as 1/m_N; the paper lists the residual blocks only.
# The row 'head' is that of Yang et al.'s output weights, whose outputs do not become more as the
# width grows: the head, a task's head and the router of experts (model/experts.py divides its
# logits, too).
_VECTOR = {'epsilon': ShapePower(-1, 0)}
_MATRIX = {
    'std': ShapePower(-0.5, 0),
    'lr': ShapePower(-1, 0),
    'decay_scale': ShapePower(1, 0),
    'epsilon': ShapePower(-1, 0),
}
MUP = Parametrization(
    {
        'embedding': RoleRule(_normal, decay=1, **_VECTOR),
        'hidden': RoleRule(_normal, decay=1, **_MATRIX),
        'residual': RoleRule(_residual, decay=1, **_MATRIX),
        'head': RoleRule(_normal, decay=1, **_VECTOR),
        'scale': RoleRule(_ones, decay=0, **_VECTOR),
        'bias': RoleRule(_zeros, decay=0, **_VECTOR),
    },
    logits=ShapePower(-1, 0),
    attention=0.5,
)

# Dey et al. 2025, table 1, with alpha = 1: muP, and branches divided by m_L, which replaces GPT-2's
# 1/sqrt(layers) beyond the base depth. It divides the gradients in the blocks, too, so
# `optimizer_multipliers` gives their epsilon the same factor.
COMPLETEP = MUP._replace(
    rules={**MUP.rules, 'residual': MUP.rules['residual']._replace(std=ShapePower(-0.5, 0.5))},
    branch=ShapePower(0, -1),
)

PARAMETRIZATIONS: Mapping[str, Parametrization] = {
    'standard': STANDARD,
    'mup': MUP,
    'completep': COMPLETEP,
}


def init_weight(
    role: str, key: jax.Array, shape: tuple[int, ...], config: ModelConfig
) -> jax.Array:
    """Draw the initial value of a weight with this role, float32."""
    rule = PARAMETRIZATIONS[config.parametrization].rules[role]
    value, std = rule.init(key, shape, config), rule.std.evaluate(config)
    return value if std == 1 else std * value


class ForwardMultipliers(NamedTuple):
    """Multipliers of branches, logits and attention scores; all are 1.0 at the base shape."""

    branch: float
    logits: float
    attention: float


def forward_multipliers(config: ModelConfig) -> ForwardMultipliers:
    """Compute the multipliers of the forward pass."""
    parametrization = PARAMETRIZATIONS[config.parametrization]
    return ForwardMultipliers(
        branch=parametrization.branch.evaluate(config),
        logits=parametrization.logits.evaluate(config),
        attention=float((config.base_head_dim / config.head_dim) ** parametrization.attention),
    )


class OptimizerMultipliers(NamedTuple):
    """Trees of multipliers of learning rate, weight decay and Adam's epsilon, like the params."""

    lr: Any
    weight_decay: Any
    epsilon: Any


def optimizer_multipliers(roles: Any, config: ModelConfig) -> OptimizerMultipliers:
    """Compute the optimizer's multipliers for a tree of roles, whose key 'blocks' has the layers'.

    In the blocks, epsilon also has the factor of the branches, as their gradients do.
    """
    rules = PARAMETRIZATIONS[config.parametrization].rules
    branch = forward_multipliers(config).branch

    def weight_decay(role: str) -> np.float32:
        rule = rules[role]
        return np.float32(rule.decay * rule.decay_scale.evaluate(config))

    def epsilon(path: tuple[Any, ...], role: str) -> float:
        in_blocks = path[:1] == (jax.tree_util.DictKey('blocks'),)
        return rules[role].epsilon.evaluate(config) * (branch if in_blocks else 1.0)

    return OptimizerMultipliers(
        lr=jax.tree.map(lambda role: rules[role].lr.evaluate(config), roles),
        weight_decay=jax.tree.map(weight_decay, roles),
        epsilon=jax.tree.map_with_path(epsilon, roles),
    )
