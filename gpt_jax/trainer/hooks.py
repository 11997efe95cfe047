"""Training hooks: the metrics, validations and checkpoints that a run writes.

The training loop (gpt_jax/train/loop.py) calls the methods of `TrainingHooks` at the config's
intervals. `MetricsRecorder` joins a step's numbers into one row of metrics.jsonl.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import jax_setup, model_counts
from gpt_jax.core.config import Config, RawConfig
from gpt_jax.core.errors import Preempted
from gpt_jax.core.progress import LogFn, Progress
from gpt_jax.train import finetune_checkpoint
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.loop import Intervals
from gpt_jax.train.metrics import (
    METRICS_FILE,
    MetricsWriter,
    Throughput,
    decode_line,
    encode_line,
    read_metrics,
)
from gpt_jax.train.multihost import Preemption, run_on_all_processes
from gpt_jax.train.step import State
from gpt_jax.train.trackers import TrackedRun, Trackers, find_group, list_trackers
from gpt_jax.trainer.best import BestCheckpoint
from gpt_jax.trainer.dataset import VALIDATION_PREFIX, Dataset
from gpt_jax.trainer.summary import SUITE_PREFIX

UNFINISHED_ROW = 'unfinished_row'  # in the meta of a checkpoint that was saved before its scores

# (params, progress) -> scores of the evaluation suite (suite_hook.py)
SuiteFn = Callable[[Any, Progress], dict[str, float]]


class RunContext(NamedTuple):
    """The inputs of one training run.

    Attributes:
      raw_config: the config as nested dicts, as in config.json.
      config_hash: identifies the run together with the data's fingerprint (resume.py).
      score_suite: scores the tasks of config.suite; None without such tasks.
      workdir: the run's folder.
      log: receives lines for the user.
    """

    raw_config: RawConfig
    config: Config
    config_hash: str
    dataset: Dataset
    parts: TrainerParts
    score_suite: SuiteFn | None
    workdir: Path
    progress: Progress
    log: LogFn


def start_trackers(run: RunContext, start: int, *, enabled: bool) -> Trackers:
    """Start the trackers of a run whose metrics.jsonl has the rows up to step `start`.

    Args:
      enabled: False starts none; with several processes, only the first has trackers.
    """
    tracked = TrackedRun(run.config.name, find_group(run.workdir), run.workdir, run.raw_config)
    return Trackers(list_trackers(run.config.train) if enabled else (), tracked, start, run.log)


class MetricsRecorder:
    """Joins the metrics, validation and timing of a step into one row, and writes the rows.

    Args:
      convert_loss: (config, step, loss in nats per token) -> the step's loss in other units.
      metrics, trackers: receive the rows.
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
        convert_loss: Callable[[Config, int, float], dict[str, float]],
        metrics: MetricsWriter,
        trackers: Trackers,
        progress: Progress | None,
        start: int,
        seconds: float,
    ):
        self.meter = Throughput()
        self.last: dict[str, float] = {}
        self._convert_loss, self._progress = convert_loss, progress
        self._metrics, self._trackers = metrics, trackers
        self._config, self._tokens_per_step = config, config.tokens_per_step
        self._flops_per_token = model_counts.flops_per_token(config.model)
        self._last_logged, self._began, self._seconds_before = start, time.monotonic(), seconds
        self._row: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._written: dict[str, float] = {'step': -1}  # the latest row of the file

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
        converted = self._convert_loss(self._config, step, values['loss'])
        self.add(
            step,
            values | converted | {'tokens': tokens} | flops,
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

    def _write(self) -> None:
        # A run that had lost its summary only is evaluated again, and its last row is written.
        if self._row is not None and self._row[0] > self._written['step']:
            self._metrics.write(*self._row)
            self._trackers.log(*self._row)
            self._written = {'step': self._row[0], **self._row[1]}
        self._row = None

    def flush(self) -> None:
        """Return once all rows so far are on the disk."""
        self._write()
        self._metrics.flush()

    def flush_before(self, step: int) -> dict[str, str]:
        """Return once the rows before `step` are on the disk.

        Returns:
          The row of `step` so far, for a checkpoint's meta and `restore`.
        """
        if self._row is None or self._row[0] != step:
            self.add(step, {})
        _, values, timing = self._row or (step, {}, {})
        self._metrics.flush()
        return {'values': encode_line(step, values), 'timing': encode_line(step, timing)}

    def restore(self, path: Path, start: int, unfinished_row: dict[str, str] | None) -> bool:
        """Continue after the rows of an earlier start of this run.

        Args:
          path: the metrics file.
          unfinished_row: as in InitializedRun.

        Returns:
          Whether the row of the step `start` is complete, as it is unless a signal or a kill ended
          its evaluations.
        """
        rows = read_metrics(path) if path.exists() else []
        for row in rows:
            self.last |= row
        self._written = rows[-1] if rows else {'step': -1}
        if unfinished_row is None or self._written['step'] == start:
            return True
        values, timing = (decode_line(unfinished_row[part]) for part in ('values', 'timing'))
        for row in (values, timing):
            del row['step']
        self.add(start, values, timing)
        return False

    def has_results(self, step: int, prefix: str) -> bool:
        """Return whether the latest row is that of `step` and has values of this kind."""
        written, values = self._written['step'], self._written
        if self._row is not None:
            written, values, _ = self._row
        return written == step and any(name.startswith(prefix) for name in values)

    def get_unfinished(self) -> dict[str, float]:
        """Return the values of the row that is not written yet."""
        return {} if self._row is None else self._row[1]


def restore_rows(
    recorder: MetricsRecorder, workdir: Path, start: int, unfinished_row: dict[str, str] | None
) -> bool:
    """Call `MetricsRecorder.restore` on all processes; the first one's answer counts."""
    is_complete = recorder.restore(workdir / METRICS_FILE, start, unfinished_row)
    return bool(run_on_all_processes(lambda: int(is_complete)))


class TrainingHooks:
    """Validates, scores and saves one run, with the throughput meter paused."""

    def __init__(
        self,
        run: RunContext,
        checkpoints: CheckpointManager,
        recorder: MetricsRecorder,
        best: BestCheckpoint,
        preemption: Preemption,
        state: State,
    ):
        self._run, self._checkpoints, self._recorder, self._best = run, checkpoints, recorder, best
        self._preemption = preemption
        # No update changes the frozen params, so their checksum is computed once.
        self._frozen = finetune_checkpoint.checksum_frozen(state, run.config.init_from)

    def save_best_again(self, start: int, state: State) -> None:
        """Save the initial state if it is the best and a kill ended its first save."""
        self._best.save_again(start, self._drop_unsaved(state), self._make_meta(start))

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

    def evaluate(self, step: int, state: State, is_saved: bool) -> None:
        """Validate, and save the state if it is the best so far.

        Args:
          is_saved: whether the state is in a checkpoint.

        Raises:
          Preempted: a signal stopped it; it is to be done again.
        """
        run = self._run
        if self._recorder.has_results(step, VALIDATION_PREFIX):
            return  # before an interruption
        with self._recorder.meter.pause():
            with self._stopping('validation', step, is_saved):
                params = run.parts.combine_params(state)
                scores = run.dataset.validate(run.config, run.parts, params, run.progress)
            self._recorder.add(step, scores)
            self._best.update(step, scores, self._drop_unsaved(state), self._make_meta(step))

    def run_suite(self, step: int, state: State, is_saved: bool) -> None:
        """Score the tasks of config.suite; arguments and errors are those of `evaluate`."""
        run = self._run
        if run.score_suite is None or self._recorder.has_results(step, SUITE_PREFIX):
            return
        with self._recorder.meter.pause():
            with self._stopping('the suite', step, is_saved):
                scores = run.score_suite(run.parts.combine_params(state), run.progress)
            self._recorder.add(step, scores)

    def save(self, step: int, state: State, is_complete: bool, wait: bool) -> None:
        """Flush the metrics, then save a checkpoint.

        Args:
          is_complete: whether all evaluations of this step are done. If not, its row of metrics is
            not written; the checkpoint has what is known of it.
          wait: return only once the checkpoint is complete.
        """
        with self._recorder.meter.pause():
            # A restart from this checkpoint would not save an earlier best state again.
            self._best.wait()
            meta = self._make_meta(step)
            if is_complete:
                self._recorder.flush()
            else:
                meta[UNFINISHED_ROW] = self._recorder.flush_before(step)
            self._checkpoints.save(step, self._drop_unsaved(state), meta)
            if wait:
                self._checkpoints.wait()

    def _stopping(
        self, what: str, step: int, is_saved: bool
    ) -> contextlib.AbstractContextManager[None]:
        steps, finish = self._run.config.steps, self._checkpoints.finish_writing
        reason = f'stopped and saved at step {step} of {steps}, before {what} was done'
        return stop_on_signal(
            self._preemption, self._run.progress, reason, finish if is_saved else None
        )

    def _drop_unsaved(self, state: State) -> State:
        return finetune_checkpoint.drop_unsaved(state, self._run.config.init_from)

    def _make_meta(self, step: int) -> dict[str, Any]:
        run = self._run
        seconds = self._recorder.elapsed_seconds()
        meta = make_checkpoint_meta(
            run.raw_config, run.config_hash, run.dataset.fingerprint, step, seconds
        )
        frozen = {finetune_checkpoint.FROZEN_CHECKSUM: self._frozen} if self._frozen else {}
        return meta | frozen


@contextlib.contextmanager
def stop_on_signal(
    preemption: Preemption,
    progress: Progress,
    reason: str,
    finish_saving: Callable[[], None] | None,
) -> Iterator[None]:
    """In this block, work between steps hears signals: at each note of the progress display.

    All processes must give the same number of notes, since they vote on stopping.

    Args:
      reason: text of the error.
      finish_saving: waits for the save in progress of the state in use; None: it is not saved. If
        it is saved, a signal also ends work that gives no notes, such as compiling.

    Raises:
      Preempted: there was a signal.
    """

    def check() -> None:
        on_note()
        if preemption.requested_on_any_process():
            raise Preempted(reason)

    on_note, progress.on_note = progress.on_note, check
    try:
        if finish_saving is None:
            yield
        else:
            with preemption.nothing_unsaved(finish_saving):
                yield
    finally:
        progress.on_note = on_note


def make_checkpoint_meta(
    raw_config: RawConfig, config_hash: str, fingerprint: str, step: int, seconds: float
) -> dict[str, Any]:
    """Return what a checkpoint's manifest says about its run.

    Args:
      raw_config: the run's config.
      config_hash: the hash of the config, with the run's partition.
      fingerprint: the data's fingerprint; '': no training data (imported weights).
      step: number of updates in the state.
      seconds: wall-clock seconds of the run so far.
    """
    return {
        'next_batch': step,
        'fingerprint': fingerprint,
        'config': raw_config,
        'config_hash': config_hash,
        'seconds': seconds,
        'versions': jax_setup.find_versions(),
    }
