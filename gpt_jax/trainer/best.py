"""The best checkpoint so far, and early stopping.

The best checkpoint is saved in the run's folder as a run of its own, best/, with its tokenizer.
After a restart, the validations so far are read back from metrics.jsonl, so that an interrupted
run ends at the same step as an uninterrupted one.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

from gpt_jax.core.config import Config
from gpt_jax.core.progress import LogFn
from gpt_jax.train import metrics
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.manifest import BEST_FOLDER
from gpt_jax.train.step import State
from gpt_jax.trainer.dataset import Dataset


class BestCheckpoint:
    """Tracks the validations of one run; a context manager that waits for a pending save at exit.

    Args:
      start: number of updates in the initial state.
      unfinished_row: values of the step `start` that are not in the metrics file yet.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        workdir: Path,
        start: int,
        unfinished_row: Mapping[str, float],
        log: LogFn,
    ):
        self._config, self._log = config, log
        self._metric = dataset.best_metric(config)
        self._score: float | None = None
        self._step = 0
        self._validations_since_best = 0
        self._checkpoints: CheckpointManager | None = None
        if config.train.keep_best:
            folder = workdir / BEST_FOLDER
            if start == 0 and jax.process_index() == 0:
                # Left by a run that stopped before its first checkpoint.
                shutil.rmtree(folder, ignore_errors=True)
            self._checkpoints = CheckpointManager(folder / 'checkpoints', max_to_keep=1, log=log)
            if jax.process_index() == 0:
                dataset.save_tokenizer(config, folder)
        path = workdir / metrics.METRICS_FILE
        rows = metrics.read_metrics(path) if path.exists() else []
        for row in [*rows, {'step': start, **unfinished_row}]:
            if self._metric.name in row and row['step'] <= start:
                self._update(int(row['step']), float(row[self._metric.name]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.__exit__(kind, error, traceback)

    def update(
        self, step: int, scores: dict[str, float], state: State, meta: dict[str, Any]
    ) -> None:
        """Record a validation; save the state if it is the best so far."""
        if self._update(step, scores[self._metric.name]) and self._checkpoints is not None:
            self._checkpoints.save(step, state, meta)

    def count_saved(self) -> int:
        """Count the checkpoints in the folder of the best one."""
        return self._checkpoints.count_saved() if self._checkpoints is not None else 0

    def wait(self) -> None:
        """Return once the save in progress, if any, is complete."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def save_again(self, start: int, state: State, meta: dict[str, Any]) -> None:
        """Save the initial state if it is the best and a kill ended its first save."""
        if self._checkpoints is not None and 0 < start == self._step:
            self._checkpoints.save(start, state, meta)  # does nothing if it is there

    def should_finish(self) -> bool:
        """Return whether the last `train.early_stopping_patience` validations were not better."""
        finish = 0 < self._config.train.early_stopping_patience <= self._validations_since_best
        if finish:
            self._log(
                f'{self._config.name}: stopping early after {self._validations_since_best} '
                f'validations without a better {self._metric.name} than {self._score:.4f} at '
                f'step {self._step}'
            )
        return finish

    def summarize(self) -> dict[str, Any]:
        """Return the entries for the run's summary."""
        if not self._config.train.keep_best and not self._config.train.early_stopping_patience:
            return {}
        return {'best_step': self._step, f'best_{self._metric.name}': self._score}

    def _update(self, step: int, score: float) -> bool:
        """Record a score; return whether it is the best so far."""
        is_best = self._metric.is_better(score, self._score)
        if is_best:
            self._step, self._score, self._validations_since_best = step, score, 0
        else:
            self._validations_since_best += 1
        return is_best
