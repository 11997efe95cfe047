"""What is decided in a row, and how well? Scores of candidates, gathered from the places where they are read.

A row has questions, numbered from 1, and a place belongs to at most one (gpt_jax/data/packed.py). What several places
say to one question is added: the two orders of a similar pair, the tokens of an answer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.model.mask import HIDDEN

Batch = dict[str, jax.Array]


class Questions(NamedTuple):
    """Of a batch. exists_BO: float32, 1 where row b has a question o. answer_BO: int32, the right candidate."""

    exists_BO: jax.Array
    answer_BO: jax.Array


def questions(batch: Batch) -> Questions:
    """As many per row as there are places; those that are none are empty. Number 0, of places that belong to none,
    is left out."""
    number_BL = batch['questions']
    row = jnp.arange(number_BL.shape[0])[:, None]
    nothing_BO = jnp.zeros((number_BL.shape[0], number_BL.shape[1] + 1), jnp.int32)
    exists_BO = nothing_BO.at[row, number_BL].max((number_BL > 0).astype(jnp.int32))
    answer_BO = nothing_BO.at[row, number_BL].max(batch['answers'])
    return Questions(exists_BO[:, 1:].astype(jnp.float32), answer_BO[:, 1:])


def gathered(values_BLY: jax.Array, batch: Batch, count: int) -> jax.Array:
    """What the candidates of each question score: float32 [B, O, Y].

    Args:
      values_BLY: what each place says to each candidate; of one (Y = 1), to that of the place's own slot. Then a
        candidate for which no place speaks is none, and scores nothing that softmax would see.
      count: candidates of a question, Y.
    """
    number_BL = batch['questions']
    row, asked_BL1 = jnp.arange(number_BL.shape[0])[:, None], number_BL[..., None] > 0
    nothing_BOY = jnp.zeros((number_BL.shape[0], number_BL.shape[1] + 1, count), values_BLY.dtype)
    if values_BLY.shape[-1] == count:
        return nothing_BOY.at[row, number_BL].add(jnp.where(asked_BL1, values_BLY, 0))[:, 1:]
    own_BLY = asked_BL1 & (batch['slots'][..., None] == jnp.arange(count))
    scores_BOY = nothing_BOY.at[row, number_BL].add(jnp.where(own_BLY, values_BLY, 0))[:, 1:]
    there_BOY = nothing_BOY.at[row, number_BL].max(own_BLY.astype(values_BLY.dtype))[:, 1:]
    # Of a question that is none, all are left as they are: its loss counts 0 times, and must be a number.
    none_BO1 = jnp.max(there_BOY, axis=-1, keepdims=True) == 0
    return jnp.where((there_BOY > 0) | none_BO1, scores_BOY, HIDDEN)


def decided(scores_BOY: jax.Array, asked: Questions) -> dict[str, jax.Array]:
    """Sums over the questions: 'weight' (how many), 'loss' (cross-entropy in nats), 'accuracy' (right ones)."""
    log_p_BOY = jax.nn.log_softmax(scores_BOY)
    right_BO = jnp.take_along_axis(log_p_BOY, asked.answer_BO[..., None], axis=-1)[..., 0]
    hit_BO = jnp.argmax(scores_BOY, axis=-1) == asked.answer_BO
    return {
        'weight': jnp.sum(asked.exists_BO),
        'loss': -jnp.sum(right_BO * asked.exists_BO),
        'accuracy': jnp.sum(hit_BO * asked.exists_BO),
    }


def preferred(scores_BOY: jax.Array, asked: Questions, beta: float) -> dict[str, jax.Array]:
    """Direct preference optimization (Rafailov et al. 2023, equation 7): 'weight', 'loss', and sums of 'accuracy'
    (pairs in which the better text gained more) and 'margin' (by how many nats, times beta).

    Args:
      scores_BOY: how much likelier each text is than under the model that training began with, in nats; the better
        text first.
    """
    margin_BO = beta * (scores_BOY[..., 0] - scores_BOY[..., 1])
    return {
        'weight': jnp.sum(asked.exists_BO),
        'loss': jnp.sum(jax.nn.softplus(-margin_BO) * asked.exists_BO),
        'accuracy': jnp.sum((margin_BO > 0) * asked.exists_BO),
        'margin': jnp.sum(margin_BO * asked.exists_BO),
    }
