"""How are the tokens of many texts written one by one? A prefill, then one loop over steps, on the device.

The cache and the texts have one static shape, which is donated from call to call. The loop's first step reads the
prompt's last token: the prefill takes all before it and computes no scores. How many steps a call makes is traced, so
that streaming and writing at once are one compiled program and give the same numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.generate import sampling
from gpt_jax.generate.processors import Plan, Seen, process
from gpt_jax.model import cache as caches
from gpt_jax.model import loss as losses
from gpt_jax.model.cache import Cache
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.gpt import GPT
from gpt_jax.parallel.place import Placement

RUNNING, ENDED, FULL, HALTED = range(4)  # why a text is no longer written: an id ended it, its limit, or whoever reads


class Model(NamedTuple):
    """A model as it is called here, with a tree of params per layer. `place`: where its tensors live."""

    config: ModelConfig
    place: Placement

    def scores(self, params: Any, tokens_BL: jax.Array, cache: Cache, count_B: jax.Array) -> tuple[jax.Array, Cache]:
        """Reads `count_B` of each row's tokens; the scores after each, float32 [B, L, V] without padding ids."""
        features = self._features(params, tokens_BL, cache, count_B, fresh=False)
        z_BLV = losses.scores(features.x_BLD, features.w_VD, self.config)
        return z_BLV[..., : self.config.vocab_size], features.cache

    def read(self, params: Any, tokens_BL: jax.Array, cache: Cache, count_B: jax.Array) -> Cache:
        """Reads the first tokens into an empty cache."""
        return self._features(params, tokens_BL, cache, count_B, fresh=True).cache

    def empty(self, batch: int, capacity: int, chunk: int) -> Cache:
        cache = caches.empty(self.config, batch, capacity, chunk)
        layers = jax.tree.map(lambda a: self.place.activation(a, 'BGMK'), cache.layers)
        return cache.replace(layers=layers)

    def _features(self, params: Any, tokens_BL: jax.Array, cache: Cache, count_B: jax.Array, fresh: bool) -> Any:
        model = GPT(self.config, self.place, train=False)
        return model.apply({'params': params}, tokens_BL, cache=cache, count_B=count_B, fresh=fresh)


class Texts(struct.PyTreeNode):
    """tokens_BL: prompts and what was written, `length_B` ids of each row. log_p_BL: log-probabilities of the written
    ids under the model itself, in nats. reason_B: RUNNING or why not. On the host or on the devices."""

    tokens_BL: Any
    log_p_BL: Any
    length_B: Any
    reason_B: Any


class State(struct.PyTreeNode):
    """The texts, and the cache of all their tokens but the last."""

    texts: Texts
    cache: Cache


class Fixed(NamedTuple):
    """What does not change while texts are written.

    prompt_B: tokens of the prompts. limit_B: tokens at which a text is full. minimum_B: below which it does not end.
    seeds_B: uint32. ends_V: ids that end a text. On the host or on the devices.
    """

    prompt_B: Any
    limit_B: Any
    minimum_B: Any
    seeds_B: Any
    ends_V: Any

    def seen(self, texts: Texts) -> Seen:
        return Seen(texts.tokens_BL, texts.length_B, self.prompt_B, self.minimum_B, self.ends_V)


class Sizes(NamedTuple):
    """Static sizes. room: tokens that the cache has room for. chunk: the most that are read, or forgotten, at once."""

    room: int
    chunk: int


def begin(model: Model, params: Any, read_BL: jax.Array, count_B: jax.Array, texts: Texts, *, sizes: Sizes) -> State:
    """The state before the first new token. `read_BL`: what goes before each text's last token, `count_B` of them."""
    cache = model.empty(read_BL.shape[0], sizes.room, sizes.chunk)
    return State(texts, model.read(params, read_BL, cache, count_B) if read_BL.shape[1] else cache)


def run(model: Model, params: Any, state: State, fixed: Fixed, values: Any, steps: jax.Array, *, plan: Plan) -> State:
    """Writes up to `steps` tokens more of every running text; less where all end, or where a row's context is full."""

    def going(carry: tuple[jax.Array, State]) -> jax.Array:
        running_B = carry[1].texts.reason_B == RUNNING
        full_B = running_B & (carry[1].cache.length_B >= model.config.context)
        return (carry[0] < steps) & jnp.any(running_B) & ~jnp.any(full_B)

    def body(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
        texts, cache = carry[1].texts, carry[1].cache
        running_B = texts.reason_B == RUNNING
        z_BLV, cache = model.scores(params, last(texts)[:, None], cache, running_B.astype(jnp.int32))
        z_BV = z_BLV[:, 0]
        scores_BV = process(z_BV, fixed.seen(texts), values, plan)
        keys_B = sampling.keys(fixed.seeds_B, texts.length_B - fixed.prompt_B)
        ids_B = sampling.choose(scores_BV, keys_B, plan.sampled)
        log_p_B = sampling.log_probability(z_BV, ids_B)
        written = extended(texts, ids_B[:, None], log_p_B[:, None], running_B.astype(jnp.int32), fixed)
        return carry[0] + 1, State(written, cache)

    return jax.lax.while_loop(going, body, (jnp.int32(0), state))[1]


def last(texts: Texts) -> jax.Array:
    """Each text's last id. [B]."""
    return jnp.take_along_axis(texts.tokens_BL, texts.length_B[:, None] - 1, axis=1)[:, 0]


def extended(texts: Texts, ids_BL: jax.Array, log_p_BL: jax.Array, count_B: jax.Array, fixed: Fixed) -> Texts:
    """The texts with `count_B` ids more, which end at one that ends a text or at their limit; 0 for those that rest."""
    ends_BL = fixed.ends_V[ids_BL] & (jnp.arange(ids_BL.shape[1]) < count_B[:, None])
    ended_B = jnp.any(ends_BL, axis=1)
    count_B = jnp.where(ended_B, jnp.argmax(ends_BL, axis=1) + 1, count_B)
    length_B = texts.length_B + count_B
    full_B = (count_B > 0) & (length_B >= fixed.limit_B)
    return Texts(
        tokens_BL=placed(texts.tokens_BL, texts.length_B, ids_BL, count_B),
        log_p_BL=placed(texts.log_p_BL, texts.length_B, log_p_BL, count_B),
        length_B=length_B,
        reason_B=jnp.where(ended_B, ENDED, jnp.where(full_B, FULL, texts.reason_B)),
    )


def placed(into_BL: jax.Array, start_B: jax.Array, new_BL: jax.Array, count_B: jax.Array) -> jax.Array:
    """`into_BL` with the first `count_B` of each row of `new_BL` from place `start_B` on."""
    offsets_L = jnp.arange(new_BL.shape[1])
    # What is not written gets a place that does not exist.
    places_BL = jnp.where(offsets_L < count_B[:, None], start_B[:, None] + offsets_L, into_BL.shape[1])
    return jax.vmap(lambda into, places, new: into.at[places].set(new, mode='drop'))(into_BL, places_BL, new_BL)


def kept(config: ModelConfig) -> int:
    """Tokens that are read again where the context is full: the last half of it."""
    return config.context // 2


def slide(model: Model, params: Any, state: State, *, sizes: Sizes) -> State:
    """Rows whose context is full read its last half again, at positions from 0 on; the others are as they were."""
    half, texts = kept(model.config), state.texts
    batch = texts.length_B.shape[0]
    full_B = state.cache.length_B >= model.config.context
    places_BL = jnp.maximum(texts.length_B[:, None] - 1 - half + jnp.arange(half), 0)
    again_BL = jnp.take_along_axis(texts.tokens_BL, places_BL, axis=1)
    fresh = model.read(params, again_BL, model.empty(batch, sizes.room, sizes.chunk), jnp.full(batch, half, jnp.int32))

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(full_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return state.replace(cache=jax.tree.map(choose, fresh, state.cache))


class Compiled(NamedTuple):
    """`begin`, `run` and `slide` of one model, jitted; the state is donated."""

    begin: Any
    run: Any
    slide: Any


def compiled(model: Model) -> Compiled:
    """Each is compiled once per static shape: a bucket of prompts, of rows and of lengths (see batching.py)."""
    return Compiled(
        begin=jax.jit(functools.partial(begin, model), static_argnames='sizes', donate_argnames='texts'),
        run=jax.jit(functools.partial(run, model), static_argnames='plan', donate_argnames='state'),
        slide=jax.jit(functools.partial(slide, model), static_argnames='sizes', donate_argnames='state'),
    )
