"""Token selection: logits processors in transformers' order, then greedy or Gumbel sampling.

Each sequence draws from its own random stream, independent of the batch it is in.

The processors, their order and their definitions are those of transformers 5.x, so that the same
options choose the same tokens. A token that a processor excludes gets the logit MASK_VALUE, which
softmax maps to 0. Option values are traced, so that changing the temperature does not trigger a
recompilation; only the set of active processors and the sizes that determine their shapes are
static (`SamplingPlan`).
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.inference.options import GenerationOptions
from gpt_jax.model.mask import MASK_VALUE


def derive_seed(seed: int, prompt: int, sequence: int) -> int:
    """Derive the seed of one sequence of one prompt, in [0, 2^32).

    Sequence 0 of prompt 0 gets `seed` itself, so that any sequence can be reproduced on its own by
    passing its derived seed.
    """
    if prompt == sequence == 0:
        return seed
    digest = hashlib.sha256(f'{seed} {prompt} {sequence}'.encode()).digest()
    return int.from_bytes(digest[:4], 'big')


def make_step_keys(seed_B: jax.Array, step_B: jax.Array) -> jax.Array:
    """Return each sequence's random key for its new token number `step_B`."""
    return jax.vmap(lambda seed, step: jax.random.fold_in(jax.random.key(seed), step))(
        seed_B, step_B
    )


def sample_categorical(logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Sample a token per row from softmax(logits), by the Gumbel-max trick (Maddison et al. 2014).

    Returns:
      int32 [B].
    """
    noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:]))(keys_B)
    return jnp.argmax(logits_BV + noise_BV, axis=1).astype(jnp.int32)


def select_tokens(logits_BV: jax.Array, keys_B: jax.Array, do_sample: bool) -> jax.Array:
    """Return a token per row: a sample, or the most likely one. int32 [B]."""
    if do_sample:
        return sample_categorical(logits_BV, keys_B)
    return jnp.argmax(logits_BV, axis=1).astype(jnp.int32)


def compute_probabilities(logits_BV: jax.Array, do_sample: bool) -> jax.Array:
    """Return the distribution from which `select_tokens` draws. float32 [B, V]."""
    if do_sample:
        return jax.nn.softmax(logits_BV, axis=1)
    return jax.nn.one_hot(jnp.argmax(logits_BV, axis=1), logits_BV.shape[1])


def compute_log_probability(logits_BV: jax.Array, ids_B: jax.Array) -> jax.Array:
    """Return log softmax(logits) of one token per row, in nats. float32 [B]."""
    chosen_B1 = jnp.take_along_axis(logits_BV, ids_B[:, None], axis=1)
    return chosen_B1[:, 0] - jax.nn.logsumexp(logits_BV, axis=1)


class SamplingContext(NamedTuple):
    """The sequences that the next tokens continue.

    Attributes:
      tokens_BL: token ids; the first `length_B` of each row are valid.
      length_B: number of tokens in each sequence, prompt included.
      prompt_length_B: number of tokens in each prompt.
      min_length_B: length below which a sequence must not end.
      is_end_V: bool; True for the ids that end a sequence.
    """

    tokens_BL: jax.Array
    length_B: jax.Array
    prompt_length_B: jax.Array
    min_length_B: jax.Array
    is_end_V: jax.Array


class SamplingPlan(NamedTuple):
    """The static part of the sampling options.

    Attributes:
      processors: names of the active processors, in order of application.
      do_sample: whether to sample.
      max_top_k: top_k, rounded up to a power of two; 0: no top_k.
    """

    processors: tuple[str, ...]
    do_sample: bool
    max_top_k: int


# (logits [B, V], the sequences, the option's value, the plan) -> logits [B, V]
LogitsProcessor = Callable[[jax.Array, SamplingContext, jax.Array, SamplingPlan], jax.Array]


def _count_tokens(context: SamplingContext, start_B: jax.Array, vocab_size: int) -> jax.Array:
    """Count each token id in each sequence, from position `start_B` on. float32 [B, V]."""
    positions_L = jnp.arange(context.tokens_BL.shape[1])
    counted_BL = (positions_L >= start_B[:, None]) & (positions_L < context.length_B[:, None])
    count = lambda tokens_L, counted_L: jnp.zeros(vocab_size).at[tokens_L].add(counted_L)
    return jax.vmap(count)(context.tokens_BL, counted_BL.astype(jnp.float32))


def apply_repetition_penalty(
    logits_BV: jax.Array, context: SamplingContext, value: jax.Array, _: SamplingPlan
) -> jax.Array:
    """Penalize tokens that occur in the prompt or the text (Keskar et al. 2019, section 4.1).

    Positive logits are divided by the penalty, negative ones multiplied.
    """
    counts_BV = _count_tokens(context, jnp.zeros_like(context.length_B), logits_BV.shape[1])
    penalized_BV = jnp.where(logits_BV < 0, logits_BV * value, logits_BV / value)
    return jnp.where(counts_BV > 0, penalized_BV, logits_BV)


def apply_presence_penalty(
    logits_BV: jax.Array, context: SamplingContext, value: jax.Array, _: SamplingPlan
) -> jax.Array:
    """Subtract the penalty once from tokens that occur after the prompt."""
    return logits_BV - value * (
        _count_tokens(context, context.prompt_length_B, logits_BV.shape[1]) > 0
    )


def apply_frequency_penalty(
    logits_BV: jax.Array, context: SamplingContext, value: jax.Array, _: SamplingPlan
) -> jax.Array:
    """Subtract the penalty from a token for each time it occurs after the prompt."""
    return logits_BV - value * _count_tokens(context, context.prompt_length_B, logits_BV.shape[1])


def block_repeated_ngrams(
    logits_BV: jax.Array, context: SamplingContext, value: jax.Array, _: SamplingPlan
) -> jax.Array:
    """Exclude tokens that would complete an n-gram already present in the prompt or the text."""
    n = value
    positions_L = jnp.arange(context.tokens_BL.shape[1])

    def find_banned(tokens_L: jax.Array, length: jax.Array) -> jax.Array:
        """Return the ids that follow an earlier occurrence of the last n - 1 tokens. bool [V]."""
        matches_L = (positions_L >= n - 1) & (positions_L < length)  # an n-gram may end here

        def compare_further(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            back, matches_L = carry
            same_L = jnp.roll(tokens_L, back) == tokens_L[jnp.maximum(length - back, 0)]
            return back + 1, matches_L & same_L

        # Stops as soon as no match is left, which usually happens early, even for a large n.
        keep_going = lambda carry: (carry[0] < n) & jnp.any(carry[1])
        _, matches_L = jax.lax.while_loop(keep_going, compare_further, (jnp.int32(1), matches_L))
        return jnp.zeros(logits_BV.shape[1], bool).at[tokens_L].max(matches_L)

    banned_BV = jax.vmap(find_banned)(context.tokens_BL, context.length_B)
    return jnp.where(banned_BV, MASK_VALUE, logits_BV)


def enforce_min_length(
    logits_BV: jax.Array, context: SamplingContext, _: jax.Array, __: SamplingPlan
) -> jax.Array:
    """Exclude the ids that end a sequence while it is shorter than its minimum length."""
    short_B = context.length_B < context.min_length_B
    return jnp.where(short_B[:, None] & context.is_end_V, MASK_VALUE, logits_BV)


def apply_temperature(
    logits_BV: jax.Array, _: SamplingContext, value: jax.Array, __: SamplingPlan
) -> jax.Array:
    """Divide the logits by the temperature.

    The logits are first shifted so that the highest is 0: even the smallest temperature then
    selects the most likely token instead of producing infinities.
    """
    top_B1 = jnp.max(logits_BV, axis=1, keepdims=True)
    return (logits_BV - top_B1) / jnp.maximum(value, jnp.finfo(jnp.float32).tiny)


def filter_top_k(
    logits_BV: jax.Array, _: SamplingContext, value: jax.Array, plan: SamplingPlan
) -> jax.Array:
    """Keep the k highest logits, and any tied with the lowest of them (Fan et al. 2018)."""
    max_k = min(plan.max_top_k, logits_BV.shape[1])
    highest_BC = jax.lax.top_k(logits_BV, max_k)[0]
    last_B = jnp.take(highest_BC, jnp.minimum(value.astype(jnp.int32), max_k) - 1, axis=1)
    return jnp.where(logits_BV < last_B[:, None], MASK_VALUE, logits_BV)


def filter_top_p(
    logits_BV: jax.Array, _: SamplingContext, value: jax.Array, __: SamplingPlan
) -> jax.Array:
    """Keep the smallest set of tokens with a total probability of top_p (Holtzman et al. 2020).

    Tokens tied with the last one in the set are kept, too.
    """
    sorted_BV = jnp.sort(logits_BV, axis=1)
    below_BV = jnp.cumsum(jax.nn.softmax(sorted_BV, axis=1), axis=1) <= 1 - value
    first_B = jnp.minimum(jnp.sum(below_BV, axis=1), logits_BV.shape[1] - 1)
    least_B1 = jnp.take_along_axis(sorted_BV, first_B[:, None], axis=1)
    return jnp.where(logits_BV < least_B1, MASK_VALUE, logits_BV)


def filter_min_p(
    logits_BV: jax.Array, _: SamplingContext, value: jax.Array, __: SamplingPlan
) -> jax.Array:
    """Keep tokens at least min_p times as likely as the most likely one (Nguyen et al. 2024)."""
    p_BV = jax.nn.softmax(logits_BV, axis=1)
    top_B1 = jnp.max(p_BV, axis=1, keepdims=True)
    return jnp.where((p_BV < value * top_B1) & (p_BV < top_B1), MASK_VALUE, logits_BV)


def filter_typical_p(
    logits_BV: jax.Array, _: SamplingContext, value: jax.Array, __: SamplingPlan
) -> jax.Array:
    """Keep the tokens whose surprisal is closest to the entropy (Meister et al. 2023).

    Just enough of them are kept to reach a total probability of typical_p.
    """
    log_p_BV = jax.nn.log_softmax(logits_BV, axis=1)
    p_BV = jnp.exp(log_p_BV)
    entropy_B1 = -jnp.sum(jnp.where(p_BV > 0, p_BV * log_p_BV, 0), axis=1, keepdims=True)
    distance_BV = jnp.abs(-log_p_BV - entropy_B1)
    sorted_BV, mass_BV = jax.lax.sort_key_val(distance_BV, p_BV, dimension=1)
    below_BV = jnp.cumsum(mass_BV, axis=1) < value
    last_B = jnp.minimum(jnp.sum(below_BV, axis=1), logits_BV.shape[1] - 1)
    largest_B1 = jnp.take_along_axis(sorted_BV, last_B[:, None], axis=1)
    return jnp.where(distance_BV > largest_B1, MASK_VALUE, logits_BV)


# By option, in order of application; the last five are only used for sampling.
LOGITS_PROCESSORS: Mapping[str, LogitsProcessor] = {
    'repetition_penalty': apply_repetition_penalty,
    'presence_penalty': apply_presence_penalty,
    'frequency_penalty': apply_frequency_penalty,
    'no_repeat_ngram_size': block_repeated_ngrams,
    'min_length': enforce_min_length,
    'temperature': apply_temperature,
    'top_k': filter_top_k,
    'top_p': filter_top_p,
    'min_p': filter_min_p,
    'typical_p': filter_typical_p,
}


def make_sampling_plan(options: GenerationOptions) -> SamplingPlan:
    """Return the static part of the options."""
    active = {*options.select_active(LOGITS_PROCESSORS)}
    if options.min_new_tokens:
        active.add('min_length')
    if options.do_sample:
        active.add('temperature')  # so that changing it from or to 1 does not recompile
    max_top_k = 1 << (options.top_k - 1).bit_length() if options.top_k else 0
    processors = tuple(name for name in LOGITS_PROCESSORS if name in active)
    return SamplingPlan(processors, options.do_sample, max_top_k)


def collect_option_values(options: GenerationOptions, plan: SamplingPlan) -> dict[str, Any]:
    """Return the traced values of the active processors, by option."""
    values = {name: getattr(options, name) for name in plan.processors}
    return {
        name: jnp.int32(value) if isinstance(value, int) else jnp.float32(value)
        for name, value in values.items()
    }


def process_logits(
    logits_BV: jax.Array,
    context: SamplingContext,
    values: Mapping[str, jax.Array],
    plan: SamplingPlan,
) -> jax.Array:
    """Apply the active processors in order. float32 [B, V]."""
    for name in plan.processors:
        logits_BV = LOGITS_PROCESSORS[name](logits_BV, context, values[name], plan)
    return logits_BV
