"""How does the model know where a token stands?"""

from typing import Any

import jax

from gpt_jax.model.config import ModelConfig
from gpt_jax.model.weights import Declare


def learned(
    declare: Declare, x_BLD: jax.Array, positions_BL: jax.Array | None, *, config: ModelConfig, place: Any
) -> jax.Array:
    """Adds a learned vector per position (GPT-1 to GPT-3). `positions_BL` None means 0, 1, 2, ... in every row."""
    del place
    table_LD = declare('table', 'LD', 'embedding')
    added = table_LD[: x_BLD.shape[1]] if positions_BL is None else table_LD[positions_BL]
    return x_BLD + added.astype(config.activation_dtype)


def none(
    declare: Declare, x_BLD: jax.Array, positions_BL: jax.Array | None, *, config: ModelConfig, place: Any
) -> jax.Array:
    """Nothing is added: the causal mask alone tells positions apart (Haviv et al. 2022)."""
    del declare, positions_BL, config, place
    return x_BLD


POSITIONS = {'learned': learned, 'none': none}
