"""How is the next token chosen from scores? Each text draws from a stream of its own, whatever batch it sits in."""

import hashlib

import jax
import jax.numpy as jnp


def own_seed(seed: int, prompt: int, text: int) -> int:
    """The seed of text number `text` of prompt number `prompt`, in [0, 2^32).

    The first text of the first prompt has `seed` itself, so that any text is written again by its own seed alone.
    """
    if prompt == text == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f'{seed} {prompt} {text}'.encode()).digest()[:4], 'big')


def keys(seeds_B: jax.Array, step_B: jax.Array) -> jax.Array:
    """The random key of each text's token number `step_B` after its prompt."""
    return jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(seeds_B, step_B)


def draw(scores_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """An id per row, drawn from softmax(scores): the highest of scores with Gumbel noise (Maddison et al. 2014)."""
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, scores_BV.shape[1:]))(keys_B)
    return jnp.argmax(scores_BV + noise_BV, axis=1).astype(jnp.int32)


def choose(scores_BV: jax.Array, keys_B: jax.Array, sampled: bool) -> jax.Array:
    """An id per row: drawn, or the one of the highest score. int32 [B]."""
    return draw(scores_BV, keys_B) if sampled else jnp.argmax(scores_BV, axis=1).astype(jnp.int32)


def probabilities(scores_BV: jax.Array, sampled: bool) -> jax.Array:
    """What `choose` gives each id. float32 [B, V]."""
    if sampled:
        return jax.nn.softmax(scores_BV, axis=1)
    return jax.nn.one_hot(jnp.argmax(scores_BV, axis=1), scores_BV.shape[1])


def log_probability(scores_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """log softmax(scores) of one id per row, in nats. float32 [B]."""
    chosen_B1 = jnp.take_along_axis(scores_BV, ids_B[:, None], axis=1)
    return chosen_B1[:, 0] - jax.nn.logsumexp(scores_BV, axis=1)
