"""Task heads and losses over the candidate answers of questions.

A head is a linear map of the final features (Radford et al. 2018, equation 3).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.core.config import MAX_CHOICES, ModelConfig, TaskConfig
from gpt_jax.core.parametrization import init_weight
from gpt_jax.model.mask import MASK_VALUE
from gpt_jax.model.weights import BoxedParam
from gpt_jax.parallel.sharding import ShardingPolicy

HEAD_NAME = 'task'  # the module name of the head
HEAD_TASKS = ('classification', 'multiple_choice', 'token_classification')


def count_candidates(task: TaskConfig) -> int:
    """Return the maximum number of candidate answers of a question."""
    if task.kind == 'multiple_choice':
        # A single column may list any number of choices.
        return len(task.choices) if len(task.choices) > 1 else MAX_CHOICES
    return 2 if task.kind == 'preference' else len(task.labels)


def _count_outputs(task: TaskConfig) -> int:
    # Each choice is its own segment and gets one score.
    return 1 if task.kind == 'multiple_choice' else len(task.labels)


def declare_head(task: TaskConfig, model: ModelConfig, key: jax.Array) -> dict[str, Any]:
    """Initialize the head's (boxed) parameters, by module name; {} for a task without a head."""
    if task.kind not in HEAD_TASKS:
        return {}
    outputs = _count_outputs(task)
    weight_key, bias_key = (jax.random.fold_in(key, n) for n in range(2))
    weight = init_weight('head', weight_key, (model.width, outputs), model)
    bias = init_weight('bias', bias_key, (outputs,), model)
    return {
        HEAD_NAME: {
            'weight_DY': BoxedParam(weight, 'DY', 'head'),
            'bias_Y': BoxedParam(bias, 'Y', 'bias'),
        }
    }


def apply_head(
    params: Any, x_BLD: jax.Array, task: TaskConfig, model: ModelConfig, policy: ShardingPolicy
) -> jax.Array:
    """Compute the head's scores at each position: float32 [B, L, Y]; Y is 1 for multiple choice."""
    shape = (model.width, _count_outputs(task))
    weight_DY = policy.weight(params[HEAD_NAME]['weight_DY'], 'DY', shape, jnp.float32)
    z_BLY = jnp.einsum(
        'BLD,DY->BLY', x_BLD.astype(jnp.float32), weight_DY, preferred_element_type=jnp.float32
    )
    return z_BLY + params[HEAD_NAME]['bias_Y']


# Questions. A row of a batch has questions numbered from 1, and a position belongs to at most one
# of them (tasks/encoding.py). The scores of several positions of one question are added: the two
# orders of a text pair, or the tokens of an answer.


class Questions(NamedTuple):
    """The questions of a batch: as many entries per row as positions, of which most are unused.

    exists_BO: float32, 1 if row b has a question o.
    answer_BO: int32, the index of the correct candidate.
    """

    exists_BO: jax.Array
    answer_BO: jax.Array


def group_questions(batch: Mapping[str, jax.Array]) -> Questions:
    """Collect the questions of each row from its positions."""
    ids_BL = batch['question_ids']
    rows, length = ids_BL.shape
    row_B1 = jnp.arange(rows)[:, None]
    # Index 0 collects the positions that belong to no question.
    zeros_BO = jnp.zeros((rows, length + 1), jnp.int32)
    exists_BO = zeros_BO.at[row_B1, ids_BL].max((ids_BL > 0).astype(jnp.int32))
    answer_BO = zeros_BO.at[row_B1, ids_BL].max(batch['labels'])
    return Questions(exists_BO[:, 1:].astype(jnp.float32), answer_BO[:, 1:])


def gather_scores(values_BLY: jax.Array, batch: Mapping[str, jax.Array], count: int) -> jax.Array:
    """Add up the scores of each question's candidates: float32 [B, O, Y].

    Args:
      values_BLY: the score that each position gives each candidate. With Y = 1, the score of the
        position's own candidate; candidates without a position then score MASK_VALUE.
      batch: the batch that has the questions.
      count: number of candidates, Y.
    """
    ids_BL = batch['question_ids']
    rows, length = ids_BL.shape
    row_B1, in_question_BL1 = jnp.arange(rows)[:, None], ids_BL[..., None] > 0
    zeros_BOY = jnp.zeros((rows, length + 1, count), values_BLY.dtype)
    if values_BLY.shape[-1] == count:
        scores_BOY = zeros_BOY.at[row_B1, ids_BL].add(jnp.where(in_question_BL1, values_BLY, 0))
        return scores_BOY[:, 1:]
    is_own_BLY = in_question_BL1 & (batch['candidates'][..., None] == jnp.arange(count))
    scores_BOY = zeros_BOY.at[row_B1, ids_BL].add(jnp.where(is_own_BLY, values_BLY, 0))[:, 1:]
    scored_BOY = zeros_BOY.at[row_B1, ids_BL].max(is_own_BLY.astype(values_BLY.dtype))[:, 1:]
    # An unused question is not masked: its loss has weight 0 but must be finite.
    absent_BO1 = jnp.max(scored_BOY, axis=-1, keepdims=True) == 0
    return jnp.where((scored_BOY > 0) | absent_BO1, scores_BOY, MASK_VALUE)


def sum_choice_losses(scores_BOY: jax.Array, questions: Questions) -> dict[str, jax.Array]:
    """Sum over questions: 'weight' (count), 'loss' (cross-entropy, nats), 'accuracy' (correct)."""
    log_p_BOY = jax.nn.log_softmax(scores_BOY)
    log_p_BO = jnp.take_along_axis(log_p_BOY, questions.answer_BO[..., None], axis=-1)[..., 0]
    correct_BO = jnp.argmax(scores_BOY, axis=-1) == questions.answer_BO
    return {
        'weight': jnp.sum(questions.exists_BO),
        'loss': -jnp.sum(log_p_BO * questions.exists_BO),
        'accuracy': jnp.sum(correct_BO * questions.exists_BO),
    }


def sum_preference_losses(
    log_ratios_BOY: jax.Array, questions: Questions, beta: float
) -> dict[str, jax.Array]:
    """Sum the losses of direct preference optimization (DPO; Rafailov et al. 2023, equation 7).

    Args:
      log_ratios_BOY: log p of each text under the model minus that under the initial model, in
        nats; the preferred text first.
      questions: pairs of texts.
      beta: DPO's beta.

    Returns:
      Sums over pairs: 'weight' (count), 'loss', 'accuracy' (pairs whose preferred text has the
      higher ratio) and 'margin' (beta x difference of the ratios).
    """
    margin_BO = beta * (log_ratios_BOY[..., 0] - log_ratios_BOY[..., 1])
    return {
        'weight': jnp.sum(questions.exists_BO),
        'loss': jnp.sum(jax.nn.softplus(-margin_BO) * questions.exists_BO),
        'accuracy': jnp.sum((margin_BO > 0) * questions.exists_BO),
        'margin': jnp.sum(margin_BO * questions.exists_BO),
    }
