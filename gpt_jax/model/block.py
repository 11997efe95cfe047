"""How are attention and feed-forward put together into a layer?"""

from collections.abc import Callable

import flax.linen as nn
import jax

from gpt_jax.model.attention import ATTENTIONS
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.feedforward import FEEDFORWARDS
from gpt_jax.model.norm import NORMS
from gpt_jax.model.products import scaled
from gpt_jax.model.weights import Part
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import forward

Branch = Callable[[jax.Array], jax.Array]


def pre_norm(x_BLD: jax.Array, norms: tuple[Branch, Branch], attend: Branch, feed: Branch) -> jax.Array:
    """x + attention(norm(x)), then x + feedforward(norm(x)) (GPT-2 and after)."""
    x_BLD = x_BLD + attend(norms[0](x_BLD))
    return x_BLD + feed(norms[1](x_BLD))


BLOCKS = {'pre_norm': pre_norm}


class Block(nn.Module):
    """One layer, in the form that `lax.scan` wants: (carry, inputs shared by all layers) -> (carry, None)."""

    config: ModelConfig
    place: Placement
    train: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array, segments_BL: jax.Array | None) -> tuple[jax.Array, None]:
        config, place = self.config, self.place
        drop = nn.Dropout(config.dropout, deterministic=not self.train)
        norms = tuple(Part(NORMS[config.norm], config, place, name=name) for name in ('norm_1', 'norm_2'))
        attention = Part(ATTENTIONS[config.attention], config, place, name='attention')
        branch = forward(config).branch
        feedforward = Part(FEEDFORWARDS[config.feedforward], config, place, name='feedforward')
        x_BLD = BLOCKS[config.block](
            x_BLD,
            (norms[0], norms[1]),
            lambda y_BLD: scaled(drop(attention(y_BLD, segments_BL)), branch),
            lambda y_BLD: scaled(drop(feedforward(y_BLD)), branch),
        )
        return place.activation(x_BLD, 'BLD'), None
