"""Beam search on the device, with the rules of transformers, so that it finds the same texts.

Each prompt has J beams. A step ranks all continuations of all beams. The best J that do not end
become the next beams; those among the best J that do end become finished texts, ranked by
log-probability / length^length_penalty, with end ids included in the length. A prompt is done when
no beam can still beat its finished texts, as estimated according to `early_stopping`: False scores
the best beam at its current length, 'never' at the most favorable length, and True stops at J
finished texts.

Dims: B prompts, J beams, Q candidate continuations, L positions, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gpt_jax.inference.decode import (
    ENDED,
    FULL,
    RUNNING,
    CacheShape,
    InferenceModel,
    SequenceSettings,
    SequenceState,
)
from gpt_jax.inference.sampling import SamplingContext, SamplingPlan, process_logits
from gpt_jax.model import kv_cache
from gpt_jax.model.kv_cache import KVCache

EXCLUDED_SCORE = -1e9  # added to the log-probability of a beam that must not be chosen


class Beams(struct.PyTreeNode):
    """Sequences of equal length, best first.

    Attributes:
      tokens_BJL: int32 ids.
      log_p_BJL: float32, log-probability of each id under the model, before logits processors.
      score_BJ: float32, by which the beams are ranked.
    """

    tokens_BJL: jax.Array
    log_p_BJL: jax.Array
    score_BJ: jax.Array

    def gather(self, indices_BQ: jax.Array) -> 'Beams':
        """Return the beams with these indices."""
        return jax.tree.map(lambda a: _gather_beams(a, indices_BQ), self)


class FinishedBeams(struct.PyTreeNode):
    """Finished sequences ordered by final score, best first.

    Attributes:
      beams: the sequences.
      length_BJ: int32, number of tokens in each.
      valid_BJ: bool; False for entries that are still empty.
    """

    beams: Beams
    length_BJ: jax.Array
    valid_BJ: jax.Array


class BeamState(struct.PyTreeNode):
    """The state of the search.

    Attributes:
      running: beams, ranked by their summed log-probability.
      finished: the finished sequences.
      length_B: int32, number of tokens in each running beam.
      improvable_B: bool; a beam may still beat a finished sequence.
      active_B: bool; the search continues.
      cache: KV cache with B x J rows.
    """

    running: Beams
    finished: FinishedBeams
    length_B: jax.Array
    improvable_B: jax.Array
    active_B: jax.Array
    cache: KVCache


def start_beams(
    model: InferenceModel,
    params: Any,
    prefill_BL: jax.Array,
    count_B: jax.Array,
    sequences: SequenceState,
    *,
    cache_shape: CacheShape,
    beams: int,
) -> BeamState:
    """Process each prompt once and start all its beams from it.

    Since the beams are identical at first, all but one start with a score that excludes them.
    """
    batch = prefill_BL.shape[0]
    cache = model.init_cache(batch, cache_shape.capacity, cache_shape.chunk)
    if prefill_BL.shape[1]:
        cache = model.prefill(params, prefill_BL, cache, count_B)
    tokens_BJL = jnp.repeat(sequences.tokens_BL[:, None], beams, axis=1)
    score_BJ = jnp.tile(jnp.where(jnp.arange(beams) == 0, 0.0, EXCLUDED_SCORE), (batch, 1))
    running = Beams(tokens_BJL, jnp.zeros(tokens_BJL.shape, jnp.float32), score_BJ)
    return BeamState(
        running=running,
        finished=FinishedBeams(
            beams=running.replace(score_BJ=jnp.full_like(score_BJ, -jnp.inf)),
            length_BJ=jnp.zeros(score_BJ.shape, jnp.int32),
            valid_BJ=jnp.zeros(score_BJ.shape, bool),
        ),
        length_B=sequences.length_B,
        improvable_B=jnp.ones(batch, bool),
        active_B=sequences.status_B == RUNNING,
        cache=kv_cache.gather_rows(cache, jnp.repeat(jnp.arange(batch), beams)),
    )


def search_beams(
    model: InferenceModel,
    params: Any,
    state: BeamState,
    settings: SequenceSettings,
    values: Any,
    length_penalty: jax.Array,
    *,
    plan: SamplingPlan,
    end_ids: int,
    early_stopping: bool | str,
) -> BeamState:
    """Run the search to its end.

    Args:
      values: option values of the logits processors.
      end_ids: number of ids that end a sequence.
      early_stopping: False, True or 'never'; see the module docstring.
    """

    def search_step(state: BeamState) -> BeamState:
        batch, beams = state.running.score_BJ.shape
        z_BJV, cache = _compute_logits(model, params, state)
        log_p_BJV = jax.nn.log_softmax(z_BJV)
        ranked_BJV = (
            _process_beams(log_p_BJV, state, settings, values, plan)
            + state.running.score_BJ[..., None]
        )
        vocab_size = ranked_BJV.shape[-1]
        count = min(max(2, 1 + end_ids) * beams, beams * vocab_size)
        score_BQ, flat_BQ = jax.lax.top_k(ranked_BJV.reshape(batch, -1), count)
        parent_BQ, ids_BQ = flat_BQ // vocab_size, flat_BQ % vocab_size
        log_p_BQ = jnp.take_along_axis(log_p_BJV.reshape(batch, -1), flat_BQ, axis=1)
        candidates = _extend_beams(state, parent_BQ, ids_BQ, log_p_BQ, score_BQ)
        full_B = state.length_B + 1 >= settings.max_length_B
        ends_BQ = settings.is_end_V[ids_BQ] | full_B[:, None]
        running_score_BQ = score_BQ + ends_BQ * EXCLUDED_SCORE
        _, next_BJ = jax.lax.top_k(running_score_BQ, beams)
        new = state.replace(
            running=candidates.gather(next_BJ).replace(
                score_BJ=jnp.take_along_axis(running_score_BQ, next_BJ, axis=1)
            ),
            finished=_update_finished(
                state, candidates, ends_BQ, settings, length_penalty, early_stopping
            ),
            length_B=state.length_B + 1,
        )
        new = _update_activity(new, ends_BQ, settings, length_penalty, early_stopping)
        new = jax.tree.map(  # prompts whose search is done keep their state
            lambda a, b: jnp.where(state.active_B.reshape(-1, *[1] * (a.ndim - 1)), a, b),
            new.replace(cache=None),
            state.replace(cache=None),
        )
        parent_BJ = jnp.where(
            state.active_B[:, None], _gather_beams(parent_BQ, next_BJ), jnp.arange(beams)
        )
        rows = (parent_BJ + beams * jnp.arange(batch)[:, None]).reshape(-1)
        return new.replace(cache=kv_cache.gather_rows(cache, rows))

    return jax.lax.while_loop(lambda state: jnp.any(state.active_B), search_step, state)


def _gather_beams(a: jax.Array, indices_BQ: jax.Array) -> jax.Array:
    indices = indices_BQ.reshape(*indices_BQ.shape, *[1] * (a.ndim - 2))
    return jnp.take_along_axis(a, indices, axis=1)


def _compute_logits(
    model: InferenceModel, params: Any, state: BeamState
) -> tuple[jax.Array, KVCache]:
    """Return the model's logits after each beam, float32 [B, J, V], and the new cache."""
    batch, beams, length = state.running.tokens_BJL.shape
    tokens_BL = state.running.tokens_BJL.reshape(-1, length)
    length_B = jnp.repeat(state.length_B, beams)
    ids_BL = jnp.take_along_axis(tokens_BL, length_B[:, None] - 1, axis=1)
    active_B = jnp.repeat(state.active_B, beams)
    z_BLV, cache = model.compute_logits(params, ids_BL, state.cache, active_B.astype(jnp.int32))
    return z_BLV[:, 0].reshape(batch, beams, -1), cache


def _process_beams(
    log_p_BJV: jax.Array,
    state: BeamState,
    settings: SequenceSettings,
    values: Any,
    plan: SamplingPlan,
) -> jax.Array:
    """Apply the logits processors to all beams. [B, J, V]."""
    batch, beams, length = state.running.tokens_BJL.shape
    repeat_beams = lambda a_B: jnp.repeat(a_B, beams)
    context = SamplingContext(
        state.running.tokens_BJL.reshape(-1, length),
        repeat_beams(state.length_B),
        repeat_beams(settings.prompt_length_B),
        repeat_beams(settings.min_length_B),
        settings.is_end_V,
    )
    flat_BV = process_logits(log_p_BJV.reshape(batch * beams, -1), context, values, plan)
    return flat_BV.reshape(log_p_BJV.shape)


def _extend_beams(
    state: BeamState,
    parent_BQ: jax.Array,
    ids_BQ: jax.Array,
    log_p_BQ: jax.Array,
    score_BQ: jax.Array,
) -> Beams:
    """Return the full sequence of each candidate: its parent beam with one more id."""
    here_BL = jnp.arange(state.running.tokens_BJL.shape[2]) == state.length_B[:, None]

    def append(beams_BJL: jax.Array, new_BQ: jax.Array) -> jax.Array:
        parents_BQL = _gather_beams(beams_BJL, parent_BQ)
        return jnp.where(here_BL[:, None], new_BQ[..., None], parents_BQL)

    return Beams(
        tokens_BJL=append(state.running.tokens_BJL, ids_BQ),
        log_p_BJL=append(state.running.log_p_BJL, log_p_BQ),
        score_BJ=score_BQ,
    )


def _update_finished(
    state: BeamState,
    candidates: Beams,
    ends_BQ: jax.Array,
    settings: SequenceSettings,
    length_penalty: jax.Array,
    early_stopping: bool | str,
) -> FinishedBeams:
    """Return the best of the sequences that had finished and those that finish in this step."""
    before, beams = state.finished, state.running.score_BJ.shape[1]
    finishes_BQ = ends_BQ & (jnp.arange(ends_BQ.shape[1]) < beams)
    generated_B = (state.length_B + 1 - settings.prompt_length_B).astype(jnp.float32)
    score_BQ = candidates.score_BJ / (generated_B**length_penalty)[:, None]
    closed_B = ~state.improvable_B
    if early_stopping is True:
        closed_B |= jnp.all(before.valid_BJ, axis=1)
    # A negative length_penalty can make any score arbitrarily low; only -inf is below all of them.
    score_BQ = jnp.where(closed_B[:, None] | ~finishes_BQ, -jnp.inf, score_BQ)
    length_BQ = jnp.broadcast_to(state.length_B[:, None] + 1, finishes_BQ.shape)
    merged = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis=1),
        before,
        FinishedBeams(candidates.replace(score_BJ=score_BQ), length_BQ, finishes_BQ),
    )
    _, best_BJ = jax.lax.top_k(merged.beams.score_BJ, beams)
    return jax.tree.map(lambda a: _gather_beams(a, best_BJ), merged)


def _update_activity(
    new: BeamState,
    ends_BQ: jax.Array,
    settings: SequenceSettings,
    length_penalty: jax.Array,
    early_stopping: bool | str,
) -> BeamState:
    """Decide for each prompt whether its search continues."""
    generated_B = new.length_B - settings.prompt_length_B
    if early_stopping == 'never':
        longest_B = settings.max_length_B - settings.prompt_length_B
        generated_B = jnp.where(length_penalty > 0, longest_B, generated_B)
    best_B = new.running.score_BJ[:, 0] / generated_B.astype(jnp.float32) ** length_penalty
    finished = new.finished
    worst_B = jnp.where(
        jnp.all(finished.valid_BJ, axis=1), jnp.min(finished.beams.score_BJ, axis=1), -jnp.inf
    )
    has_beam_B = new.running.score_BJ[:, 0] > EXCLUDED_SCORE / 2
    improvable_B = new.improvable_B & (best_B > worst_B) & has_beam_B
    active_B = improvable_B & ~jnp.all(ends_BQ, axis=1)
    if early_stopping is True:
        active_B &= ~jnp.all(finished.valid_BJ, axis=1)
    return new.replace(improvable_B=improvable_B, active_B=active_B)


def collect_best(finished: Any, count: int, is_end_V: np.ndarray) -> SequenceState:
    """Return the best `count` sequences of each prompt as rows, grouped by prompt.

    Args:
      finished: FinishedBeams on the host.
    """
    beams, length_BJ = finished.beams, finished.length_BJ[:, :count]
    tokens_BJL, log_p_BJL = beams.tokens_BJL[:, :count], beams.log_p_BJL[:, :count]
    final_BJ: Any = np.take_along_axis(tokens_BJL, length_BJ[..., None] - 1, axis=2)[..., 0]
    status_BJ = np.where(is_end_V[final_BJ], ENDED, FULL)
    arrays = tokens_BJL, log_p_BJL, length_BJ, status_BJ
    return SequenceState(*(a_BJ.reshape(-1, *a_BJ.shape[2:]) for a_BJ in arrays))


class CompiledBeamSearch(NamedTuple):
    """The jitted functions of one model: `start_beams` and `search_beams`."""

    prefill: Any
    run: Any


def compile_beam_search(model: InferenceModel) -> CompiledBeamSearch:
    """Jit the functions for a model; the state is donated."""
    return CompiledBeamSearch(
        prefill=jax.jit(
            functools.partial(start_beams, model), static_argnames=('cache_shape', 'beams')
        ),
        run=jax.jit(
            functools.partial(search_beams, model),
            static_argnames=('plan', 'end_ids', 'early_stopping'),
            donate_argnames='state',
        ),
    )
