"""The training objective of each task: the loss of text, of a task head, or of preferences.

It also computes scores for evaluation: scores of each position, and log p of given tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.core.config import ModelConfig, TaskConfig
from gpt_jax.finetune import heads
from gpt_jax.model.experts import ROUTING_LOSSES
from gpt_jax.model.gpt import GPT, GPTOutput
from gpt_jax.model.loss import compute_log_probs, compute_loss, score_targets
from gpt_jax.parallel.sharding import ShardingPolicy
from gpt_jax.train.step import Batch, LossFn

Sums = dict[str, jax.Array]
# Most logits that `make_token_scores` holds in memory at a time; config.loss_chunk may lower it.
MAX_SCORED_LOGITS = 2**25


class LossInputs(NamedTuple):
    """The arguments of a task's loss.

    x_BLD: the model's features, gathered along L over the devices that share the vocabulary.
    """

    params: Any
    output: GPTOutput
    x_BLD: jax.Array
    batch: Batch
    config: ModelConfig
    policy: ShardingPolicy
    task: TaskConfig | None


def make_loss(
    config: ModelConfig, policy: ShardingPolicy, *, train: bool, task: TaskConfig | None = None
) -> LossFn:
    """Make (params, batch, dropout key) -> (summed objective, sums by name), as in step.py.

    'loss' is the loss of the text, or of the task's questions, in nats; 'weight' is the number of
    targets, or of questions. The objective also includes the z-loss and the routing losses, if the
    config has coefficients for them.

    Args:
      config: the model's config.
      policy: the model's sharding policy inside a step.
      train: enables dropout and expert capacities.
      task: None: plain text.
    """
    model = GPT(config, policy, train=train)
    compute_task_loss = TASK_LOSSES[task.kind if task is not None else 'none']

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
        output = _apply_model(model, params, batch, key)
        x_BLD = policy.group('V').all_gather(output.x_BLD, 1)
        objective, sums = compute_task_loss(
            LossInputs(params, output, x_BLD, batch, config, policy, task)
        )
        # Routing statistics are means over a device's own tokens. All devices have equal weight,
        # however many targets each has.
        mean_weight = policy.group('BL').mean(sums['weight'])
        routing = {
            name: mean_weight * jnp.mean(value_N) for name, value_N in output.statistics.items()
        }
        # Devices that share the vocabulary have routed the same tokens, so each adds its part.
        objective += sum(
            getattr(config, name) * value / policy.group('V').size
            for name, value in routing.items()
            if name in ROUTING_LOSSES
        )
        return objective, sums | routing

    return loss


def _apply_model(model: GPT, params: Any, batch: Batch, key: jax.Array) -> GPTOutput:
    inputs = batch['inputs'], batch.get('segments'), batch.get('positions')
    output: Any = model.apply({'params': params}, *inputs, rngs={'dropout': key})
    return output


def _require_table(output: GPTOutput) -> jax.Array:
    """Return the weights of the language-model head, which the parameters must include."""
    assert output.w_VD is not None
    return output.w_VD


def _compute_text_loss(inputs: LossInputs) -> tuple[jax.Array, Sums]:
    targets_BL = inputs.batch['targets']
    # Packing 'concatenate' gives no weights: every target counts (PACKINGS in data/loader.py).
    weights_BL = inputs.batch.get('weights', jnp.ones(targets_BL.shape, jnp.float32))
    config = inputs.config
    text = compute_loss(
        inputs.x_BLD, inputs.output.w_VD, targets_BL, weights_BL, config, inputs.policy.group('V')
    )
    sums = {'loss': text.cross_entropy, 'weight': jnp.sum(weights_BL)}
    if config.z_loss:
        sums['z_loss'] = text.squared_log_z
    return text.objective, sums


def _compute_head_loss(inputs: LossInputs) -> tuple[jax.Array, Sums]:
    task = inputs.task
    assert task is not None
    z_BLY = heads.apply_head(inputs.params, inputs.x_BLD, task, inputs.config, inputs.policy)
    scores_BOY = heads.gather_scores(z_BLY, inputs.batch, heads.count_candidates(task))
    sums = heads.sum_choice_losses(scores_BOY, heads.group_questions(inputs.batch))
    return _add_text_loss(sums, inputs, task)


def _compute_preference_loss(inputs: LossInputs) -> tuple[jax.Array, Sums]:
    task, batch = inputs.task, inputs.batch
    assert task is not None
    log_p_BL = compute_log_probs(
        inputs.x_BLD,
        _require_table(inputs.output),
        batch['targets'],
        inputs.config,
        inputs.policy.group('V'),
    )
    log_ratio_BL1 = (log_p_BL - batch['reference_log_probs'])[..., None]
    log_ratios_BOY = heads.gather_scores(log_ratio_BL1, batch, heads.count_candidates(task))
    questions = heads.group_questions(batch)
    sums = heads.sum_preference_losses(log_ratios_BOY, questions, task.beta)
    return _add_text_loss(sums, inputs, task)


def _add_text_loss(sums: Sums, inputs: LossInputs, task: TaskConfig) -> tuple[jax.Array, Sums]:
    """Add the loss of the text, whose weights include the coefficient (tasks/encoding.py)."""
    # Devices that share the vocabulary have the same questions, so each adds its part.
    objective = sums['loss'] / inputs.policy.group('V').size
    if task.lm_loss_weight:
        text_objective, text_sums = _compute_text_loss(inputs)
        objective, sums = objective + text_objective, sums | {'text_loss': text_sums['loss']}
    return objective, sums


# By task.kind.
TASK_LOSSES: Mapping[str, Callable[[LossInputs], tuple[jax.Array, Sums]]] = {
    'none': _compute_text_loss,
    'completion': _compute_text_loss,
    'preference': _compute_preference_loss,
    **dict.fromkeys(heads.HEAD_TASKS, _compute_head_loss),
}


def make_position_scores(
    config: ModelConfig, policy: ShardingPolicy, task: TaskConfig
) -> Callable[[Any, Batch], jax.Array]:
    """Make (params, batch) -> scores of each position.

    They are the scores of the task's head, float32 [B, L, Y], or log p of the targets in nats,
    float32 [B, L, 1].
    """
    model = GPT(config, policy, train=False)

    def score(params: Any, batch: Batch) -> jax.Array:
        output = _apply_model(model, params, batch, jax.random.key(0))
        group = policy.group('V')
        x_BLD = group.all_gather(output.x_BLD, 1)
        if task.kind in heads.HEAD_TASKS:
            return heads.apply_head(params, x_BLD, task, config, policy)
        w_VD = _require_table(output)
        return compute_log_probs(x_BLD, w_VD, batch['targets'], config, group)[..., None]

    return score


def make_token_scores(
    config: ModelConfig, policy: ShardingPolicy
) -> Callable[[Any, Batch], tuple[jax.Array, jax.Array]]:
    """Make (params, batch) -> (log p in nats, whether it is the most likely token) of given tokens.

    The batch has 'query_tokens', int32 [B, O], and 'query_positions', int32 [B, O]: the input
    position that each token follows. Logits are computed at these positions only. The results are
    float32 and bool [B, O].
    """
    model = GPT(config, policy, train=False)

    def score(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        output = _apply_model(model, params, batch, jax.random.key(0))
        group, w_VD = policy.group('V'), _require_table(output)
        x_BLD = group.all_gather(output.x_BLD, 1)
        # The position may be on another of the devices that share the sequence.
        x_BLD = policy.group('L').all_gather(x_BLD, 1)
        x_BOD = jnp.take_along_axis(x_BLD, batch['query_positions'][..., None], axis=1)
        rows, queries = batch['query_tokens'].shape
        largest_chunk = max(1, MAX_SCORED_LOGITS // (rows * len(w_VD)))
        chunk = min(config.loss_chunk or queries, largest_chunk)
        chunked = dataclasses.replace(config, loss_chunk=chunk)
        return score_targets(x_BOD, w_VD, batch['query_tokens'], chunked, group)

    return score
