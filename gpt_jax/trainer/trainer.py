"""Training of one config in a run folder, from the start or the last checkpoint to the summary.

`train` follows the order of a run: data, config, model and step, initial state, loop, summary.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.core import config_fields, files, trees
from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.config_fields import MAX_INT32
from gpt_jax.core.errors import Diverged, UserError
from gpt_jax.core.progress import PROGRESS_FILE, LogFn, Progress
from gpt_jax.core.watchdog import Watchdog, catch_bus_error
from gpt_jax.train import disk_space, finetune_checkpoint
from gpt_jax.train.build import TrainerParts, build_trainer_parts
from gpt_jax.train.checkpoint import CheckpointManager
from gpt_jax.train.loop import Hooks, Intervals, run_training_loop
from gpt_jax.train.metrics import MetricsWriter
from gpt_jax.train.multihost import Preemption, run_on_first_process
from gpt_jax.train.step import State
from gpt_jax.train.trackers import check_trackers
from gpt_jax.trainer import resume
from gpt_jax.trainer.best import BestCheckpoint
from gpt_jax.trainer.dataset import load_dataset, warn_of_repetition
from gpt_jax.trainer.hooks import (
    MetricsRecorder,
    RunContext,
    TrainingHooks,
    restore_rows,
    start_trackers,
)
from gpt_jax.trainer.initialize import InitializedRun, initialize_or_restore
from gpt_jax.trainer.summary import make_summary, write_summary


def train(
    raw_config: RawConfig, workdir: Path, *, log: LogFn, trial: tuple[int, int] | None
) -> dict[str, Any]:
    """Train the config's model to the end, from the last checkpoint if there is one.

    Args:
      raw_config: nested dicts, as in config.json.
      workdir: the run's folder; if it holds a finished run, its summary is returned.
      log: receives lines for the user.
      trial: (k, n) if the run is trial k of a sweep of n, for the progress display.

    Returns:
      The run's summary.

    Raises:
      UserError: bad config or data, or a folder that is in use or holds another run.
      Preempted: a signal stopped the run; its state is saved.
      Diverged: too many non-finite steps in a row; the last checkpoint is unchanged.
    """
    # All input errors are raised before the folder is created.
    dataset = load_dataset(raw_config, log)
    config = parse_config(raw_config, dataset.vocab_size)
    run_on_first_process(lambda: check_trackers(config.train))
    parts = build_trainer_parts(config)
    _check_size(config, parts)
    next(dataset.iterate_batches(config, 0, parts.batch_shard()))  # UserError if too little data
    score_suite = None
    if config.suite.tasks:
        from gpt_jax.trainer.suite_hook import SuiteHook

        score_suite = SuiteHook(config, parts, dataset, log)

    partition = resume.describe_partition(raw_config, parts.mesh.shape, parts.microbatches)
    config_hash = config_fields.config_hash(raw_config, partition)
    progress = Progress(
        sys.stderr,
        trial=trial,
        name=config.name,
        steps=config.steps,
        report=workdir / PROGRESS_FILE,
    )
    run = RunContext(
        raw_config, config, config_hash, dataset, parts, score_suite, workdir, progress, log
    )
    with _lock_folder(workdir):
        summary = resume.open_run(run)
        if summary is not None:
            log(f'{workdir}: already done; delete the folder to run it again')
            return summary
        catch_bus_error([workdir, Path(tempfile.gettempdir()), Path('/dev/shm')])
        warn_of_repetition(dataset, config, log)
        return _train(run)


def _check_size(config: Config, parts: TrainerParts) -> None:
    """Raise UserError for too many steps, or a batch whose ids are more than the host's memory."""
    if config.steps > MAX_INT32:
        raise UserError(
            f'config.train: a run has at most {MAX_INT32:,} steps, got {config.steps:,}; train '
            'fewer tokens or flops, or larger batches'
        )
    _, count = parts.batch_shard()
    size = config.tokens_per_step // count * np.dtype(np.int32).itemsize
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if size > memory:
        raise UserError(
            f'config.train.batch_size: the token ids of {config.train.batch_size:,} sequences are '
            f'{size / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB; reduce it'
        )


@contextlib.contextmanager
def _lock_folder(workdir: Path) -> Iterator[None]:
    """Hold the folder's lock; the first process holds it for all processes."""
    if jax.process_index() > 0:
        yield
        return
    with files.hold_lock(workdir / 'lock', wait=False):
        yield


def _train(run: RunContext) -> dict[str, Any]:
    config, workdir = run.config, run.workdir
    is_first_process = jax.process_index() == 0
    with (
        _make_watchdog(config) as watchdog,
        Preemption() as preemption,  # outermost: a second signal must not end the last save
        CheckpointManager(
            workdir / 'checkpoints',
            max_to_keep=config.train.keep_checkpoints,
            keep_steps=config.train.keep_steps,
            log=run.log,
        ) as checkpoints,
        MetricsWriter(workdir, enabled=is_first_process) as metrics,
        contextlib.ExitStack() as stack,
    ):
        began = time.monotonic()
        with preemption.nothing_unsaved():
            initial = initialize_or_restore(run, checkpoints)
            start = initial.start
            metrics.resume(start)
            run.progress.on_note = watchdog.beat
            dataset = run.dataset.add_references(
                config, run.parts, workdir, start, run.progress, run.log
            )
        run = run._replace(dataset=dataset)
        seconds = initial.seconds + time.monotonic() - began

        trackers = stack.enter_context(start_trackers(run, start, enabled=is_first_process))
        recorder = MetricsRecorder(
            config, dataset.convert_loss, metrics, trackers, run.progress, start, seconds
        )
        is_evaluated = restore_rows(recorder, workdir, start, initial.unfinished_row)
        unfinished = recorder.get_unfinished()
        best = stack.enter_context(
            BestCheckpoint(config, dataset, workdir, start, unfinished, run.log)
        )
        _check_free_space(run, initial, checkpoints, best)
        training_hooks = TrainingHooks(run, checkpoints, recorder, best, preemption, initial.state)
        hooks = Hooks(
            log=recorder.log_step,
            evaluate=training_hooks.evaluate,
            run_suite=training_hooks.run_suite,
            save=training_hooks.save,
            should_stop=lambda: _should_stop(preemption, watchdog),
            should_finish=best.should_finish,
        )
        training_hooks.save_best_again(start, initial.state)
        intervals = training_hooks.make_intervals()
        try:
            state = _run_steps(run, initial, intervals, hooks, is_evaluated)
        except Diverged as error:
            recorder.flush()  # the row of the diverged step is the one to look at
            resume.record_divergence(run, error)
            raise
        finally:
            run.progress.close()
        with preemption.nothing_unsaved(checkpoints.finish_writing):
            best.wait()  # before the last row, since a finished step is not evaluated again
            recorder.flush()
            checkpoints.wait()
            summary = _summarize(run, state, recorder, best)
            trackers.finish(summary)
            return summary


def _check_free_space(
    run: RunContext, initial: InitializedRun, checkpoints: CheckpointManager, best: BestCheckpoint
) -> None:
    """Raise DiskFull if there is no room for the checkpoints, as the first process sees it."""
    state = finetune_checkpoint.drop_unsaved(run.parts.abstract_state, run.config.init_from)
    count = disk_space.count_checkpoints(
        run.config, initial.start, checkpoints.count_saved(), best.count_saved()
    )
    need = disk_space.SpaceNeed(disk_space.estimate_checkpoint_bytes(state), count)
    run_on_first_process(lambda: disk_space.check_free_space(run.workdir, [need]))


def _run_steps(
    run: RunContext, initial: InitializedRun, intervals: Intervals, hooks: Hooks, is_evaluated: bool
) -> State:
    """Run the remaining steps; if none remain and the results are lost, evaluate again."""
    config, start = run.config, initial.start
    local = run.dataset.iterate_batches(config, start, run.parts.batch_shard())
    state = run_training_loop(
        initial.step,
        initial.state,
        run.parts.shard_batches(local),
        start=start,
        steps=config.steps,
        every=intervals,
        max_skipped=config.train.max_skipped_in_row,
        hooks=hooks,
        is_evaluated=is_evaluated,
    )
    if int(state.step) == start:  # these do nothing if the results are known
        hooks.evaluate(start, state, True)
        hooks.run_suite(start, state, True)
    return state


def _summarize(
    run: RunContext, state: State, recorder: MetricsRecorder, best: BestCheckpoint
) -> dict[str, Any]:
    """Make the summary, in which every process takes part; the first process writes it."""
    config, dataset = run.config, run.dataset
    recorder.last |= dataset.measure_contamination(config, ['validation'], run.progress, run.log)
    run.progress.close()
    extra = {
        **dataset.count_examples(config),
        'fingerprint': dataset.fingerprint,
        **best.summarize(),
        'params_trained': trees.count_elements(run.parts.abstract_state.params),
        'tune_rank': config.finetune.rank,
        **dataset.score_generations(config, run.workdir, run.log),
    }
    seconds = recorder.elapsed_seconds()
    summary = make_summary(config, run.config_hash, run.parts, state, recorder.last, seconds, extra)
    return write_summary(summary, run.workdir) if jax.process_index() == 0 else summary


def _make_watchdog(config: Config) -> Watchdog:
    """Make the watchdog for lost peer processes; it is off if there is only one process."""
    seconds = 60 * config.train.stall_minutes if jax.process_count() > 1 else 0.0
    return Watchdog(seconds, f'process {jax.process_index()} of {jax.process_count()}')


def _should_stop(preemption: Preemption, watchdog: Watchdog) -> bool:
    """Vote on stopping. From the second call on, the vote shows that all processes got this far."""
    stop = preemption.requested_on_any_process()
    watchdog.beat()
    return stop
