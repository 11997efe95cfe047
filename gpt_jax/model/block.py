"""How are attention and feed-forward put together into a layer?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from gpt_jax.model import cache
from gpt_jax.model.attention import ATTENTIONS
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.experts import Statistics
from gpt_jax.model.feedforward import FEEDFORWARDS
from gpt_jax.model.mask import Sight
from gpt_jax.model.norm import NORMS
from gpt_jax.model.products import scaled
from gpt_jax.model.weights import Part
from gpt_jax.parallel.place import Placement
from gpt_jax.parametrization import forward

Function = Callable[[jax.Array], jax.Array]
Branch = Callable[[jax.Array], tuple[jax.Array, Any]]  # also gives what is to be known beside its output


def pre_norm(x_BLD: jax.Array, norms: tuple[Function, Function], attend: Branch, feed: Branch) -> tuple[Any, ...]:
    """x + attention(norm(x)), then x + feedforward(norm(x)) (GPT-2 and after)."""
    y_BLD, kept = attend(norms[0](x_BLD))
    x_BLD = x_BLD + y_BLD
    y_BLD, known = feed(norms[1](x_BLD))
    return x_BLD + y_BLD, kept, known


def post_norm(x_BLD: jax.Array, norms: tuple[Function, Function], attend: Branch, feed: Branch) -> tuple[Any, ...]:
    """norm(x + attention(x)), then norm(x + feedforward(x)) (Vaswani et al. 2017; GPT-1)."""
    y_BLD, kept = attend(x_BLD)
    x_BLD = norms[0](x_BLD + y_BLD)
    y_BLD, known = feed(x_BLD)
    return norms[1](x_BLD + y_BLD), kept, known


def parallel(x_BLD: jax.Array, norms: tuple[Function, Function], attend: Branch, feed: Branch) -> tuple[Any, ...]:
    """x + attention(norm(x)) + feedforward(norm(x)), of one norm (GPT-J; PaLM)."""
    n_BLD = norms[0](x_BLD)
    (y_BLD, kept), (z_BLD, known) = attend(n_BLD), feed(n_BLD)
    return x_BLD + y_BLD + z_BLD, kept, known


BLOCKS = {'pre_norm': pre_norm, 'post_norm': post_norm, 'parallel': parallel}


class Block(nn.Module):
    """One layer, in the form that `lax.scan` wants: (carry, inputs) -> (carry, what each layer leaves).

    window: of this layer's attention; None: all is seen, or `window` is an input since layers of two kinds are rolled
      into one loop.
    """

    config: ModelConfig
    place: Placement
    train: bool
    window: int | None

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, segments_BL: jax.Array | None, positions_BL: jax.Array | None,
        window: jax.Array | None, room: cache.Room | None,
    ) -> tuple[jax.Array, tuple[cache.Layer | None, Statistics]]:  # fmt: skip
        config, place = self.config, self.place
        drop = nn.Dropout(config.dropout, deterministic=not self.train)
        norms = tuple(Part(NORMS[config.norm], config, place, name=name) for name in ('norm_1', 'norm_2'))
        attention = Part(ATTENTIONS[config.attention], config, place, name='attention')
        # Experts turn tokens away in training alone.
        dropless = config if self.train else dataclasses.replace(config, capacity_factor=0.0)
        feedforward = Part(FEEDFORWARDS[config.feedforward], dropless, place, name='feedforward')
        branch = forward(config).branch
        sight = Sight(segments_BL, self.window if window is None else window, sink_H=None, slopes_H=None)

        def attend(y_BLD: jax.Array) -> tuple[jax.Array, Any]:
            o_BLD, kept = attention(y_BLD, positions_BL, sight, room)
            return scaled(drop(o_BLD), branch), kept

        def feed(y_BLD: jax.Array) -> tuple[jax.Array, Any]:
            o_BLD, known = feedforward(y_BLD)
            return scaled(drop(o_BLD), branch), known

        x_BLD, kept, known = BLOCKS[config.block](x_BLD, (norms[0], norms[1]), attend, feed)
        return place.activation(x_BLD, 'BLD'), (kept, known)
