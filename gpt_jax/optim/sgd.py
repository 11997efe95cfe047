"""Stochastic gradient descent with momentum `beta1` and decoupled weight decay."""

import jax
import optax

from gpt_jax.core.config import OptimizerConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.parametrization import OptimizerMultipliers
from gpt_jax.optim.transforms import add_decayed_weights


def make(
    config: OptimizerConfig, params_info: OptimizerMultipliers
) -> optax.GradientTransformation:
    """Make the transformation from gradients to updates at a learning rate of 1.

    Raises:
      UserError: the parametrization has multipliers of learning rate or epsilon: they are derived
        for Adam, whose updates do not depend on the size of the gradients.
    """
    if any(
        multiplier != 1 for multiplier in jax.tree.leaves((params_info.lr, params_info.epsilon))
    ):
        raise UserError(
            "config.optimizer.name: must be 'adamw' with model.parametrization mup or completep, "
            "got 'sgd'; their learning rates are derived for Adam"
        )
    return optax.chain(
        optax.trace(config.beta1),
        add_decayed_weights(config.weight_decay, params_info.weight_decay),
    )
