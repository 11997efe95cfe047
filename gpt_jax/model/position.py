"""How does the model know where a token stands?

A scheme may add something to the embedding, turn queries and keys, or lower the scores of far keys: a `Scheme` says
which of the three it does. Positions restart at each packed document, and go on over a cache.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.weights import Declare

YARN_FAST, YARN_SLOW = 32, 1  # turns over the original context: more are kept, fewer are stretched (Peng et al. 2023)
LLAMA3_FAST, LLAMA3_SLOW = 4, 1  # the same for Llama 3.1 (Grattafiori et al. 2024)


class Scheme(NamedTuple):
    """What a position scheme does.

    add: (declare, x_BLD, positions_BL or None for 0, 1, 2, ..., config=, place=) -> x_BLD; a Part of the model.
    turn: (queries or keys [B, L, heads, K], positions_BL or None, config) -> the same, turned; None: as they are.
    slopes: heads -> by how much a score falls per position of distance, by head; None: not at all.
    """

    add: Callable[..., jax.Array] | None
    turn: Callable[[jax.Array, jax.Array | None, ModelConfig], jax.Array] | None
    slopes: Callable[[int], np.ndarray] | None


def learned(
    declare: Declare, x_BLD: jax.Array, positions_BL: jax.Array | None, *, config: ModelConfig, place: Any
) -> jax.Array:
    """Adds a learned vector per position (GPT-1 to GPT-3)."""
    table_LD = declare('table', 'LD', 'embedding')
    if (team := place.team('H')).size > 1:  # each has its own part of the length here
        known = jnp.arange(x_BLD.shape[1] * team.size)[None] if positions_BL is None else positions_BL
        positions_BL = team.take(known, 1)
    added = table_LD[: x_BLD.shape[1]] if positions_BL is None else table_LD[positions_BL]
    return x_BLD + added.astype(config.activation_dtype)


def rotary(a_BLHK: jax.Array, positions_BL: jax.Array | None, config: ModelConfig) -> jax.Array:
    """Su et al. 2021: pairs of dims (i, i + half) are turned by position x frequency i, so scores see distances only.

    The first `rotary_fraction` of a head's dims are turned, in float32.
    """
    inverse, size = frequencies(config)
    positions = jnp.arange(a_BLHK.shape[1])[None] if positions_BL is None else positions_BL
    angles = positions[..., None, None].astype(jnp.float32) * inverse  # [B or 1, L, 1, half]
    cos, sin = jnp.cos(angles) * size, jnp.sin(angles) * size
    half = len(inverse)
    a = a_BLHK.astype(jnp.float32)
    first, second, rest = a[..., :half], a[..., half : 2 * half], a[..., 2 * half :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
    return turned.astype(a_BLHK.dtype)


def frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """(radians per position of each pair of dims, float32 [half]; the factor on queries and keys)."""
    base, dims = config.rotary_base, config.turned_dims
    factor = config.rotary_factor
    if config.rotary_scaling == 'ntk':
        base *= factor ** (dims / (dims - 2))
    inverse = base ** -(np.arange(0, dims, 2, dtype=np.float64) / dims)
    stretch, size = SCALINGS[config.rotary_scaling]
    return stretch(inverse, config).astype(np.float32), size(factor)


def _all(inverse: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Position interpolation (Chen et al. 2023): every wavelength is stretched."""
    return inverse / config.rotary_factor


def _slow(inverse: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Llama 3.1: slow pairs are stretched, fast ones kept, and those between are mixed by their turns."""
    turns = config.rotary_original_context * inverse / (2 * math.pi)
    kept = np.clip((turns - LLAMA3_SLOW) / (LLAMA3_FAST - LLAMA3_SLOW), 0, 1)
    return inverse * (kept + (1 - kept) / config.rotary_factor)


def _ramp(inverse: np.ndarray, config: ModelConfig) -> np.ndarray:
    """YaRN (Peng et al. 2023, section 3.2): the same with a ramp over the pairs' index."""

    def index(turns: int) -> float:
        ratio = config.rotary_original_context / (turns * 2 * math.pi)
        return config.turned_dims * math.log(ratio) / (2 * math.log(config.rotary_base))

    first, last = max(math.floor(index(YARN_FAST)), 0), min(math.ceil(index(YARN_SLOW)), config.turned_dims - 1)
    stretched = np.clip((np.arange(len(inverse)) - first) / max(last - first, 0.001), 0, 1)
    return inverse * (1 - stretched + stretched / config.rotary_factor)


def _as_it_is(inverse: np.ndarray, _: ModelConfig) -> np.ndarray:
    return inverse


def _one(_: float) -> float:
    return 1.0


def _warmer(factor: float) -> float:
    """YaRN, equation 22: queries and keys both grow, so that scores grow by its square."""
    return 0.1 * math.log(factor) + 1


# What becomes of the frequencies, and the factor on queries and keys.
SCALINGS: dict[str, tuple[Callable[[np.ndarray, ModelConfig], np.ndarray], Callable[[float], float]]] = {
    'none': (_as_it_is, _one),
    'linear': (_all, _one),
    'ntk': (_as_it_is, _one),  # by its larger base alone
    'llama3': (_slow, _one),
    'yarn': (_ramp, _warmer),
}


def alibi(heads: int) -> np.ndarray:
    """Press et al. 2022: slopes 2^(-8/heads), 2^(-16/heads), ...; float32 [heads].

    Where `heads` is no power of two, those of the next lower power come first, then every other one of the next higher.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    between = [2.0 ** (-4 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return np.array((slopes + between)[:heads], np.float32)


POSITIONS = {
    'learned': Scheme(add=learned, turn=None, slopes=None),
    'rotary': Scheme(add=None, turn=rotary, slopes=None),
    'alibi': Scheme(add=None, turn=None, slopes=alibi),
    'none': Scheme(add=None, turn=None, slopes=None),  # the causal mask alone tells them apart (Haviv et al. 2022)
}
