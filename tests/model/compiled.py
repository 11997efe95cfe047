"""The compiled gradient of a small model, for tests of counts; nothing is executed."""

import jax
import jax.numpy as jnp

from gpt_jax.model import weights
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train import build
from gpt_jax.train.objective import make_loss


def compile_gradient(config, batch_rows):
    """Compile the gradient of one batch's summed loss by the weights."""
    loss = make_loss(config, UNSHARDED, train=True)
    params = jax.eval_shape(
        build.make_param_layout(config, UNSHARDED).unstack,
        weights.unbox(build.declare_params(config)),
    )
    ids = jax.ShapeDtypeStruct((batch_rows, config.context), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda params, batch, key: loss(params, batch, key)[0]))
    return gradient.lower(params, {'inputs': ids, 'targets': ids}, key).compile()
