"""How far do a model's activations move in training, part by part? On one batch, as root mean squares."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax.model import loss as losses
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.gpt import GPT, unstack
from gpt_jax.parallel import place

PARTS = ('attention', 'feedforward', 'norm')


def activations(config: ModelConfig, params: Any, tokens_BL: jax.Array) -> dict[str, jax.Array]:
    """What flows through the model, the same five entries for every width and depth.

    'attention' and 'feedforward': what these branches give in every layer [N, B, L, D]; 'residual': what leaves the
    last block, 'norm': after the last norm [B, L, D]; 'logits' [B, L, V].

    Args:
      params: as stored, layers stacked.
    """
    model = GPT(config, place.ANYWHERE, train=False)

    def wanted(module: nn.Module, method: str) -> bool:
        return method == '__call__' and (module.name in PARTS or str(module.name).startswith('block_'))

    features, kept = model.apply(
        {'params': unstack(params, config.layers)}, tokens_BL, capture_intermediates=wanted, mutable=['intermediates']
    )
    seen = kept['intermediates']
    blocks = [seen[f'block_{n}'] for n in range(config.layers)]
    branches = {
        name: jnp.stack([block[name]['__call__'][0][0] for block in blocks]) for name in ('attention', 'feedforward')
    }
    residual = blocks[-1]['__call__'][0][0]
    norm = seen['norm']['__call__'][0]
    return branches | {
        'residual': residual,
        'norm': norm,
        'logits': losses.logits(features.x_BLD, features.w_VD, config),
    }


def moved(before: dict[str, jax.Array], after: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The root mean square of how far each activation has moved."""
    return {name: jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name]))) for name in before}
