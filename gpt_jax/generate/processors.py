"""How do the options of generation change the scores of the next token? One pure function each, in a fixed order.

The order, and what each function does, are transformers' (5.x), so that the same options choose the same tokens. What
an option rules out gets the score HIDDEN, which softmax turns into 0. Values are traced, so that a new temperature
compiles nothing anew; only which functions act, and the shapes they need, are fixed (see `Plan`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.generate.options import Options
from gpt_jax.model.mask import HIDDEN


class Seen(NamedTuple):
    """What a text is so far.

    tokens_BL: ids, of which `length_B` count. prompt_B: how many of these are the prompt's. minimum_B: the length below
    which it may not end. ends_V: True for the ids that end it.
    """

    tokens_BL: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array
    minimum_B: jax.Array
    ends_V: jax.Array


class Plan(NamedTuple):
    """What is compiled in: the names of the functions that act, and the sizes that shapes depend on.

    most: top_k rounded up to a power of two.
    """

    names: tuple[str, ...]
    sampled: bool
    most: int


class Scene(NamedTuple):
    """What a processor looks at beside the scores: the texts, its option's value and the plan."""

    seen: Seen
    value: jax.Array
    plan: Plan


Processor = Callable[[jax.Array, Scene], jax.Array]


def _counts(seen: Seen, start_B: jax.Array, vocabulary: int) -> jax.Array:
    """How often each text has each id, from its token `start_B` on. float32 [B, V]."""
    places_L = jnp.arange(seen.tokens_BL.shape[1])
    counted_BL = (places_L >= start_B[:, None]) & (places_L < seen.length_B[:, None])
    count = lambda tokens_L, counted_L: jnp.zeros(vocabulary).at[tokens_L].add(counted_L)  # noqa: E731
    return jax.vmap(count)(seen.tokens_BL, counted_BL.astype(jnp.float32))


def repetition(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Keskar et al. 2019, section 4.1: scores of ids in the text or its prompt are divided, or where they are negative
    multiplied, by the penalty."""
    there_BV = _counts(scene.seen, jnp.zeros_like(scene.seen.length_B), scores_BV.shape[1]) > 0
    moved_BV = jnp.where(scores_BV < 0, scores_BV * scene.value, scores_BV / scene.value)
    return jnp.where(there_BV, moved_BV, scores_BV)


def presence(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """The penalty once, for ids that were written after the prompt."""
    return scores_BV - scene.value * (_counts(scene.seen, scene.seen.prompt_B, scores_BV.shape[1]) > 0)


def frequency(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """The penalty as often as an id was written after the prompt."""
    return scores_BV - scene.value * _counts(scene.seen, scene.seen.prompt_B, scores_BV.shape[1])


def no_repeat_ngram(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Hides every id that would make the last n tokens a run of n that the text or its prompt has already."""
    n = scene.value
    places_L = jnp.arange(scene.seen.tokens_BL.shape[1])

    def banned(tokens_L: jax.Array, length: jax.Array) -> jax.Array:
        matches_L = (places_L >= n - 1) & (places_L < length)  # a run of n ends here

        def further(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            back, matches_L = carry
            return back + 1, matches_L & (jnp.roll(tokens_L, back) == tokens_L[jnp.maximum(length - back, 0)])

        # Until no run is left, which mostly is soon, however long the runs are.
        going = lambda carry: (carry[0] < n) & jnp.any(carry[1])  # noqa: E731
        _, matches_L = jax.lax.while_loop(going, further, (jnp.int32(1), matches_L))
        return jnp.zeros(scores_BV.shape[1], bool).at[tokens_L].max(matches_L)

    return jnp.where(jax.vmap(banned)(scene.seen.tokens_BL, scene.seen.length_B), HIDDEN, scores_BV)


def minimum(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Hides what ends a text while it is too short."""
    short_B = scene.seen.length_B < scene.seen.minimum_B
    return jnp.where(short_B[:, None] & scene.seen.ends_V, HIDDEN, scores_BV)


def temperature(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Scores from the highest on, so that the least temperature leaves the likeliest id instead of infinities."""
    top_B1 = jnp.max(scores_BV, axis=1, keepdims=True)
    return (scores_BV - top_B1) / jnp.maximum(scene.value, jnp.finfo(jnp.float32).tiny)


def top_k(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Keeps the k highest scores, and what equals the lowest of them (Fan et al. 2018)."""
    most = min(scene.plan.most, scores_BV.shape[1])
    highest_BC, _ = jax.lax.top_k(scores_BV, most)
    last_B = jnp.take(highest_BC, jnp.minimum(scene.value.astype(jnp.int32), most) - 1, axis=1)
    return jnp.where(scores_BV < last_B[:, None], HIDDEN, scores_BV)


def top_p(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Keeps the fewest ids that hold the mass p (Holtzman et al. 2020), and what equals the last of them."""
    sorted_BV = jnp.sort(scores_BV, axis=1)
    below_BV = jnp.cumsum(jax.nn.softmax(sorted_BV, axis=1), axis=1) <= 1 - scene.value
    first_B = jnp.minimum(jnp.sum(below_BV, axis=1), scores_BV.shape[1] - 1)
    least_B1 = jnp.take_along_axis(sorted_BV, first_B[:, None], axis=1)
    return jnp.where(scores_BV < least_B1, HIDDEN, scores_BV)


def min_p(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Keeps the ids at least min_p times as probable as the likeliest (Nguyen et al. 2024)."""
    p_BV = jax.nn.softmax(scores_BV, axis=1)
    top_B1 = jnp.max(p_BV, axis=1, keepdims=True)
    return jnp.where((p_BV < scene.value * top_B1) & (p_BV < top_B1), HIDDEN, scores_BV)


def typical(scores_BV: jax.Array, scene: Scene) -> jax.Array:
    """Keeps the ids whose surprise is nearest to the entropy, until they hold the mass (Meister et al. 2023)."""
    log_p_BV = jax.nn.log_softmax(scores_BV, axis=1)
    p_BV = jnp.exp(log_p_BV)
    entropy_B1 = -jnp.sum(jnp.where(p_BV > 0, p_BV * log_p_BV, 0), axis=1, keepdims=True)
    distance_BV = jnp.abs(-log_p_BV - entropy_B1)
    sorted_BV, mass_BV = jax.lax.sort_key_val(distance_BV, p_BV, dimension=1)
    enough_BV = jnp.cumsum(mass_BV, axis=1) < scene.value
    last_B = jnp.minimum(jnp.sum(enough_BV, axis=1), scores_BV.shape[1] - 1)
    return jnp.where(distance_BV > jnp.take_along_axis(sorted_BV, last_B[:, None], axis=1), HIDDEN, scores_BV)


# By option, in the order in which they act; the last five act in sampling alone.
PROCESSORS: Mapping[str, Processor] = {
    'repetition_penalty': repetition,
    'presence_penalty': presence,
    'frequency_penalty': frequency,
    'no_repeat_ngram_size': no_repeat_ngram,
    'min_length': minimum,
    'temperature': temperature,
    'top_k': top_k,
    'top_p': top_p,
    'min_p': min_p,
    'typical_p': typical,
}


def plan(options: Options) -> Plan:
    """What must be compiled in for these options."""
    acting = {*options.changed(PROCESSORS)}
    if options.min_new_tokens:
        acting.add('min_length')
    if options.do_sample:
        acting.add('temperature')  # so that going to 1 and back compiles nothing
    most = 1 << (options.top_k - 1).bit_length() if options.top_k else 0
    names = tuple(name for name in PROCESSORS if name in acting)
    return Plan(names, options.do_sample, most)


def values(options: Options, plan: Plan) -> dict[str, Any]:
    """The traced values of the functions that act."""
    given = {name: getattr(options, name) for name in plan.names}
    return {name: jnp.int32(value) if isinstance(value, int) else jnp.float32(value) for name, value in given.items()}


def process(scores_BV: jax.Array, seen: Seen, values: Mapping[str, jax.Array], plan: Plan) -> jax.Array:
    """The scores after all functions of the plan. float32 [B, V]."""
    for name in plan.names:
        scores_BV = PROCESSORS[name](scores_BV, Scene(seen, values[name], plan))
    return scores_BV
