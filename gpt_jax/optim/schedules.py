"""Learning-rate schedules, as factors in [0, 1] that multiply the peak rate.

`optimizer.schedule` is a key of SCHEDULES or a dotted path 'my_lab.schedules:inverse_sqrt' to a
function (progress after warmup in [0, 1], config) -> factor. The schedules of optax are not used
because they round differently, and their warmup begins at a rate of 0.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from gpt_jax.core.config import OptimizerConfig
from gpt_jax.core.registry import resolve

ScheduleShape = Callable[[jax.Array, OptimizerConfig], jax.Array]


def cosine(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Decay along half a cosine from 1 to `final_lr_fraction`.

    The decay ends at `decay_end_fraction` of the run (GPT-3: after 260B of 300B tokens).
    """
    half_cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * half_cosine


def linear(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Decay linearly from 1 to `final_lr_fraction`."""
    return 1 - (1 - config.final_lr_fraction) * progress


def wsd(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Stay at 1, then cool down as 1 - sqrt (Hagele et al. 2024, equation 1).

    The cooldown takes the last `cooldown_fraction` of the steps after warmup.
    """
    cooldown = (progress - (1 - config.cooldown_fraction)) / config.cooldown_fraction
    return 1 - (1 - config.final_lr_fraction) * jnp.sqrt(jnp.clip(cooldown, 0, 1))


def constant(progress: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Stay at 1 after the warmup."""
    del config
    return jnp.ones_like(progress)


SCHEDULES: Mapping[str, ScheduleShape] = {
    'cosine': cosine,
    'linear': linear,
    'wsd': wsd,
    'constant': constant,
}


def make_schedule(config: OptimizerConfig, steps: int, peak: float | jax.Array) -> optax.Schedule:
    """Make the learning rate as a function of the number of updates so far, 0 to `steps` - 1.

    A warmup over W steps rises from `peak` / W to `peak`, so the first update has a positive rate.
    """
    shape = resolve(config.schedule, SCHEDULES, 'optimizer.schedule')
    warmup = max(1, round(config.warmup_fraction * steps)) if config.warmup_fraction > 0 else 0
    end = max(warmup + 1, round(config.decay_end_fraction * steps))

    def schedule(count: jax.Array) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        rising = (count + 1) / max(warmup, 1)
        progress = jnp.clip((count - warmup) / (end - warmup), 0, 1)
        return peak * jnp.where(count < warmup, rising, shape(progress, config))

    return schedule
