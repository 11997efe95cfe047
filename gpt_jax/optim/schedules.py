"""How does the learning rate move over a run? Each schedule is a factor in [0, 1] on the peak rate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gpt_jax.optim.config import OptimizerConfig

Shape = Callable[[jax.Array, OptimizerConfig], jax.Array]  # progress after warmup in [0, 1] -> factor


def cosine(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Half a cosine from 1 to `final_fraction`, reached at `decay_fraction` of the run (GPT-3: 260B of 300B tokens)."""
    half = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * half


def linear(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """A straight line from 1 to `final_fraction`."""
    return 1 - (1 - config.final_fraction) * progress


def wsd(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Constant, then a cooldown over the last `cooldown_fraction` as 1 - sqrt (Hagele et al. 2024, equation 1)."""
    into = (progress - (1 - config.cooldown_fraction)) / config.cooldown_fraction
    return 1 - (1 - config.final_fraction) * jnp.sqrt(jnp.clip(into, 0, 1))


def constant(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    del config
    return jnp.ones_like(progress)


SCHEDULES: dict[str, Shape] = {'cosine': cosine, 'linear': linear, 'wsd': wsd, 'constant': constant}


def schedule(config: OptimizerConfig, steps: int, peak: float | jax.Array) -> optax.Schedule:
    """The learning rate of update k = 0, 1, ..., `steps` - 1: warmup from `peak` / W up in W steps, then the shape.

    The first update has a rate above 0, so no step of the run is lost.
    """
    warmup = max(1, round(config.warmup_fraction * steps)) if config.warmup_fraction > 0 else 0
    end = max(warmup + 1, round(config.decay_fraction * steps))

    def rate(count: jax.Array) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        rising = (count + 1) / max(warmup, 1)
        progress = jnp.clip((count - warmup) / (end - warmup), 0, 1)
        factor = jnp.where(count < warmup, rising, SCHEDULES[config.schedule](progress, config))
        return peak * factor

    return rate
