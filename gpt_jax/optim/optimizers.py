"""Registry of optimizers.

An optimizer is a function make(config, params_info) -> optax.GradientTransformation, in a file of
its own; adamw.py is the pattern. `optimizer.name` is a key of OPTIMIZERS or a dotted path:
'my_lab.optimizers:make'. A new key is also a choice of that field in core/config.py.

    config: the section `optimizer`.
    params_info: trees like the trainable parameters, with the multipliers of each one's learning
      rate, weight decay and epsilon (core/parametrization.py), which `make` applies.
    Returns: a transformation of gradients into updates at a learning rate of 1; `make_optimizer`
      multiplies them by -schedule.
"""

from collections.abc import Callable, Mapping

import jax
import optax

from gpt_jax.core.config import OptimizerConfig
from gpt_jax.core.parametrization import OptimizerMultipliers
from gpt_jax.core.registry import resolve
from gpt_jax.optim import adamw, sgd
from gpt_jax.optim.schedules import make_schedule

MakeFn = Callable[[OptimizerConfig, OptimizerMultipliers], optax.GradientTransformation]

OPTIMIZERS: Mapping[str, MakeFn] = {'adamw': adamw.make, 'sgd': sgd.make}


def make_optimizer(
    config: OptimizerConfig,
    params_info: OptimizerMultipliers,
    steps: int,
    peak: float | jax.Array | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the config's optimizer and its learning-rate schedule.

    Args:
      config: the section `optimizer`.
      params_info: see the head of this module.
      steps: length of the run, over which the schedule extends.
      peak: learning rate in place of the config's. It may be a traced value, to train several
        learning rates at once.
    """
    schedule = make_schedule(config, steps, config.learning_rate if peak is None else peak)
    make = resolve(config.name, OPTIMIZERS, 'optimizer.name')
    optimizer = optax.chain(make(config, params_info), optax.scale_by_learning_rate(schedule))
    return optimizer, schedule
