"""Learning-rate schedules, as factors in [0, 1] that multiply the peak rate.

`optimizer.schedule` is a key of SCHEDULES or a dotted path 'my_lab.schedules:inverse_sqrt' to a
function (ScheduleProgress, config) -> factor. The last update of the warmup has the peak rate, and
the last of the decay or cooldown has exactly `final_lr_fraction` of it; only a run that is so short
that it consists of its warmup, or of one update, ends at the peak rate. The schedules of optax are
not used because they round differently, their warmup begins at a rate of 0, and their last rate is
reached one update after the last.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.core.config import OptimizerConfig, count_cooldown_steps
from gpt_jax.core.registry import resolve


class ScheduleProgress(NamedTuple):
    """How far an update is into a run, as scalars in [0, 1].

    Attributes:
      decay: 0 at the peak (the last update of the warmup, or the first of the run without warmup),
        1 from the last update of the first `decay_end_fraction` of the run on.
      cooldown: 0 before the last `cooldown_fraction` of the run, 1 at its last update; linear.
    """

    decay: jax.Array
    cooldown: jax.Array


ScheduleShape = Callable[[ScheduleProgress, OptimizerConfig], jax.Array]


def cosine(progress: ScheduleProgress, config: OptimizerConfig) -> jax.Array:
    """Decay along half a cosine from 1 to `final_lr_fraction`.

    The decay ends at `decay_end_fraction` of the run (GPT-3: after 260B of 300B tokens).
    """
    half_cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress.decay))
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * half_cosine


def linear(progress: ScheduleProgress, config: OptimizerConfig) -> jax.Array:
    """Decay linearly from 1 to `final_lr_fraction`."""
    return 1 - (1 - config.final_lr_fraction) * progress.decay


def wsd(progress: ScheduleProgress, config: OptimizerConfig) -> jax.Array:
    """Stay at 1, then cool down as 1 - sqrt (Hagele et al. 2024, equation 1).

    The cooldown takes the last `cooldown_fraction` of the run.
    """
    return 1 - (1 - config.final_lr_fraction) * jnp.sqrt(progress.cooldown)


def constant(progress: ScheduleProgress, config: OptimizerConfig) -> jax.Array:
    """Stay at 1 after the warmup."""
    del config
    return jnp.ones_like(progress.decay)


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
    start = max(warmup, 1)  # updates up to the peak
    decay = max(1, round(config.decay_end_fraction * steps) - start)
    cooldown = count_cooldown_steps(config.cooldown_fraction, steps)

    def schedule(count: jax.Array) -> jax.Array:
        done = jnp.asarray(count, jnp.float32) + 1
        progress = ScheduleProgress(
            decay=jnp.clip((done - start) / decay, 0, 1),
            cooldown=jnp.clip((done - (steps - cooldown)) / cooldown, 0, 1),
        )
        return peak * jnp.where(done <= warmup, done / start, shape(progress, config))

    return schedule
