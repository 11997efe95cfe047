"""Which function bends a feed-forward's hidden units?"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=True),  # GPT-2's and GPT-3's tanh form
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'relu': jax.nn.relu,
    'squared_relu': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021
    'silu': jax.nn.silu,
    'sigmoid': jax.nn.sigmoid,
    'identity': lambda x: x,
}
