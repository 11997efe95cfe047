"""Evaluation tasks during training (config.suite), scored with the current params on the mesh."""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt_jax.core.config import Config
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.data import tokenizer as tokenizers
from gpt_jax.evaluation import contamination, suite_tasks
from gpt_jax.evaluation.suite_tasks import EvalRequest
from gpt_jax.inference import scoring
from gpt_jax.inference.scoring import ContinuationScore, ScoringBatch, ScoringRequest
from gpt_jax.inference.text_scoring import TextEncoder, make_continuation_requests
from gpt_jax.train.build import TrainerParts
from gpt_jax.trainer.dataset import Dataset
from gpt_jax.trainer.summary import SUITE_PREFIX


class SuiteHook:
    """Scorer of the tasks of config.suite; call it with params and a progress display.

    Raises:
      UserError: a task is unknown, or its questions do not fit into the context.
    """

    def __init__(self, config: Config, parts: TrainerParts, dataset: Dataset, log: LogFn):
        self._config, self._parts, tokenizer = config, parts, dataset.tokenizer
        prefix_ids = tokenizers.find_prefix_ids(tokenizer) if config.task.kind != 'none' else ()
        self._encoder = TextEncoder(tokenizer, prefix_ids)
        self._tasks = self._load_tasks(log)

    def _load_tasks(self, log: LogFn) -> list[EvalRequest]:
        """Load the tasks, without the questions that do not fit into the context."""
        config = self._config
        tasks = []
        for name in config.suite.tasks:
            task = suite_tasks.load_task(name, config.suite, config.data.cache, log)
            encode = self._encoder.tokenizer.encode_batch
            tasks.append(suite_tasks.fit_context(task, encode, config.model.context, log))
        training = contamination.find_training_data(config.task.kind, config.data, config.init_from)
        progress = Progress(sys.stderr, trial=None, name=config.name, steps=config.steps)
        ngram = config.suite.contamination_ngram
        tasks = suite_tasks.attach_contamination(tasks, training, ngram, progress, log)
        progress.close()
        return tasks

    def __call__(self, params: Any, progress: Progress) -> dict[str, float]:
        """Score all tasks.

        Returns:
          The scores of suite_tasks.summarize_scores as 'suite_TASK_SCORE'. Where the training
          text is known, also 'contaminated', the share of questions that occur in it, and
          'error_clean', the error on the other questions.
        """
        scores: dict[str, float] = {}
        for task in self._tasks:
            task_scores = self._score_task(task, params, progress)
            scores |= {f'{SUITE_PREFIX}{task.name}_{name}': x for name, x in task_scores.items()}
        return scores

    def _score_task(self, task: EvalRequest, params: Any, progress: Progress) -> dict[str, float]:
        def score(pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
            encoder = self._encoder
            first = encoder.tokenizer.end_of_document
            requests = make_continuation_requests(
                pairs, encoder.encode_whole, encoder.encode_plain, first
            )
            note = lambda done, total: progress.note(
                f'scoring {task.name}, batch {done + 1}/{total}'
            )
            return score_continuations(self._config, self._parts, params, requests, note)

        results = suite_tasks.score_questions(task, score)
        scores = suite_tasks.summarize_scores(results)
        if task.contamination is not None:
            clean = task.contamination.clean_mask()
            scores['contaminated'] = float(np.mean(~clean))
            if clean.any():
                clean_results = list(itertools.compress(results, clean))
                scores['error_clean'] = suite_tasks.summarize_scores(clean_results)['error']
        return scores


def score_continuations(
    config: Config,
    parts: TrainerParts,
    params: Any,
    requests: Sequence[ScoringRequest],
    note: Callable[[int, int], None] | None = None,
) -> list[ContinuationScore]:
    """Score each request (inference/scoring.py); all processes pass and receive all requests.

    The batches have the shape of a validation batch, `train.evaluation_batch_size` rows of the
    model's context, which is known to suit the mesh and the attention kernel.

    Args:
      note: called before each batch with the number of batches done and their total.
    """
    context, batch_size = config.model.context, config.train.evaluation_batch_size
    index, count = parts.batch_shard()

    def score_batch(batch: ScoringBatch) -> tuple[Any, Any]:
        local = {
            name: rows[index * batch_size // count : (index + 1) * batch_size // count]
            for name, rows in batch.items()
        }
        scores = parts.score_tokens(params, next(parts.shard_batches(iter([local]))))
        if jax.process_count() > 1:
            scores = multihost_utils.process_allgather(scores, tiled=True)
        return scores

    return scoring.score_requests(
        score_batch,
        requests,
        context=context,
        rows=batch_size,
        row_shards=batch_size,
        min_row_length=context,
        on_batch=note,
    )
