"""Speculative decoding: a draft proposes tokens, one forward pass of the model verifies them.

A draft token is accepted with probability min(1, p/q), where p is the model's distribution and q
the draft's. At the first rejection a token is drawn from max(p - q, 0), normalized; if all are
accepted, one more is drawn from p. The output has exactly the model's distribution (Leviathan et
al. 2023, algorithm 1 and appendix A.1); with greedy decoding, where p is one-hot, exactly its
tokens. Each row accepts as many tokens as its own draws allow; both KV caches then drop the
rejected ones.

Dims: Q draft tokens, L = Q + 1 verified positions.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.inference import sampling
from gpt_jax.inference.decode import (
    RUNNING,
    CacheShape,
    InferenceModel,
    SequenceSettings,
    SequenceState,
    append_tokens,
    last_tokens,
    scatter_tokens,
)
from gpt_jax.inference.sampling import SamplingPlan, process_logits
from gpt_jax.model.kv_cache import KVCache

MAX_LOOKUP_NGRAM = 3  # longest n-gram to look up; shorter ones are used if it does not occur
MIN_PROBABILITY = 1e-30  # replaces 0, whose logarithm is infinite


def propose_by_lookup(
    tokens_BL: jax.Array, length_B: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Propose the tokens that followed an earlier occurrence of the last n-gram (Saxena 2023).

    The latest earlier occurrence of the longest matching n-gram is used. If it is fewer than
    `count` tokens back, the tokens since then are repeated periodically.

    Returns:
      drafts_BQ: int32 ids.
      found_B: bool; where it is False, the ids are meaningless.
    """
    positions_L = jnp.arange(tokens_BL.shape[1])

    def propose(tokens_L: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        matches_L = (positions_L >= 0) & (positions_L < length - 1)
        best = jnp.int32(-1)  # where the matching n-gram ends
        for back in range(MAX_LOOKUP_NGRAM):
            same_L = jnp.roll(tokens_L, back) == tokens_L[jnp.maximum(length - 1 - back, 0)]
            matches_L &= (positions_L >= back) & same_L
            latest = jnp.max(jnp.where(matches_L, positions_L, -1))
            best = jnp.where(jnp.any(matches_L), latest, best)
        period = jnp.maximum(length - 1 - best, 1)
        return tokens_L[jnp.maximum(best, 0) + 1 + jnp.arange(count) % period], best >= 0

    return jax.vmap(propose)(tokens_BL, length_B)


class SpeculativeState(struct.PyTreeNode):
    """The sequences, the caches of all their tokens but the last, and statistics over all rows.

    Attributes:
      draft_cache: cache of the draft model; None for lookup.
      proposed, accepted: int32, numbers of draft tokens.
      readings: int32, number of forward passes of the model.
    """

    sequences: SequenceState
    cache: KVCache
    draft_cache: KVCache | None
    proposed: jax.Array
    accepted: jax.Array
    readings: jax.Array


class DraftTokens(NamedTuple):
    """Proposed tokens.

    Attributes:
      tokens_BQ: int32 ids.
      q_BQV: the distributions from which they were drawn.
      found_B: bool; False for rows without a proposal.
    """

    tokens_BQ: jax.Array
    q_BQV: jax.Array
    found_B: jax.Array


def prefill_both(
    model: InferenceModel,
    draft_model: InferenceModel | None,
    params: Any,
    draft_params: Any,
    prefill_BL: jax.Array,
    count_B: jax.Array,
    sequences: SequenceState,
    *,
    cache_shape: CacheShape,
) -> SpeculativeState:
    """Prefill the caches of both models; see `decode.prefill`."""

    def fill_cache(model: InferenceModel, params: Any) -> KVCache:
        cache = model.init_cache(prefill_BL.shape[0], cache_shape.capacity, cache_shape.chunk)
        return model.prefill(params, prefill_BL, cache, count_B) if prefill_BL.shape[1] else cache

    return SpeculativeState(
        sequences=sequences,
        cache=fill_cache(model, params),
        draft_cache=None if draft_model is None else fill_cache(draft_model, draft_params),
        proposed=jnp.zeros((), jnp.int32),
        accepted=jnp.zeros((), jnp.int32),
        readings=jnp.zeros((), jnp.int32),
    )


def decode_speculatively(
    model: InferenceModel,
    draft_model: InferenceModel | None,
    params: Any,
    draft_params: Any,
    state: SpeculativeState,
    settings: SequenceSettings,
    values: Any,
    steps: jax.Array,
    *,
    plan: SamplingPlan,
    draft_tokens: int,
) -> SpeculativeState:
    """Run up to `steps` forward passes, each of which verifies `draft_tokens` proposed tokens."""

    def keep_going(carry: tuple[jax.Array, SpeculativeState]) -> jax.Array:
        step, state = carry
        return (step < steps) & jnp.any(state.sequences.status_B == RUNNING)

    def verify_once(
        carry: tuple[jax.Array, SpeculativeState],
    ) -> tuple[jax.Array, SpeculativeState]:
        step, state = carry
        sequences = state.sequences
        running_B = sequences.status_B == RUNNING
        # The token after the drafts must also fit, hence the 1.
        room_B = settings.max_length_B - sequences.length_B - 1
        count_B = jnp.where(running_B, jnp.minimum(draft_tokens, room_B), 0)
        if draft_model is None:
            drafts, draft_cache = _look_up(sequences, settings, draft_tokens), None
        else:
            drafts, draft_cache = _draft_with_model(
                draft_model, draft_params, state, settings, values, plan, draft_tokens, count_B
            )
        count_B = jnp.where(drafts.found_B, count_B, 0)
        input_BL = jnp.concatenate([last_tokens(sequences)[:, None], drafts.tokens_BQ], axis=1)
        z_BLV, cache = model.compute_logits(
            params, input_BL, state.cache, jnp.where(running_B, count_B + 1, 0)
        )
        p_BLV = _model_distributions(z_BLV, drafts, sequences, settings, values, plan)
        accepted_B, ids_BL = _verify_drafts(p_BLV, drafts, count_B, sequences, settings, plan)
        log_p_BLV = jax.nn.log_softmax(z_BLV)
        log_p_BL = jnp.take_along_axis(log_p_BLV, ids_BL[..., None], axis=-1)[..., 0]
        sequences = append_tokens(
            sequences, ids_BL, log_p_BL, jnp.where(running_B, accepted_B + 1, 0), settings
        )
        return step + 1, SpeculativeState(
            sequences=sequences,
            cache=_drop_rejected(cache, sequences),
            draft_cache=None if draft_cache is None else _drop_rejected(draft_cache, sequences),
            proposed=state.proposed + jnp.sum(count_B),
            accepted=state.accepted + jnp.sum(jnp.where(running_B, accepted_B, 0)),
            readings=state.readings + jnp.sum(running_B),
        )

    return jax.lax.while_loop(keep_going, verify_once, (jnp.int32(0), state))[1]


def _drop_rejected(cache: KVCache, sequences: SequenceState) -> KVCache:
    """Return the cache without the draft tokens that were not accepted."""
    return cache.replace(length_B=jnp.minimum(cache.length_B, sequences.length_B - 1))


def _make_keys(
    sequences: SequenceState, settings: SequenceSettings, use: int | jax.Array
) -> jax.Array:
    """Return one key per row for one use of randomness at the sequence's current length."""
    keys_B = sampling.make_step_keys(settings.seed_B, sequences.length_B - settings.prompt_length_B)
    return jax.vmap(lambda key: jax.random.fold_in(key, use))(keys_B)


def _look_up(sequences: SequenceState, settings: SequenceSettings, count: int) -> DraftTokens:
    tokens_BQ, found_B = propose_by_lookup(sequences.tokens_BL, sequences.length_B, count)
    q_BQV = jax.nn.one_hot(tokens_BQ, settings.is_end_V.shape[0])
    return DraftTokens(tokens_BQ, q_BQV, found_B)


def _draft_with_model(
    draft_model: InferenceModel,
    params: Any,
    state: SpeculativeState,
    settings: SequenceSettings,
    values: Any,
    plan: SamplingPlan,
    count: int,
    count_B: jax.Array,
) -> tuple[DraftTokens, KVCache]:
    """Generate draft tokens with the draft model, under the same options.

    The draft model also processes the last of them, so that its cache is as long as the model's,
    however many tokens are accepted.
    """
    sequences = state.sequences
    running_B = sequences.status_B == RUNNING

    def draft_one(carry: tuple[jax.Array, jax.Array, KVCache], number: jax.Array) -> Any:
        ids_B, tokens_BL, cache = carry
        reads_B = running_B & (number <= count_B)
        z_BLV, cache = draft_model.compute_logits(
            params, ids_B[:, None], cache, reads_B.astype(jnp.int32)
        )
        context = settings.make_context(sequences)._replace(
            tokens_BL=tokens_BL, length_B=sequences.length_B + number
        )
        logits_BV = process_logits(z_BLV[:, 0], context, values, plan)
        ids_B = sampling.select_tokens(
            logits_BV, _make_keys(sequences, settings, number), plan.do_sample
        )
        tokens_BL = scatter_tokens(
            tokens_BL, context.length_B, ids_B[:, None], reads_B.astype(jnp.int32)
        )
        q_BV = sampling.compute_probabilities(logits_BV, plan.do_sample)
        return (ids_B, tokens_BL, cache), (ids_B, q_BV)

    start: Any = (last_tokens(sequences), sequences.tokens_BL, state.draft_cache)
    (_, _, cache), (ids_QB, q_QBV) = jax.lax.scan(draft_one, start, jnp.arange(count + 1))
    drafts = DraftTokens(
        tokens_BQ=jnp.swapaxes(ids_QB[:count], 0, 1),
        q_BQV=jnp.swapaxes(q_QBV[:count], 0, 1),
        found_B=jnp.ones_like(running_B),
    )
    return drafts, cache


def _model_distributions(
    z_BLV: jax.Array,
    drafts: DraftTokens,
    sequences: SequenceState,
    settings: SequenceSettings,
    values: Any,
    plan: SamplingPlan,
) -> jax.Array:
    """Return the model's distribution after 0 to Q draft tokens. [B, L, V]."""
    count = drafts.tokens_BQ.shape[1]
    all_B = jnp.full_like(sequences.length_B, count)
    tokens_BL = scatter_tokens(sequences.tokens_BL, sequences.length_B, drafts.tokens_BQ, all_B)

    def distribution(number: jax.Array, z_BV: jax.Array) -> jax.Array:
        context = settings.make_context(sequences)._replace(
            tokens_BL=tokens_BL, length_B=sequences.length_B + number
        )
        logits_BV = process_logits(z_BV, context, values, plan)
        return sampling.compute_probabilities(logits_BV, plan.do_sample)

    return jax.vmap(distribution, in_axes=(0, 1), out_axes=1)(jnp.arange(count + 1), z_BLV)


def _verify_drafts(
    p_BLV: jax.Array,
    drafts: DraftTokens,
    count_B: jax.Array,
    sequences: SequenceState,
    settings: SequenceSettings,
    plan: SamplingPlan,
) -> tuple[jax.Array, jax.Array]:
    """Accept or reject the draft tokens and draw the token after the accepted ones.

    Returns:
      The number of accepted tokens per row, and the ids with the drawn one after the accepted ones.
    """
    count = drafts.tokens_BQ.shape[1]

    def select_drafts(a_BQV: jax.Array) -> jax.Array:
        return jnp.take_along_axis(a_BQV, drafts.tokens_BQ[..., None], axis=-1)[..., 0]

    p_BQ, q_BQ = select_drafts(p_BLV[:, :count]), select_drafts(drafts.q_BQV)
    u_BQ = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(
        _make_keys(sequences, settings, count + 1)
    )
    accepted_BQ = (u_BQ * q_BQ < p_BQ) & (jnp.arange(count) < count_B[:, None])
    accepted_B = jnp.sum(jnp.cumprod(accepted_BQ.astype(jnp.int32), axis=1), axis=1)
    p_BV = jnp.take_along_axis(p_BLV, accepted_B[:, None, None], axis=1)[:, 0]
    rejected_B = accepted_B < count_B
    first_rejected_B = jnp.minimum(accepted_B, count - 1)
    q_BV = jnp.take_along_axis(drafts.q_BQV, first_rejected_B[:, None, None], axis=1)[:, 0]
    rest_BV = jnp.maximum(p_BV - jnp.where(rejected_B[:, None], q_BV, 0), 0)
    # If no mass is left, p and q are equal up to rounding.
    rest_BV = jnp.where(jnp.sum(rest_BV, axis=1, keepdims=True) > 0, rest_BV, p_BV)
    logits_BV = jnp.log(jnp.maximum(rest_BV, MIN_PROBABILITY))
    final_B = sampling.select_tokens(
        logits_BV, _make_keys(sequences, settings, count + 2), plan.do_sample
    )
    ids_BL = jnp.concatenate([drafts.tokens_BQ, jnp.zeros_like(final_B)[:, None]], axis=1)
    is_final_BL = jnp.arange(count + 1) == accepted_B[:, None]
    return accepted_B, jnp.where(is_final_BL, final_B[:, None], ids_BL)


class CompiledSpeculative(NamedTuple):
    """The jitted functions of two models: `prefill_both` and `decode_speculatively`."""

    prefill: Any
    run: Any


def compile_speculative(
    model: InferenceModel, draft_model: InferenceModel | None
) -> CompiledSpeculative:
    """Jit the functions for a model and its draft model; the state is donated."""
    return CompiledSpeculative(
        prefill=jax.jit(
            functools.partial(prefill_both, model, draft_model),
            static_argnames='cache_shape',
            donate_argnames='sequences',
        ),
        run=jax.jit(
            functools.partial(decode_speculatively, model, draft_model),
            static_argnames=('plan', 'draft_tokens'),
            donate_argnames='state',
        ),
    )
