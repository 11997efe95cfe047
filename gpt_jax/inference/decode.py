"""Token-by-token generation with a KV cache: prefill, on-device decoding loop, sliding window.

The cache and the sequences have static shapes and are donated from call to call. The prefill
processes all but the last token of each prompt and computes no logits; the first decoding step
processes the last one. The number of steps per call is traced, so that generation with and without
streaming runs the same compiled program and gives the same numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.core.config import ModelConfig
from gpt_jax.inference import sampling
from gpt_jax.inference.sampling import SamplingContext, SamplingPlan, process_logits
from gpt_jax.model import kv_cache
from gpt_jax.model import loss as losses
from gpt_jax.model.gpt import GPT
from gpt_jax.model.kv_cache import KVCache
from gpt_jax.parallel.sharding import ShardingPolicy

# The status of a sequence: running, or ended by an end id, by its maximum length or by the host.
RUNNING, ENDED, FULL, HALTED = range(4)


class InferenceModel(NamedTuple):
    """A model with a KV cache; its params are a tree per layer.

    Attributes:
      config: the model's config.
      policy: sharding of activations and weights.
    """

    config: ModelConfig
    policy: ShardingPolicy

    def compute_logits(
        self, params: Any, tokens_BL: jax.Array, cache: KVCache, count_B: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        """Process the first `count_B` tokens of each row, which follow those in the cache.

        Returns:
          The logits after each token, float32 [B, L, V] without the padding ids of the
          vocabulary, and the new cache.
        """
        features = self._apply(params, tokens_BL, cache, count_B, prefill=False)
        z_BLV = losses.compute_decode_logits(features.x_BLD, features.w_VD, self.config)
        return z_BLV[..., : self.config.vocab_size], features.cache

    def prefill(
        self, params: Any, tokens_BL: jax.Array, cache: KVCache, count_B: jax.Array
    ) -> KVCache:
        """Fill an empty cache with the first `count_B` tokens of each row."""
        return self._apply(params, tokens_BL, cache, count_B, prefill=True).cache

    def init_cache(self, batch: int, capacity: int, chunk: int) -> KVCache:
        """Return an empty cache; see kv_cache.init_cache."""
        cache = kv_cache.init_cache(self.config, batch, capacity, chunk)
        layers = jax.tree.map(lambda a: self.policy.activation(a, 'BGMK'), cache.layers)
        return cache.replace(layers=layers)

    def _apply(
        self, params: Any, tokens_BL: jax.Array, cache: KVCache, count_B: jax.Array, prefill: bool
    ) -> Any:
        model = GPT(self.config, self.policy, train=False)
        return model.apply(
            {'params': params}, tokens_BL, cache=cache, count_B=count_B, prefill=prefill
        )


class SequenceState(struct.PyTreeNode):
    """Sequences being generated, on the host or on the devices.

    Attributes:
      tokens_BL: int32, ids of prompts and generated tokens; the first `length_B` of a row are
        valid.
      log_p_BL: float32, log-probability of each generated id under the model before any logits
        processor, in nats.
      length_B: int32.
      status_B: int32, RUNNING, ENDED, FULL or HALTED.
    """

    tokens_BL: Any
    log_p_BL: Any
    length_B: Any
    status_B: Any


class DecodeState(struct.PyTreeNode):
    """The sequences, and the KV cache of all their tokens but the last."""

    sequences: SequenceState
    cache: KVCache


class SequenceSettings(NamedTuple):
    """Per-sequence constants of a batch, on the host or on the devices.

    Attributes:
      prompt_length_B: int32, number of tokens in each prompt.
      max_length_B: int32, length at which a sequence is FULL.
      min_length_B: int32, length below which it must not end.
      seed_B: uint32.
      is_end_V: bool, True for the ids that end a sequence.
    """

    prompt_length_B: Any
    max_length_B: Any
    min_length_B: Any
    seed_B: Any
    is_end_V: Any

    def make_context(self, sequences: SequenceState) -> SamplingContext:
        """Return the context that the logits processors take."""
        return SamplingContext(
            sequences.tokens_BL,
            sequences.length_B,
            self.prompt_length_B,
            self.min_length_B,
            self.is_end_V,
        )


class CacheShape(NamedTuple):
    """Static sizes of a KV cache.

    Attributes:
      capacity: tokens per sequence.
      chunk: maximum number of tokens that one decoding step adds, and may then drop.
    """

    capacity: int
    chunk: int


def prefill(
    model: InferenceModel,
    params: Any,
    prefill_BL: jax.Array,
    count_B: jax.Array,
    sequences: SequenceState,
    *,
    cache_shape: CacheShape,
) -> DecodeState:
    """Return the state before the first new token.

    Args:
      prefill_BL: the tokens before the last one of each sequence; the first `count_B` are valid.
    """
    cache = model.init_cache(prefill_BL.shape[0], cache_shape.capacity, cache_shape.chunk)
    if prefill_BL.shape[1]:
        cache = model.prefill(params, prefill_BL, cache, count_B)
    return DecodeState(sequences, cache)


def decode_tokens(
    model: InferenceModel,
    params: Any,
    state: DecodeState,
    settings: SequenceSettings,
    values: Any,
    steps: jax.Array,
    *,
    plan: SamplingPlan,
) -> DecodeState:
    """Generate up to `steps` more tokens for every running sequence.

    Stops early when no sequence is running or the context of one is full.
    """

    def keep_going(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
        step, state = carry
        running_B = state.sequences.status_B == RUNNING
        full_B = running_B & (state.cache.length_B >= model.config.context)
        return (step < steps) & jnp.any(running_B) & ~jnp.any(full_B)

    def decode_one(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
        step, state = carry
        sequences = state.sequences
        reads_B = (sequences.status_B == RUNNING).astype(jnp.int32)
        z_BLV, cache = model.compute_logits(
            params, last_tokens(sequences)[:, None], state.cache, reads_B
        )
        z_BV = z_BLV[:, 0]
        logits_BV = process_logits(z_BV, settings.make_context(sequences), values, plan)
        keys_B = sampling.make_step_keys(
            settings.seed_B, sequences.length_B - settings.prompt_length_B
        )
        ids_B = sampling.select_tokens(logits_BV, keys_B, plan.do_sample)
        log_p_B = sampling.compute_log_probability(z_BV, ids_B)
        sequences = append_tokens(sequences, ids_B[:, None], log_p_B[:, None], reads_B, settings)
        return step + 1, DecodeState(sequences, cache)

    return jax.lax.while_loop(keep_going, decode_one, (jnp.int32(0), state))[1]


def last_tokens(sequences: SequenceState) -> jax.Array:
    """Return the last id of each sequence. [B]."""
    positions_BL = sequences.length_B[:, None] - 1
    return jnp.take_along_axis(sequences.tokens_BL, positions_BL, axis=1)[:, 0]


def append_tokens(
    sequences: SequenceState,
    ids_BL: jax.Array,
    log_p_BL: jax.Array,
    count_B: jax.Array,
    settings: SequenceSettings,
) -> SequenceState:
    """Append the first `count_B` ids of each row, up to and including the first end id.

    The status becomes ENDED at an end id and FULL at the maximum length; rows with a count of 0
    keep theirs.
    """
    ends_BL = settings.is_end_V[ids_BL] & (jnp.arange(ids_BL.shape[1]) < count_B[:, None])
    ended_B = jnp.any(ends_BL, axis=1)
    count_B = jnp.where(ended_B, jnp.argmax(ends_BL, axis=1) + 1, count_B)
    length_B = sequences.length_B + count_B
    full_B = (count_B > 0) & (length_B >= settings.max_length_B)
    status_B = jnp.where(ended_B, ENDED, jnp.where(full_B, FULL, sequences.status_B))
    start_B = sequences.length_B
    return SequenceState(
        tokens_BL=scatter_tokens(sequences.tokens_BL, start_B, ids_BL, count_B),
        log_p_BL=scatter_tokens(sequences.log_p_BL, start_B, log_p_BL, count_B),
        length_B=length_B,
        status_B=status_B,
    )


def scatter_tokens(
    target_BL: jax.Array, start_B: jax.Array, new_BL: jax.Array, count_B: jax.Array
) -> jax.Array:
    """Write the first `count_B` entries of each row of `new_BL` into `target_BL` at `start_B`."""
    offsets_L = jnp.arange(new_BL.shape[1])
    # Entries that are not written get a position out of bounds, which mode='drop' ignores.
    positions_BL = jnp.where(
        offsets_L < count_B[:, None], start_B[:, None] + offsets_L, target_BL.shape[1]
    )
    return jax.vmap(lambda target, positions, new: target.at[positions].set(new, mode='drop'))(
        target_BL, positions_BL, new_BL
    )


def slide_window(
    model: InferenceModel, params: Any, state: DecodeState, *, cache_shape: CacheShape
) -> DecodeState:
    """Refill the cache of full rows with the last half of their context, from position 0."""
    half, sequences = model.config.context // 2, state.sequences
    batch = sequences.length_B.shape[0]
    full_B = state.cache.length_B >= model.config.context
    positions_BL = jnp.maximum(sequences.length_B[:, None] - 1 - half + jnp.arange(half), 0)
    reread_BL = jnp.take_along_axis(sequences.tokens_BL, positions_BL, axis=1)
    new_cache = model.prefill(
        params,
        reread_BL,
        model.init_cache(batch, cache_shape.capacity, cache_shape.chunk),
        jnp.full(batch, half, jnp.int32),
    )

    def select(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(full_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return state.replace(cache=jax.tree.map(select, new_cache, state.cache))


class CompiledDecode(NamedTuple):
    """The jitted functions of one model: `prefill`, `decode_tokens` and `slide_window`."""

    prefill: Any
    run: Any
    slide: Any


def compile_decode(model: InferenceModel) -> CompiledDecode:
    """Jit the functions for a model; the state is donated.

    Each is compiled once per static shape; batching.py rounds sizes so that there are few shapes.
    """
    return CompiledDecode(
        prefill=jax.jit(
            functools.partial(prefill, model),
            static_argnames='cache_shape',
            donate_argnames='sequences',
        ),
        run=jax.jit(
            functools.partial(decode_tokens, model), static_argnames='plan', donate_argnames='state'
        ),
        slide=jax.jit(
            functools.partial(slide_window, model),
            static_argnames='cache_shape',
            donate_argnames='state',
        ),
    )
