"""The compiled gradient of a small model, for tests of what is counted; nothing is computed."""

import jax
import jax.numpy as jnp

from gpt_jax import assemble
from gpt_jax.model import weights
from gpt_jax.parallel.place import ANYWHERE


def gradient(config, batch):
    """The gradient by the weights of one batch's summed loss, as JAX's compiled program."""
    loss, shape = assemble.summed_loss(config, ANYWHERE, train=True), (batch, config.context)
    params = jax.eval_shape(assemble.form(config, ANYWHERE).enter, weights.unbox(assemble.declarations(config)))
    given = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in ('inputs', 'targets')}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(jax.grad(lambda p, b, k: loss(p, b, k)[0])).lower(params, given, key).compile()
