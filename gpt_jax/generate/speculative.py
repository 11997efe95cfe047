"""How does a draft save steps of a large model without changing what it writes?

A draft proposes a few tokens, the model reads them all at once, and each is accepted with probability min(1, p/q), p
being the model's distribution and q the draft's; at the first that is not, a token is drawn from what p has over q, and
where all are accepted one more from p. What is written has exactly the model's distribution (Leviathan et al. 2023,
algorithm 1 and appendix A.1), and with p of one id alone, the likeliest, exactly its tokens. Every row accepts as many
as its own draws say; both caches then forget the rest.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from gpt_jax.generate import lookup, sampling
from gpt_jax.generate.decode import RUNNING, Fixed, Model, Sizes, Texts, extended, last, placed
from gpt_jax.generate.processors import Plan, process
from gpt_jax.model.cache import Cache

TINY = 1e-30  # a probability that no draw meets


class State(struct.PyTreeNode):
    """The texts; the caches of all their tokens but the last, `draft` of a draft model; and what was accepted of what
    was proposed, int32, and in how many readings, over all rows."""

    texts: Texts
    cache: Cache
    draft: Cache | None
    proposed: jax.Array
    accepted: jax.Array
    readings: jax.Array


class Drafts(NamedTuple):
    """tokens_BQ: proposed ids. q_BQV: the distributions they are drawn from. found_B: whether there are any."""

    tokens_BQ: jax.Array
    q_BQV: jax.Array
    found_B: jax.Array


def begin(
    model: Model, drafter: Model | None, params: Any, draft_params: Any, read_BL: jax.Array, count_B: jax.Array,
    texts: Texts, *, sizes: Sizes,
) -> State:  # fmt: skip
    """As decode.begin, for both models."""

    def cache(model: Model, params: Any) -> Cache:
        made = model.empty(read_BL.shape[0], sizes.room, sizes.chunk)
        return model.read(params, read_BL, made, count_B) if read_BL.shape[1] else made

    draft = None if drafter is None else cache(drafter, draft_params)
    return State(texts, cache(model, params), draft, *(jnp.zeros((), jnp.int32) for _ in range(3)))


def run(
    model: Model, drafter: Model | None, params: Any, draft_params: Any, state: State, fixed: Fixed, values: Any,
    steps: jax.Array, *, plan: Plan, proposed: int,
) -> State:  # fmt: skip
    """Up to `steps` readings of `proposed` drafts each, for every running text."""

    def going(carry: tuple[jax.Array, State]) -> jax.Array:
        return (carry[0] < steps) & jnp.any(carry[1].texts.reason_B == RUNNING)

    def body(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
        state = carry[1]
        texts, running_B = state.texts, state.texts.reason_B == RUNNING
        wanted_B = jnp.where(running_B, jnp.minimum(proposed, fixed.limit_B - texts.length_B - 1), 0)
        if drafter is None:
            drafts, draft = _looked_up(texts, fixed, proposed), None
        else:
            drafts, draft = _drafted(drafter, draft_params, state, fixed, values, plan, proposed, wanted_B)
        wanted_B = jnp.where(drafts.found_B, wanted_B, 0)
        feed_BL = jnp.concatenate([last(texts)[:, None], drafts.tokens_BQ], axis=1)
        z_BLV, cache = model.scores(params, feed_BL, state.cache, jnp.where(running_B, wanted_B + 1, 0))
        p_BLV = _distributions(z_BLV, drafts, texts, fixed, values, plan)
        taken_B, ids_BL = _verified(p_BLV, drafts, wanted_B, texts, fixed, plan)
        log_p_BL = jnp.take_along_axis(jax.nn.log_softmax(z_BLV), ids_BL[..., None], axis=-1)[..., 0]
        texts = extended(texts, ids_BL, log_p_BL, jnp.where(running_B, taken_B + 1, 0), fixed)
        return carry[0] + 1, State(
            texts=texts,
            cache=_forgotten(cache, texts),
            draft=None if draft is None else _forgotten(draft, texts),
            proposed=state.proposed + jnp.sum(wanted_B),
            accepted=state.accepted + jnp.sum(jnp.where(running_B, taken_B, 0)),
            readings=state.readings + jnp.sum(running_B),
        )

    return jax.lax.while_loop(going, body, (jnp.int32(0), state))[1]


def _forgotten(cache: Cache, texts: Texts) -> Cache:
    """The cache without the drafts that were not accepted."""
    return cache.replace(length_B=jnp.minimum(cache.length_B, texts.length_B - 1))


def _keys(texts: Texts, fixed: Fixed, use: int | jax.Array) -> jax.Array:
    """A key per row for one `use` of randomness at the text's present length."""
    keys_B = sampling.keys(fixed.seeds_B, texts.length_B - fixed.prompt_B)
    return jax.vmap(lambda key: jax.random.fold_in(key, use))(keys_B)


def _looked_up(texts: Texts, fixed: Fixed, count: int) -> Drafts:
    tokens_BQ, found_B = lookup.propose(texts.tokens_BL, texts.length_B, count)
    return Drafts(tokens_BQ, jax.nn.one_hot(tokens_BQ, fixed.ends_V.shape[0]), found_B)


def _drafted(
    drafter: Model, params: Any, state: State, fixed: Fixed, values: Any, plan: Plan, count: int, wanted_B: jax.Array
) -> tuple[Drafts, Cache]:
    """The draft model's tokens, drawn under the same options. It also reads the last of them, so that its cache is as
    long as the model's, whatever is accepted."""
    texts = state.texts
    running_B = texts.reason_B == RUNNING

    def step(carry: tuple[jax.Array, jax.Array, Cache], number: jax.Array) -> Any:
        ids_B, tokens_BL, cache = carry
        reads_B = running_B & (number <= wanted_B)
        z_BLV, cache = drafter.scores(params, ids_B[:, None], cache, reads_B.astype(jnp.int32))
        seen = fixed.seen(texts)._replace(tokens_BL=tokens_BL, length_B=texts.length_B + number)
        scores_BV = process(z_BLV[:, 0], seen, values, plan)
        ids_B = sampling.choose(scores_BV, _keys(texts, fixed, number), plan.sampled)
        tokens_BL = placed(tokens_BL, seen.length_B, ids_B[:, None], reads_B.astype(jnp.int32))
        return (ids_B, tokens_BL, cache), (ids_B, sampling.probabilities(scores_BV, plan.sampled))

    start: Any = (last(texts), texts.tokens_BL, state.draft)
    (_, _, cache), (ids_QB, q_QBV) = jax.lax.scan(step, start, jnp.arange(count + 1))
    found_B = jnp.ones_like(running_B)
    return Drafts(jnp.swapaxes(ids_QB[:count], 0, 1), jnp.swapaxes(q_QBV[:count], 0, 1), found_B), cache


def _distributions(z_BLV: jax.Array, drafts: Drafts, texts: Texts, fixed: Fixed, values: Any, plan: Plan) -> jax.Array:
    """The model's distribution at each place, after the drafts before it. [B, L, V]."""
    count = drafts.tokens_BQ.shape[1]
    everything_B = jnp.full_like(texts.length_B, count)
    tokens_BL = placed(texts.tokens_BL, texts.length_B, drafts.tokens_BQ, everything_B)

    def one(number: jax.Array, z_BV: jax.Array) -> jax.Array:
        seen = fixed.seen(texts)._replace(tokens_BL=tokens_BL, length_B=texts.length_B + number)
        return sampling.probabilities(process(z_BV, seen, values, plan), plan.sampled)

    return jax.vmap(one, in_axes=(0, 1), out_axes=1)(jnp.arange(count + 1), z_BLV)


def _verified(
    p_BLV: jax.Array, drafts: Drafts, wanted_B: jax.Array, texts: Texts, fixed: Fixed, plan: Plan
) -> tuple[jax.Array, jax.Array]:
    """(how many drafts of each row are accepted, the ids with the one drawn after them)."""
    count = drafts.tokens_BQ.shape[1]
    of_draft = lambda a_BQV: jnp.take_along_axis(a_BQV, drafts.tokens_BQ[..., None], axis=-1)[..., 0]  # noqa: E731
    p_BQ, q_BQ = of_draft(p_BLV[:, :count]), of_draft(drafts.q_BQV)
    u_BQ = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(_keys(texts, fixed, count + 1))
    accepted_BQ = (u_BQ * q_BQ < p_BQ) & (jnp.arange(count) < wanted_B[:, None])
    taken_B = jnp.sum(jnp.cumprod(accepted_BQ.astype(jnp.int32), axis=1), axis=1)
    p_BV = jnp.take_along_axis(p_BLV, taken_B[:, None, None], axis=1)[:, 0]
    refused_B = taken_B < wanted_B
    q_BV = jnp.take_along_axis(drafts.q_BQV, jnp.minimum(taken_B, count - 1)[:, None, None], axis=1)[:, 0]
    rest_BV = jnp.maximum(p_BV - jnp.where(refused_B[:, None], q_BV, 0), 0)
    # Where rounding leaves nothing over, p and q were the same.
    rest_BV = jnp.where(jnp.sum(rest_BV, axis=1, keepdims=True) > 0, rest_BV, p_BV)
    scores_BV = jnp.log(jnp.maximum(rest_BV, TINY))
    final_B = sampling.choose(scores_BV, _keys(texts, fixed, count + 2), plan.sampled)
    ids_BL = jnp.concatenate([drafts.tokens_BQ, jnp.zeros_like(final_B)[:, None]], axis=1)
    ids_BL = jnp.where(jnp.arange(count + 1) == taken_B[:, None], final_B[:, None], ids_BL)
    return taken_B, ids_BL


class Compiled(NamedTuple):
    begin: Any
    run: Any


def compiled(model: Model, drafter: Model | None) -> Compiled:
    """`begin` and `run`, jitted; the state is donated."""
    return Compiled(
        begin=jax.jit(functools.partial(begin, model, drafter), static_argnames='sizes', donate_argnames='texts'),
        run=jax.jit(
            functools.partial(run, model, drafter), static_argnames=('plan', 'proposed'), donate_argnames='state'
        ),
    )
