"""Which texts are the likeliest? Beam search on the device, with transformers' rules, so that it finds the same texts.

Each prompt has J beams. A step ranks all continuations of all beams; the best that go on are the next beams, and those
that end among the J best become finished texts, ranked by log-probability / length^length_penalty, ends counted in the
length. A prompt is done when no beam can come to beat its finished texts, as `early_stopping` reckons: False takes the
best beam's score at its present length, 'never' at the most favourable one, True stops at J finished texts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gpt_jax.generate.decode import ENDED, FULL, RUNNING, Fixed, Model, Sizes, Texts
from gpt_jax.generate.processors import Plan, Seen, process
from gpt_jax.model import cache as caches
from gpt_jax.model.cache import Cache

NEVER = -1e9  # taken from the summed log-probability of a beam that is not there


class Beams(struct.PyTreeNode):
    """Texts of equal length, the best first. tokens_BJL: ids. log_p_BJL: of each id under the model itself. score_BJ:
    what they are ranked by."""

    tokens_BJL: jax.Array
    log_p_BJL: jax.Array
    score_BJ: jax.Array

    def rows(self, indices_BQ: jax.Array) -> 'Beams':
        """The beams of these numbers."""
        return jax.tree.map(lambda a: _taken(a, indices_BQ), self)


class Finished(struct.PyTreeNode):
    """beams: finished texts by their final score, the best first. length_BJ: their tokens. there_BJ: whether they are
    texts at all."""

    beams: Beams
    length_BJ: jax.Array
    there_BJ: jax.Array


class State(struct.PyTreeNode):
    """running: beams, by their summed log-probability. length_B: tokens of each. hopeful_B: a beam may yet come to beat
    a finished text. open_B: the search goes on."""

    running: Beams
    finished: Finished
    length_B: jax.Array
    hopeful_B: jax.Array
    open_B: jax.Array
    cache: Cache


def begin(
    model: Model, params: Any, read_BL: jax.Array, count_B: jax.Array, texts: Texts, *, sizes: Sizes, beams: int
) -> State:
    """Every prompt is read once; all its beams start from it, and all but the first with a score that none can have."""
    batch = read_BL.shape[0]
    cache = model.empty(batch, sizes.room, sizes.chunk)
    if read_BL.shape[1]:
        cache = model.read(params, read_BL, cache, count_B)
    tokens_BJL = jnp.repeat(texts.tokens_BL[:, None], beams, axis=1)
    score_BJ = jnp.tile(jnp.where(jnp.arange(beams) == 0, 0.0, NEVER), (batch, 1))
    running = Beams(tokens_BJL, jnp.zeros(tokens_BJL.shape, jnp.float32), score_BJ)
    return State(
        running=running,
        finished=Finished(
            beams=running.replace(score_BJ=jnp.full_like(score_BJ, -jnp.inf)),
            length_BJ=jnp.zeros(score_BJ.shape, jnp.int32),
            there_BJ=jnp.zeros(score_BJ.shape, bool),
        ),
        length_B=texts.length_B,
        hopeful_B=jnp.ones(batch, bool),
        open_B=texts.reason_B == RUNNING,
        cache=caches.rows(cache, jnp.repeat(jnp.arange(batch), beams)),
    )


def run(
    model: Model, params: Any, state: State, fixed: Fixed, values: Any, length_penalty: jax.Array, *, plan: Plan,
    ends: int, early_stopping: bool | str,
) -> State:  # fmt: skip
    """Searches to the end. `ends`: how many ids end a text."""

    def body(state: State) -> State:
        batch, beams = state.running.score_BJ.shape
        z_BJV, cache = _scores(model, params, state)
        log_p_BJV = jax.nn.log_softmax(z_BJV)
        ranked_BJV = _processed(log_p_BJV, state, fixed, values, plan) + state.running.score_BJ[..., None]
        vocabulary = ranked_BJV.shape[-1]
        wanted = min(max(2, 1 + ends) * beams, beams * vocabulary)
        score_BQ, found_BQ = jax.lax.top_k(ranked_BJV.reshape(batch, -1), wanted)
        from_BQ, ids_BQ = found_BQ // vocabulary, found_BQ % vocabulary
        of_each = log_p_BJV.reshape(batch, -1)
        candidates = _extended(state, from_BQ, ids_BQ, jnp.take_along_axis(of_each, found_BQ, axis=1), score_BQ)
        hits_BQ = fixed.ends_V[ids_BQ] | (state.length_B + 1 >= fixed.limit_B)[:, None]
        _, next_BJ = jax.lax.top_k(score_BQ + hits_BQ * NEVER, beams)
        new = state.replace(
            running=candidates.rows(next_BJ).replace(
                score_BJ=jnp.take_along_axis(score_BQ + hits_BQ * NEVER, next_BJ, axis=1)
            ),
            finished=_finished(state, candidates, hits_BQ, fixed, length_penalty, early_stopping),
            length_B=state.length_B + 1,
        )
        new = _judged(new, hits_BQ, fixed, length_penalty, early_stopping)
        new = jax.tree.map(  # a search that is done rests
            lambda a, b: jnp.where(state.open_B.reshape(-1, *[1] * (a.ndim - 1)), a, b),
            new.replace(cache=None), state.replace(cache=None),
        )  # fmt: skip
        from_BJ = jnp.where(state.open_B[:, None], _taken(from_BQ, next_BJ), jnp.arange(beams))
        return new.replace(cache=caches.rows(cache, (from_BJ + beams * jnp.arange(batch)[:, None]).reshape(-1)))

    return jax.lax.while_loop(lambda state: jnp.any(state.open_B), body, state)


def _taken(a: jax.Array, indices_BQ: jax.Array) -> jax.Array:
    return jnp.take_along_axis(a, indices_BQ.reshape(*indices_BQ.shape, *[1] * (a.ndim - 2)), axis=1)


def _scores(model: Model, params: Any, state: State) -> tuple[jax.Array, Cache]:
    """The model's scores after each beam. [B, J, V]."""
    batch, beams, length = state.running.tokens_BJL.shape
    tokens_BL = state.running.tokens_BJL.reshape(-1, length)
    length_B = jnp.repeat(state.length_B, beams)
    ids_BL = jnp.take_along_axis(tokens_BL, length_B[:, None] - 1, axis=1)
    open_B = jnp.repeat(state.open_B, beams)
    z_BLV, cache = model.scores(params, ids_BL, state.cache, open_B.astype(jnp.int32))
    return z_BLV[:, 0].reshape(batch, beams, -1), cache


def _processed(log_p_BJV: jax.Array, state: State, fixed: Fixed, values: Any, plan: Plan) -> jax.Array:
    batch, beams, length = state.running.tokens_BJL.shape
    each = lambda a_B: jnp.repeat(a_B, beams)  # noqa: E731
    seen = Seen(
        state.running.tokens_BJL.reshape(-1, length), each(state.length_B), each(fixed.prompt_B), each(fixed.minimum_B),
        fixed.ends_V,
    )  # fmt: skip
    return process(log_p_BJV.reshape(batch * beams, -1), seen, values, plan).reshape(log_p_BJV.shape)


def _extended(state: State, from_BQ: jax.Array, ids_BQ: jax.Array, log_p_BQ: jax.Array, score_BQ: jax.Array) -> Beams:
    """Each candidate's whole text."""
    here_BL = jnp.arange(state.running.tokens_BJL.shape[2]) == state.length_B[:, None]
    return Beams(
        tokens_BJL=jnp.where(here_BL[:, None], ids_BQ[..., None], _taken(state.running.tokens_BJL, from_BQ)),
        log_p_BJL=jnp.where(here_BL[:, None], log_p_BQ[..., None], _taken(state.running.log_p_BJL, from_BQ)),
        score_BJ=score_BQ,
    )


def _finished(
    state: State, candidates: Beams, hits_BQ: jax.Array, fixed: Fixed, length_penalty: jax.Array,
    early_stopping: bool | str,
) -> Finished:  # fmt: skip
    """The best of the texts that were finished and those that finish now."""
    before, beams = state.finished, state.running.score_BJ.shape[1]
    now_BQ = hits_BQ & (jnp.arange(hits_BQ.shape[1]) < beams)
    written_B = (state.length_B + 1 - fixed.prompt_B).astype(jnp.float32)
    score_BQ = candidates.score_BJ / (written_B**length_penalty)[:, None]
    closed_B = ~state.hopeful_B
    if early_stopping is True:
        closed_B |= jnp.all(before.there_BJ, axis=1)
    # A negative length_penalty makes scores of real texts as low as one pleases, so only -inf is below them all.
    score_BQ = jnp.where(closed_B[:, None] | ~now_BQ, -jnp.inf, score_BQ)
    length_BQ = jnp.broadcast_to(state.length_B[:, None] + 1, now_BQ.shape)
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis=1),
        before, Finished(candidates.replace(score_BJ=score_BQ), length_BQ, now_BQ),
    )  # fmt: skip
    _, best_BJ = jax.lax.top_k(both.beams.score_BJ, beams)
    return jax.tree.map(lambda a: _taken(a, best_BJ), both)


def _judged(
    new: State, hits_BQ: jax.Array, fixed: Fixed, length_penalty: jax.Array, early_stopping: bool | str
) -> State:
    """Whether the search goes on."""
    written_B = new.length_B - fixed.prompt_B
    if early_stopping == 'never':
        written_B = jnp.where(length_penalty > 0, fixed.limit_B - fixed.prompt_B, written_B)
    best_B = new.running.score_BJ[:, 0] / written_B.astype(jnp.float32) ** length_penalty
    finished = new.finished
    worst_B = jnp.where(jnp.all(finished.there_BJ, axis=1), jnp.min(finished.beams.score_BJ, axis=1), -jnp.inf)
    hopeful_B = new.hopeful_B & (best_B > worst_B) & (new.running.score_BJ[:, 0] > NEVER / 2)
    open_B = hopeful_B & ~jnp.all(hits_BQ, axis=1)
    if early_stopping is True:
        open_B &= ~jnp.all(finished.there_BJ, axis=1)
    return new.replace(hopeful_B=hopeful_B, open_B=open_B)


def results(finished: Any, count: int, ends_V: np.ndarray) -> Texts:
    """The best `count` texts of each prompt as rows, those of one prompt after each other: `Finished` on the host."""
    beams, length_BJ = finished.beams, finished.length_BJ[:, :count]
    final_BJ: Any = np.take_along_axis(beams.tokens_BJL[:, :count], length_BJ[..., None] - 1, axis=2)[..., 0]
    reason_BJ = np.where(ends_V[final_BJ], ENDED, FULL)
    every = beams.tokens_BJL[:, :count], beams.log_p_BJL[:, :count], length_BJ, reason_BJ
    return Texts(*(a_BJ.reshape(-1, *a_BJ.shape[2:]) for a_BJ in every))


class Compiled(NamedTuple):
    begin: Any
    run: Any


def compiled(model: Model) -> Compiled:
    """`begin` and `run`, jitted; the state is donated."""
    return Compiled(
        begin=jax.jit(functools.partial(begin, model), static_argnames=('sizes', 'beams')),
        run=jax.jit(
            functools.partial(run, model), static_argnames=('plan', 'ends', 'early_stopping'), donate_argnames='state'
        ),
    )
