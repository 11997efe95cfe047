"""How do tokens become features of the next token? Embedding, positions, the layers, the last norm, the head."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax import schema
from gpt_jax.model.activation import ACTIVATIONS
from gpt_jax.model.attention import ATTENTIONS, KERNELS
from gpt_jax.model.block import BLOCKS, Block
from gpt_jax.model.cache import Cache, Room
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.experts import Statistics
from gpt_jax.model.feedforward import FEEDFORWARDS
from gpt_jax.model.mask import EVERYTHING
from gpt_jax.model.norm import NORMS
from gpt_jax.model.position import POSITIONS, SCALINGS
from gpt_jax.model.products import PRODUCT, scaled
from gpt_jax.model.weights import Declare, Part
from gpt_jax.parallel.pipeline import piped
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import forward

# Every config word of the model and the functions it chooses from.
CHOICES: Mapping[str, Iterable[str]] = {
    'block': BLOCKS,
    'norm': NORMS,
    'position': POSITIONS,
    'rotary_scaling': SCALINGS,
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


class Features(NamedTuple):
    """What the model makes of its tokens.

    x_BLD: the features before the head, in `activation_dtype`.
    w_VD: the head's weights, float32; loss.py puts the two together. None where the params are without a head, since
      somebody else holds it.
    cache: with these tokens in it; None where none was given.
    statistics: of the routing, float32 [N] each; empty where nothing is routed.
    """

    x_BLD: jax.Array
    w_VD: jax.Array | None
    cache: Cache | None
    statistics: Statistics


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
        self, tokens_BL: jax.Array, segments_BL: jax.Array | None = None, positions_BL: jax.Array | None = None, *,
        cache: Cache | None = None, count_B: jax.Array | None = None, fresh: bool = False,
    ) -> Features:  # fmt: skip
        """The features of every token.

        Args:
          tokens_BL: int32 ids in [0, vocab_size).
          segments_BL: int32; attention stays within equal numbers. None: one segment a row.
          positions_BL: int32 in [0, context). None: 0, 1, 2, ..., or what follows on the cache.
          cache: the tokens before these. Wants the layers' weights apart (`unstack`), and neither segments nor
            positions.
          count_B: with a cache, how many tokens of each row are real; those after them mean nothing. None: all.
          fresh: the cache is known to be empty; else at most its `chunk` tokens are taken at once.
        """
        config, place = self.config, self.place
        table_VD = Part(_table, config, place, name='embedding')()
        rooms: tuple[Any, ...] = (None,) * config.layers
        if cache is not None:
            batch, length = tokens_BL.shape
            count_B = jnp.full(batch, length, jnp.int32) if count_B is None else count_B
            rooms = tuple(Room(layer, cache.length_B, count_B, fresh) for layer in cache.layers)
            positions_BL = None if fresh else cache.length_B[:, None] + jnp.arange(length)
        x_BLD = place.activation(_embedded(table_VD, tokens_BL, config, place), 'BLD')
        if (add := POSITIONS[config.position].add) is not None:
            x_BLD = Part(add, config, place, name='position')(x_BLD, positions_BL)
        x_BLD = nn.Dropout(config.dropout, deterministic=not self.train)(x_BLD)
        if self.is_initializing() or self.has_variable('params', 'blocks'):
            layers: list[Any] = []
            if place.team('N').size > 1:
                x_BLD, known = self._piped(x_BLD, segments_BL, positions_BL)
            else:
                x_BLD, (_, known) = _rolled(config, place, self.train)(x_BLD, segments_BL, positions_BL)
        else:
            each, layers = [], []
            for n, room in enumerate(rooms):
                block = _block(config, place)(config, place, self.train, windows(config)[n], name=f'block_{n}')
                x_BLD, (kept, known) = block(x_BLD, segments_BL, positions_BL, None, room)
                each.append(known)
                layers.append(kept)
            known = jax.tree.map(lambda *values: jnp.stack(values), *each)
        if config.final_norm:
            x_BLD = Part(NORMS[config.norm], config, place, name='norm')(x_BLD)
        x_BLD = scaled(x_BLD, forward(config).logits)
        w_VD = table_VD if config.tied_head else None
        if not config.tied_head and (self.is_initializing() or self.has_variable('params', 'head')):
            w_VD = Part(_head, config, place, name='head')()
        if cache is not None and count_B is not None:
            cache = Cache(tuple(layers), cache.length_B + count_B)
        return Features(x_BLD, w_VD, cache, known)

    def _piped(self, x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None) -> Any:
        """The layers where devices hold different ones of them."""
        stage = Stage(self.config, self.place, self.train)
        key = self.make_rng('dropout') if self.train and self.has_rng('dropout') else None

        def run(params: Any, x_BLD: jax.Array, beside: Any, number: jax.Array) -> tuple[jax.Array, Any]:
            rngs = None if key is None else {'dropout': jax.random.fold_in(key, number)}
            return stage.apply({'params': {'blocks': params}}, x_BLD, *beside, rngs=rngs)

        params: Any = self.get_variable('params', 'blocks')
        beside = (segments_BL, positions_BL)
        return piped(run, params, x_BLD, beside, team=self.place.team('N'), rows=self.place.rows)


def _embedded(table_VD: jax.Array, tokens_BL: jax.Array, config: ModelConfig, place: Placement) -> jax.Array:
    """The tokens' rows of the table. Where devices share the rows, each gets its part of the length of all rows."""
    team = place.team('V')
    if team.size == 1:
        return table_VD[tokens_BL].astype(config.activation_dtype)
    row_BL = tokens_BL - team.index() * len(table_VD)
    mine_BL = (row_BL >= 0) & (row_BL < len(table_VD))
    found_BLD = table_VD[jnp.where(mine_BL, row_BL, 0)].astype(config.activation_dtype)
    return team.scatter(jnp.where(mine_BL[..., None], found_BLD, 0), 1)


def windows(config: ModelConfig) -> tuple[int | None, ...]:
    """How far each layer's queries see back; None: to the beginning."""
    return tuple(config.window if kind == 'window' else None for kind in config.kinds)


def _block(config: ModelConfig, place: Placement) -> Any:
    policies = jax.checkpoint_policies
    policy = None if config.remat == 'block' else policies.save_only_these_names(PRODUCT)
    if config.remat == 'none':
        if place.keeps is None:
            return Block
        policy = place.keeps
    return nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)


class Stage(nn.Module):
    """Some of the layers: those that a device holds of the stack."""

    config: ModelConfig
    place: Placement
    train: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None) -> Any:
        x_BLD, (_, known) = _rolled(self.config, self.place, self.train)(x_BLD, segments_BL, positions_BL)
        return x_BLD, known


def _rolled(config: ModelConfig, place: Placement, train: bool) -> Callable[..., Any]:
    """The layers as one loop. Where they are of two kinds, the window of each is an input of the loop."""
    seen = windows(config)
    mixed = len(set(seen)) > 1
    scanned = nn.scan(
        _block(config, place),
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, nn.broadcast, 0 if mixed else nn.broadcast, nn.broadcast),
        length=config.layers // place.team('N').size,
    )(config, place, train, None if mixed else seen[0], name='blocks')
    each = jnp.array([EVERYTHING if window is None else window for window in seen], jnp.int32) if mixed else None
    each = None if each is None else place.team('N').take(each, 0)
    return lambda x_BLD, segments_BL, positions_BL: scanned(x_BLD, segments_BL, positions_BL, each, None)


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
