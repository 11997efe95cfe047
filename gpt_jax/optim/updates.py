"""How do gradients become updates? Each optimizer is an optax transformation, made from the config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gpt_jax import schema
from gpt_jax.errors import UserError
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.optim.schedules import SCHEDULES, schedule
from gpt_jax.parametrization import Factors


def _each(change: Callable[[Any, Any, Any], Any], factors: Any) -> optax.GradientTransformation:
    """A transformation without state: update -> change(update, param, factor), weight by weight."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree.map(change, updates, params, factors), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _decay(weight_decay: float, factors: Any) -> optax.GradientTransformation:
    """Adds decay x the weight, each weight's factor read from its role: decoupled decay (Loshchilov & Hutter 2019)."""
    return _each(lambda u, p, f: u + (weight_decay * f) * p if f else u, factors)


def _scaled(factors: Any) -> optax.GradientTransformation:
    return _each(lambda u, _, f: u if f == 1 else u * f, factors)


def adamw(config: OptimizerConfig, factors: Factors, rate: optax.Schedule) -> optax.GradientTransformation:
    # Adam with epsilon x f is Adam on gradients / f, for m / (sqrt(v) + f epsilon) = (m / f) / (sqrt(v) / f + epsilon).
    return optax.chain(
        _scaled(jax.tree.map(lambda f: 1 / f, factors.epsilon)),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        _decay(config.weight_decay, factors.decay),
        _scaled(factors.rate),
        optax.scale_by_learning_rate(rate),
    )


def sgd(config: OptimizerConfig, factors: Factors, rate: optax.Schedule) -> optax.GradientTransformation:
    if any(f != 1 for f in jax.tree.leaves(factors.rate)):
        raise UserError("config.optimizer.name: mup's and completep's rates are Adam's; sgd wants standard")
    return optax.chain(
        optax.trace(config.beta1), _decay(config.weight_decay, factors.decay), optax.scale_by_learning_rate(rate)
    )


OPTIMIZERS = {'adamw': adamw, 'sgd': sgd}


def make(
    config: OptimizerConfig, factors: Factors, steps: int, peak: float | jax.Array | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation and its learning-rate schedule.

    Args:
      factors: of each weight (see parametrization.py).
      steps: length of the run, which the schedule stretches over.
      peak: the learning rate, where it is not the config's: a traced value, say, of which several train at once.
    """
    schema.choice(config.name, OPTIMIZERS, 'optimizer.name')
    schema.choice(config.schedule, SCHEDULES, 'optimizer.schedule')
    rate = schedule(config, steps, config.learning_rate if peak is None else peak)
    return OPTIMIZERS[config.name](config, factors, rate), rate


def at_rates(transformation: optax.GradientTransformation, rates: Any) -> optax.GradientTransformation:
    """The same with each weight's learning rate multiplied, decay and all: a tree of numbers, or of what spreads over
    the weight, as one for each layer of a stack."""

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = transformation.update(gradients, state, params)
        return jax.tree.map(lambda u, f: u * f, updates, rates), state

    return optax.GradientTransformation(transformation.init, update)


def clip(gradients: Any, norm: jax.Array, limit: float) -> Any:
    """Scales all gradients by one factor so that their global norm is at most `limit` (0: as they are)."""
    if not limit:
        return gradients
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, gradients)
