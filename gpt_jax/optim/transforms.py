"""Gradient transformations shared by the optimizers, with one multiplier per parameter.

Multipliers are trees like the parameters, of numbers or of arrays that broadcast against them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_multipliers(multipliers: Any) -> optax.GradientTransformation:
    """Multiply each update by its multiplier; a multiplier of 1 adds no operation."""
    return _map_updates(lambda u, _, m: u if m == 1 else u * m, multipliers)


def add_decayed_weights(weight_decay: float, multipliers: Any) -> optax.GradientTransformation:
    """Add weight_decay x multiplier x parameter: decoupled decay (Loshchilov and Hutter 2019)."""
    return _map_updates(lambda u, p, m: u + (weight_decay * m) * p if m else u, multipliers)


def _map_updates(
    change: Callable[[Any, Any, Any], Any], multipliers: Any
) -> optax.GradientTransformation:
    """Make a transformation without state: update -> change(update, parameter, multiplier)."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree.map(change, updates, params, multipliers), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def scale_learning_rates(
    optimizer: optax.GradientTransformation, multipliers: Any
) -> optax.GradientTransformation:
    """Multiply the learning rate of each parameter, and thereby its weight decay."""

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda u, m: u * m, updates, multipliers), state

    return optax.GradientTransformation(optimizer.init, update)


def clip_by_norm(gradients: Any, norm: jax.Array, max_norm: float) -> Any:
    """Scale all gradients by one factor, so that their global norm is at most `max_norm`.

    Args:
      gradients: a tree.
      norm: their global norm, which the step has computed already.
      max_norm: maximum norm; 0 disables clipping.
    """
    if not max_norm:
        return gradients
    factor = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, gradients)
