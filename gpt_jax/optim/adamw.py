"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

import jax
import optax

from gpt_jax.core.config import OptimizerConfig
from gpt_jax.core.parametrization import OptimizerMultipliers
from gpt_jax.optim.transforms import add_decayed_weights, scale_by_multipliers


def make(
    config: OptimizerConfig, params_info: OptimizerMultipliers
) -> optax.GradientTransformation:
    """Make the transformation from gradients to updates at a learning rate of 1."""
    # Adam with epsilon x f is Adam on gradients / f:
    # m / (sqrt(v) + f epsilon) = (m / f) / (sqrt(v) / f + epsilon).
    return optax.chain(
        scale_by_multipliers(jax.tree.map(lambda f: 1 / f, params_info.epsilon)),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        add_decayed_weights(config.weight_decay, params_info.weight_decay),
        scale_by_multipliers(params_info.lr),
    )
