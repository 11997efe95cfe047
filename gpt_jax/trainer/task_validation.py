"""Loss, accuracy and metrics of a task's split, on the training mesh."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt_jax.core.config import Config, TaskConfig
from gpt_jax.core.progress import Progress
from gpt_jax.data.loader import iterate_in_order
from gpt_jax.finetune.heads import HEAD_TASKS, count_candidates
from gpt_jax.tasks import task_metrics
from gpt_jax.tasks.encoding import PackedExamples
from gpt_jax.tasks.task_dataset import TaskDataset
from gpt_jax.train.build import TrainerParts
from gpt_jax.trainer.validation import compute_mean_loss, show_progress


class TaskPredictions(NamedTuple):
    """The scores of every question of a split, in the order of the examples.

    A question is one decision: the class of an example, one word's tag, one preferred answer.

    Attributes:
      scores: score of each candidate, float64 [Q, Y].
      answers: index of the correct candidate, int [Q].
      example: number of the question's example, int [Q].
    """

    scores: np.ndarray
    answers: np.ndarray
    example: np.ndarray


def evaluate_task(
    config: Config,
    parts: TrainerParts,
    dataset: TaskDataset,
    split: str,
    params: Any,
    progress: Progress,
) -> dict[str, float]:
    """Return 'loss' in nats per target or question; for questions also 'accuracy' and metrics."""
    task, rows = config.task, dataset.splits[split]
    if task.kind not in (*HEAD_TASKS, 'preference'):
        batches = _iterate_batches(config, parts, rows, progress)
        return {'loss': compute_mean_loss(parts.eval_step, params, batches)}
    predictions = predict(config, parts, rows, params, progress)
    scores = predictions.scores
    if task.kind == 'preference':
        margin = task.beta * (scores[:, 0] - scores[:, 1])
        return {
            'loss': float(np.mean(np.logaddexp(0, -margin))),
            'accuracy': float(np.mean(margin > 0)),
        }
    log_p = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    predicted = np.argmax(scores, axis=-1)
    metrics = {
        'loss': -float(np.mean(log_p[np.arange(len(predicted)), predictions.answers])),
        'accuracy': float(np.mean(predicted == predictions.answers)),
    }
    return metrics | {
        name: _compute_metric(task, name, predictions, predicted) for name in task.metrics
    }


def _compute_metric(
    task: TaskConfig, name: str, predictions: TaskPredictions, predicted: np.ndarray
) -> float:
    if task.kind != 'token_classification':
        metric = task_metrics.CLASSIFICATION_METRICS[name]
        return metric(predicted.tolist(), predictions.answers.tolist())
    ends = np.nonzero(np.diff(predictions.example))[0] + 1  # ends of all sentences but the last
    tags = [
        [[task.labels[index] for index in sentence] for sentence in np.split(labels, ends)]
        for labels in (predicted, predictions.answers)
    ]
    return task_metrics.TOKEN_CLASSIFICATION_METRICS[name](*tags)


def predict(
    config: Config, parts: TrainerParts, rows: PackedExamples, params: Any, progress: Progress
) -> TaskPredictions:
    """Score the candidates of every question.

    A question's score is the sum over its positions: a word may have several tokens, and a
    preference's log p is a sum over the answer's tokens.
    """
    count, context = count_candidates(config.task), rows.context
    predictions: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first, fields, scores_BLY in _iterate_scores(config, parts, rows, params, progress):
        if config.task.kind == 'preference':
            scores_BLY = scores_BLY - fields['reference_log_probs'][..., None]
        row, position = np.nonzero(fields['question_ids'])
        # A question's key in the batch combines its row and its number in the row (from 1).
        keys = row * (context + 1) + fields['question_ids'][row, position]
        unique, question = np.unique(keys, return_inverse=True)
        total, answers = np.zeros((len(unique), count)), np.zeros(len(unique), np.int64)
        if scores_BLY.shape[-1] < count:  # one score per position, of the candidate in 'candidates'
            candidates = fields['candidates'][row, position]
            total[:] = -np.inf
            total[question, candidates] = 0
            np.add.at(total, (question, candidates), scores_BLY[row, position, 0])
        else:
            np.add.at(total, question, scores_BLY[row, position])
        answers[question] = fields['labels'][row, position]
        owners = [_list_owners(rows, first + n) for n in range(len(fields['question_ids']))]
        example = np.array(
            [owners[key // (context + 1)][key % (context + 1) - 1] for key in unique], np.int64
        )
        predictions.append((total, answers, example))
    total, answers, example = (np.concatenate(arrays) for arrays in zip(*predictions, strict=True))
    order = np.argsort(example, kind='stable')
    return TaskPredictions(total[order], answers[order], example[order])


def _list_owners(rows: PackedExamples, number: int) -> list[int]:
    """List the number of the example that each question of a row belongs to."""
    if number >= len(rows):
        return []
    return [
        example for example in rows.rows[number] for _ in rows.examples[example].segments[0].labels
    ]


def add_reference_log_probs(
    config: Config, parts: TrainerParts, rows: PackedExamples, params: Any, progress: Progress
) -> PackedExamples:
    """Return the rows with log p of every target under these params (float32, in nats)."""
    log_probs: list[Any] = [None] * len(rows.examples)
    unscored = dataclasses.replace(rows, reference_log_probs=None)
    for first, _, scores_BLY in _iterate_scores(config, parts, unscored, params, progress):
        for row, log_p_L in enumerate(scores_BLY[..., 0]):
            start = 0
            for number in rows.rows[first + row] if first + row < len(rows) else ():
                log_probs[number] = []
                for segment in rows.examples[number].segments:
                    end = start + segment.num_inputs
                    log_probs[number].append(log_p_L[start:end].astype(np.float32))
                    start = end
    return dataclasses.replace(rows, reference_log_probs=log_probs)


def _iterate_scores(
    config: Config, parts: TrainerParts, rows: PackedExamples, params: Any, progress: Progress
) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray]]:
    """Iterate over (number of the first row, global batch, scores float64 [B, L, Y])."""
    batch = config.train.evaluation_batch_size
    for number, fields in enumerate(_iterate_batches(config, parts, rows, progress)):
        scores = parts.score_positions(params, fields)
        if jax.process_count() > 1:
            scores = multihost_utils.process_allgather(scores, tiled=True)
        global_batch = rows.make_batch(np.arange(number * batch, (number + 1) * batch))
        yield number * batch, global_batch, np.asarray(scores, np.float64)


def _iterate_batches(
    config: Config, parts: TrainerParts, rows: PackedExamples, progress: Progress
) -> Iterator[Any]:
    """Iterate over all rows in order, as global arrays."""
    batch_size, (index, count) = config.train.evaluation_batch_size, parts.batch_shard()
    local = iterate_in_order(
        len(rows), rows.make_batch, batch_size=batch_size, shard_index=index, shard_count=count
    )
    return show_progress(parts.shard_batches(local), -(-len(rows) // batch_size), progress)
