"""Training hooks: the metrics, validations and checkpoints that a run writes.

The training loop (gpt_jax/train/loop.py) calls the methods of `TrainingHooks` at the config's
intervals. `MetricsRecorder` joins a step's numbers into one row of metrics.jsonl.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import config_fields, jax_setup, model_counts
from gpt_jax.core.config import Config, RawConfig
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.train import finetune_checkpoint
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.loop import Intervals
from gpt_jax.train.metrics import MetricsWriter, Throughput
from gpt_jax.train.step import State
from gpt_jax.trainer.best import BestCheckpoint
from gpt_jax.trainer.dataset import Dataset

# (params, progress) -> scores of the evaluation suite (suite_hook.py)
SuiteFn = Callable[[Any, Progress], dict[str, float]]


class RunContext(NamedTuple):
    """The inputs of one training run.

    Attributes:
      raw_config: the config as nested dicts, as in config.json.
      score_suite: scores the tasks of config.suite; None without such tasks.
      workdir: the run's folder.
      log: receives lines for the user.
    """

    raw_config: RawConfig
    config: Config
    dataset: Dataset
    parts: TrainerParts
    score_suite: SuiteFn | None
    workdir: Path
    progress: Progress
    log: LogFn


class MetricsRecorder:
    """Joins the metrics, validation and timing of a step into one row, and writes the rows.

    Args:
      convert_loss: loss in nats per token -> the loss in other units.
      progress: shows the step; None: nothing is shown.
      start: number of updates in the initial state.
      seconds: wall-clock seconds of the run before this start.

    Attributes:
      meter: measures the throughput; hooks pause it.
      last: the latest value of every metric.
    """

    def __init__(
        self,
        config: Config,
        convert_loss: Callable[[float], dict[str, float]],
        metrics: MetricsWriter,
        progress: Progress | None,
        start: int,
        seconds: float,
    ):
        self.meter = Throughput()
        self.last: dict[str, float] = {}
        self._convert_loss, self._metrics, self._progress = convert_loss, metrics, progress
        self._tokens_per_step = config.tokens_per_step
        self._flops_per_token = model_counts.flops_per_token(config.model)
        self._last_logged, self._began, self._seconds_before = start, time.monotonic(), seconds
        self._row: tuple[int, dict[str, float], dict[str, float]] | None = None

    def elapsed_seconds(self) -> float:
        """Return the wall-clock seconds of the run, over all its starts."""
        return self._seconds_before + time.monotonic() - self._began

    def log_step(self, step: int, values: dict[str, float]) -> None:
        """Record the metrics of a training step."""
        self.meter.add_tokens((step - self._last_logged) * self._tokens_per_step)
        self._last_logged = step
        timing = self.meter.read()
        tokens = step * self._tokens_per_step
        flops = {f'flops_{name}': tokens * per for name, per in self._flops_per_token.items()}
        self.add(
            step,
            values | self._convert_loss(values['loss']) | {'tokens': tokens} | flops,
            timing | {'elapsed_seconds': self.elapsed_seconds()},
        )
        if self._progress is not None:
            self._progress.update(step, values['loss'], timing['tokens_per_second'])

    def add(
        self, step: int, values: dict[str, float], timing: dict[str, float] | None = None
    ) -> None:
        """Add values to the row of a step; a new step writes the row of the previous one."""
        if self._row is not None and self._row[0] != step:
            self._write()
        _, row_values, row_timing = self._row or (step, {}, {})
        self._row = step, row_values | values, row_timing | (timing or {})
        self.last |= values

    def flush(self) -> None:
        """Return once all rows so far are on the disk."""
        self._write()
        self._metrics.flush()

    def _write(self) -> None:
        if self._row is not None:
            self._metrics.write(*self._row)
            self._row = None


class TrainingHooks:
    """Validates, scores and saves one run, with the throughput meter paused."""

    def __init__(
        self,
        run: RunContext,
        checkpoints: CheckpointManager,
        recorder: MetricsRecorder,
        best: BestCheckpoint,
        state: State,
    ):
        self._run, self._checkpoints, self._recorder, self._best = run, checkpoints, recorder, best
        # No update changes the frozen params, so their checksum is computed once.
        self._frozen = finetune_checkpoint.checksum_frozen(state, run.config.init_from)

    def make_intervals(self) -> Intervals:
        """Return the number of steps between calls of each hook."""
        config = self._run.config
        return Intervals(
            log=config.train.log_every,
            evaluate=config.train.eval_every,
            suite=config.suite.every,
            save=config.train.checkpoint_every,
            save_steps=config.train.keep_steps,
        )

    def evaluate(self, step: int, state: State) -> None:
        """Validate, and save the state if it is the best so far."""
        run = self._run
        with self._recorder.meter.pause():
            params = run.parts.combine_params(state)
            scores = run.dataset.validate(run.config, run.parts, params, run.progress)
            self._recorder.add(step, scores)
            self._best.update(step, scores, self._drop_unsaved(state), self._make_meta(step))

    def run_suite(self, step: int, state: State) -> None:
        """Score the tasks of config.suite."""
        run = self._run
        if run.score_suite is None:
            return
        with self._recorder.meter.pause():
            scores = run.score_suite(run.parts.combine_params(state), run.progress)
            self._recorder.add(step, scores)

    def save(self, step: int, state: State, wait: bool) -> None:
        """Flush the metrics, then save a checkpoint.

        Args:
          wait: return only once the checkpoint is complete.
        """
        with self._recorder.meter.pause():
            self._recorder.flush()
            self._checkpoints.save(step, self._drop_unsaved(state), self._make_meta(step))
            if wait:
                self._checkpoints.wait()

    def _drop_unsaved(self, state: State) -> State:
        return finetune_checkpoint.drop_unsaved(state, self._run.config.init_from)

    def _make_meta(self, step: int) -> dict[str, Any]:
        run = self._run
        seconds = self._recorder.elapsed_seconds()
        meta = make_checkpoint_meta(run.raw_config, run.dataset.fingerprint, step, seconds)
        frozen = {finetune_checkpoint.FROZEN_CHECKSUM: self._frozen} if self._frozen else {}
        return meta | frozen


def make_checkpoint_meta(
    raw_config: RawConfig, fingerprint: str, step: int, seconds: float
) -> dict[str, Any]:
    """Return what a checkpoint's manifest says about its run.

    Args:
      raw_config: the run's config.
      fingerprint: the data's fingerprint; '': no training data (imported weights).
      step: number of updates in the state.
      seconds: wall-clock seconds of the run so far.
    """
    return {
        'next_batch': step,
        'fingerprint': fingerprint,
        'config': raw_config,
        'config_hash': config_fields.config_hash(raw_config),
        'seconds': seconds,
        'versions': jax_setup.find_versions(),
    }
