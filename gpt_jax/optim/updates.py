"""How do gradients become updates? Each optimizer is an optax transformation, made from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt_jax import schema
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.optim.schedules import SCHEDULES, schedule


def _decay(weight_decay: float, factors: Any) -> optax.GradientTransformation:
    """Adds decay x the weight, each weight's factor read from its role: decoupled decay (Loshchilov & Hutter 2019)."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        decayed = jax.tree.map(lambda u, p, f: u + (weight_decay * f) * p if f else u, updates, params, factors)
        return decayed, state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def adamw(config: OptimizerConfig, factors: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        _decay(config.weight_decay, factors),
        optax.scale_by_learning_rate(rate),
    )


def sgd(config: OptimizerConfig, factors: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(config.beta1), _decay(config.weight_decay, factors), optax.scale_by_learning_rate(rate)
    )


OPTIMIZERS = {'adamw': adamw, 'sgd': sgd}


def make(config: OptimizerConfig, factors: Any, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation and its learning-rate schedule.

    Args:
      factors: tree of weight-decay factors, like the params.
      steps: length of the run, which the schedule stretches over.
    """
    schema.choice(config.name, OPTIMIZERS, 'optimizer.name')
    schema.choice(config.schedule, SCHEDULES, 'optimizer.schedule')
    rate = schedule(config, steps)
    return OPTIMIZERS[config.name](config, factors, rate), rate


def clip(gradients: Any, norm: jax.Array, limit: float) -> Any:
    """Scales all gradients by one factor so that their global norm is at most `limit` (0: as they are)."""
    if not limit:
        return gradients
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, gradients)
