"""How do tokens become features of the next token? Embedding, positions, the layers, the last norm, the head."""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax import schema
from gpt_jax.model.attention import ATTENTIONS, KERNELS
from gpt_jax.model.block import BLOCKS, Block
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.feedforward import ACTIVATIONS, FEEDFORWARDS
from gpt_jax.model.norm import NORMS
from gpt_jax.model.position import POSITIONS
from gpt_jax.model.products import scaled
from gpt_jax.model.weights import Declare, Part
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import forward

# Every config word of the model and the functions it chooses from.
CHOICES: Mapping[str, Iterable[str]] = {
    'block': BLOCKS,
    'norm': NORMS,
    'position': POSITIONS,
    'attention': ATTENTIONS,
    'attention_kernel': KERNELS,
    'feedforward': FEEDFORWARDS,
    'activation': ACTIVATIONS,
}


def check_choices(config: ModelConfig) -> None:
    """Raises UserError for a config word that names no function."""
    for field, choices in CHOICES.items():
        schema.choice(getattr(config, field), choices, f'model.{field}')


def _table(declare: Declare, *, config: ModelConfig, place: Any) -> jax.Array:
    del config, place
    return declare('table_VD', 'VD', 'embedding')


def _head(declare: Declare, *, config: ModelConfig, place: Any) -> jax.Array:
    del config, place
    return declare('weight_VD', 'VD', 'head')


class GPT(nn.Module):
    """A decoder-only transformer.

    config: the model's config.
    place: how activations and weights are placed on the mesh (parallel/place.py).
    train: whether dropout is on; needs an rng named 'dropout' where the rate is above 0.
    """

    config: ModelConfig
    place: Placement
    train: bool

    @nn.compact
    def __call__(
        self, tokens_BL: jax.Array, segments_BL: jax.Array | None = None, positions_BL: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The features before the head and the head's weights; loss.py and `logits` put the two together.

        Args:
          tokens_BL: int32 ids in [0, vocab_size).
          segments_BL: int32; attention stays within equal numbers. None: one segment a row.
          positions_BL: int32 in [0, context). None: 0, 1, 2, ...

        Returns:
          x_BLD in `activation_dtype`, and w_VD in float32.
        """
        config, place = self.config, self.place
        table_VD = Part(_table, config, place, name='embedding')()
        x_BLD = place.activation(table_VD[tokens_BL].astype(config.activation_dtype), 'BLD')
        x_BLD = Part(POSITIONS[config.position], config, place, name='position')(x_BLD, positions_BL)
        x_BLD = nn.Dropout(config.dropout, deterministic=not self.train)(x_BLD)
        block = _block(config)
        if self.is_initializing() or self.has_variable('params', 'blocks'):
            x_BLD, _ = _scanned(block, config)(config, place, self.train, name='blocks')(x_BLD, segments_BL)
        else:
            for n in range(config.layers):
                x_BLD, _ = block(config, place, self.train, name=f'block_{n}')(x_BLD, segments_BL)
        x_BLD = scaled(Part(NORMS[config.norm], config, place, name='norm')(x_BLD), forward(config).logits)
        return x_BLD, table_VD if config.tied_head else Part(_head, config, place, name='head')()


def _block(config: ModelConfig) -> Any:
    if config.remat == 'none':
        return Block
    policy = None if config.remat == 'block' else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)


def _scanned(block: Any, config: ModelConfig) -> Any:
    return nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=nn.broadcast,
        length=config.layers,
    )


def unstack(params: Any, layers: int) -> Any:
    """The weights with a tree for each layer instead of one stack of all: for the loop over layers written out.

    Done once a step, outside the loop over microbatches, for on a CPU every slice of a stack is a copy.
    """
    rest = {name: part for name, part in params.items() if name != 'blocks'}
    return rest | {f'block_{n}': jax.tree.map(lambda a, n=n: a[n], params['blocks']) for n in range(layers)}


def stack(params: Any, layers: int) -> Any:
    """The inverse of `unstack`."""
    blocks = [params[f'block_{n}'] for n in range(layers)]
    rest = {name: part for name, part in params.items() if not name.startswith('block_')}
    return rest | {'blocks': jax.tree.map(lambda *parts: jnp.stack(parts), *blocks)}
