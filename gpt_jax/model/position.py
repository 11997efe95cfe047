"""Position encodings: learned, rotary with its scalings, and ALiBi.

Rotary: Su et al. 2021; ALiBi: Press et al. 2022. Positions restart at each packed document, and
continue after the tokens in a cache.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.core.config import ModelConfig
from gpt_jax.core.registry import resolve
from gpt_jax.model.weights import ParamFn
from gpt_jax.parallel.sharding import ShardingPolicy

# Rotations over the original context: pairs of dims with more than the first number are unchanged,
# those with fewer than the second are stretched. YaRN: Peng et al. 2023; Llama 3.1: Grattafiori et
# al. 2024.
YARN_ROTATIONS, LLAMA3_ROTATIONS = (32, 1), (4, 1)


RotateFn = Callable[[jax.Array, jax.Array | None, ModelConfig], jax.Array]


class PositionScheme(NamedTuple):
    """A position encoding; each field is one way to use positions, None if unused.

    add: (param, x_BLD, positions_BL, *, config, policy) -> x_BLD; changes the token embedding.
    rotate: (queries or keys [B, L, heads, K], positions_BL, config) -> the same shape.
    slopes: number of heads -> how much each head's scores fall per position of distance.

    positions_BL is None for 0, 1, 2, ...
    """

    add: Callable[..., jax.Array] | None
    rotate: RotateFn | None
    slopes: Callable[[int], np.ndarray] | None


def get_position_scheme(config: ModelConfig) -> PositionScheme:
    """Look up the position encoding that the config names."""
    return resolve(config.position, POSITION_SCHEMES, 'model.position')


def learned_positions(
    param: ParamFn,
    x_BLD: jax.Array,
    positions_BL: jax.Array | None,
    *,
    config: ModelConfig,
    policy: ShardingPolicy,
) -> jax.Array:
    """Add a learned vector per position (GPT-1 to GPT-3)."""
    table_LD = param('table', 'LD', 'embedding')
    if (group := policy.group('H')).size > 1:  # here each device holds a part of the length
        if positions_BL is None:
            positions_BL = jnp.arange(x_BLD.shape[1] * group.size)[None]
        positions_BL = group.shard(positions_BL, 1)
    added = table_LD[: x_BLD.shape[1]] if positions_BL is None else table_LD[positions_BL]
    return x_BLD + added.astype(config.activation_dtype)


# Rotary position embeddings


def apply_rotary(
    a_BLHK: jax.Array, positions_BL: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """Rotate pairs of dims (i, i + half) by position x frequency i (Su et al. 2021).

    Scores then depend on distances alone. The first `rotary_fraction` of a head's dims are
    rotated, in float32.
    """
    frequencies, magnitude = rotary_frequencies(config)
    positions = jnp.arange(a_BLHK.shape[1])[None] if positions_BL is None else positions_BL
    angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B or 1, L, 1, half]
    cos, sin = jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude
    half = len(frequencies)
    a = a_BLHK.astype(jnp.float32)
    first, second, rest = a[..., :half], a[..., half : 2 * half], a[..., 2 * half :]
    rotated = (first * cos - second * sin, second * cos + first * sin, rest)
    return jnp.concatenate(rotated, axis=-1).astype(a_BLHK.dtype)


def rotary_frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Return the scaled rotary frequencies and the factor on queries and keys.

    Returns:
      Radians per position of each pair of dims, float32 [half]; the factor.
    """
    base, dims = config.rotary_base, config.rotary_dims
    if config.rotary_scaling == 'ntk':
        base *= config.rotary_factor ** (dims / (dims - 2))
    frequencies = base ** -(np.arange(0, dims, 2, dtype=np.float64) / dims)
    scaling = resolve(config.rotary_scaling, ROTARY_SCALINGS, 'model.rotary_scaling')
    scaled = scaling.frequencies(frequencies, config)
    return scaled.astype(np.float32), scaling.magnitude(config)


def linear_frequencies(frequencies: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Stretch every wavelength by the same factor: position interpolation (Chen et al. 2023)."""
    return frequencies / config.rotary_factor


def llama3_frequencies(frequencies: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Stretch slow pairs, keep fast ones and interpolate between them, as in Llama 3.1."""
    rotations = config.rotary_original_context * frequencies / (2 * math.pi)
    fast, slow = config.rotary_rotations or LLAMA3_ROTATIONS
    kept_share = np.clip((rotations - slow) / (fast - slow), 0, 1)
    return frequencies * (kept_share + (1 - kept_share) / config.rotary_factor)


def yarn_frequencies(frequencies: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Scale as for Llama 3.1, but with a ramp over pairs (YaRN; Peng et al. 2023, section 3.2)."""

    def pair_index(rotations: float) -> float:
        ratio = config.rotary_original_context / (rotations * 2 * math.pi)
        return config.rotary_dims * math.log(ratio) / (2 * math.log(config.rotary_base))

    fast, slow = config.rotary_rotations or YARN_ROTATIONS
    first = max(math.floor(pair_index(fast)), 0)
    last = min(math.ceil(pair_index(slow)), config.rotary_dims - 1)
    ramp = (np.arange(len(frequencies)) - first) / max(last - first, 0.001)
    stretched_share = np.clip(ramp, 0, 1)
    return frequencies * (1 - stretched_share + stretched_share / config.rotary_factor)


def yarn_magnitude(config: ModelConfig) -> float:
    """Return the factor on queries and keys (YaRN, equation 22); scores grow by its square."""
    return config.rotary_magnitude or 0.1 * math.log(config.rotary_factor) + 1


class RotaryScaling(NamedTuple):
    """How rotary positions extend to a longer context.

    frequencies: (radians per position of each pair, config) -> the same, scaled.
    magnitude: config -> the factor on queries and keys.
    """

    frequencies: Callable[[np.ndarray, ModelConfig], np.ndarray]
    magnitude: Callable[[ModelConfig], float]


def _unchanged(frequencies: np.ndarray, _: ModelConfig) -> np.ndarray:
    return frequencies


def _unit_magnitude(_: ModelConfig) -> float:
    return 1.0


ROTARY_SCALINGS = {
    'none': RotaryScaling(_unchanged, _unit_magnitude),
    'linear': RotaryScaling(linear_frequencies, _unit_magnitude),
    'ntk': RotaryScaling(_unchanged, _unit_magnitude),  # a larger base; see rotary_frequencies
    'llama3': RotaryScaling(llama3_frequencies, _unit_magnitude),
    'yarn': RotaryScaling(yarn_frequencies, yarn_magnitude),
}


# ALiBi


def alibi_slopes(heads: int) -> np.ndarray:
    """Return slopes 2^(-8/heads), 2^(-16/heads), ...; float32 [heads] (Press et al. 2022).

    If `heads` is not a power of two, the slopes of the next lower power come first, then every
    other slope of the next higher one.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    interleaved = [2.0 ** (-4 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return np.array((slopes + interleaved)[:heads], np.float32)


POSITION_SCHEMES = {
    'learned': PositionScheme(add=learned_positions, rotate=None, slopes=None),
    'rotary': PositionScheme(add=None, rotate=apply_rotary, slopes=None),
    'alibi': PositionScheme(add=None, rotate=None, slopes=alibi_slopes),
    # The causal mask alone distinguishes positions (Haviv et al. 2022).
    'none': PositionScheme(add=None, rotate=None, slopes=None),
}
