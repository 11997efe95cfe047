"""Several small trials of a sweep, trained at once in one process by `vmap`.

A small model leaves a device mostly idle; several at once keep it busy. With several devices, each
trains some of the runs, so the devices do not communicate.

The trials may differ in seed and learning rate only. Each has its own folder with all files of a
run. They save together, and resume from the newest step that all of them have saved. Their
numbers equal those of separate runs up to rounding, not bit for bit, since a device computes whole
runs instead of a part of one run's batch.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.errors import Diverged, UserError
from gpt_jax.core.progress import PROGRESS_FILE, LogFn, Progress
from gpt_jax.finetune.partition import Partitioner
from gpt_jax.model import weights
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train import disk_space, manifest
from gpt_jax.train.build import (
    TrainerParts,
    build_trainer_parts,
    declare_params,
    init_params,
    make_param_layout,
)
from gpt_jax.train.checkpoint import CheckpointManager, load_checkpoint
from gpt_jax.train.loop import Hooks, Intervals, run_training_loop
from gpt_jax.train.metrics import METRICS_FILE, MetricsWriter
from gpt_jax.train.multihost import Preemption
from gpt_jax.train.objective import make_loss
from gpt_jax.train.step import State, create_state, make_step
from gpt_jax.train.trackers import check_trackers
from gpt_jax.trainer import resume
from gpt_jax.trainer.dataset import VALIDATION_PREFIX, load_text_data
from gpt_jax.trainer.hooks import (
    UNFINISHED_ROW,
    MetricsRecorder,
    RunContext,
    make_checkpoint_meta,
    start_trackers,
    stop_on_signal,
)
from gpt_jax.trainer.summary import make_summary, write_summary

RUNS_AXIS = 'runs'  # a mesh axis of this module only; no model or rule refers to it


class VmappedRuns(NamedTuple):
    """Jitted functions on arrays [runs, ...] distributed over `mesh`.

    init: (seeds) -> states.
    step: (states, batches, seeds, learning rates) -> (states, metrics); donates the states.
    """

    mesh: Mesh
    init: Any
    step: Any


def build_vmapped_runs(config: Config, runs: int) -> VmappedRuns:
    """Build `runs` copies of a run that differ in seed and learning rate.

    They use the largest number of local devices that divides `runs`.
    """
    boxed = declare_params(config.model)
    partitioner = Partitioner(config.finetune, config.model, boxed, config.seed)
    param_layout = make_param_layout(config.model, UNSHARDED, partitioner.abstract.trainable)

    def init(seed: jax.Array) -> State:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params = weights.unbox(init_params(config.model, key))
        optimizer, _ = partitioner.make_optimizer(config.optimizer, config.steps)
        return create_state(partitioner.partition(params), optimizer)

    def step(state: State, batch: Any, seed: jax.Array, learning_rate: jax.Array) -> Any:
        optimizer, schedule = partitioner.make_optimizer(
            config.optimizer, config.steps, learning_rate
        )
        run_step = make_step(
            make_loss(config.model, UNSHARDED, train=True),
            optimizer,
            schedule,
            sharding=None,
            microbatches=config.train.microbatches(1),
            clip_norm=config.optimizer.grad_clip_norm,
            seed=seed,
            param_layout=param_layout,
            combine=partitioner.combine_with_dropout,
        )
        return run_step(state, batch)

    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if runs % n == 0)
    mesh = Mesh(devices[:count], (RUNS_AXIS,))
    spec = PartitionSpec(RUNS_AXIS)

    def map_runs(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.shard_map(
            jax.vmap(function), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )

    sharding = NamedSharding(mesh, spec)
    return VmappedRuns(
        mesh=mesh,
        init=jax.jit(map_runs(init), out_shardings=sharding),
        step=jax.jit(map_runs(step), donate_argnums=0, out_shardings=sharding),
    )


def select_states(states: Any, shardings: Any) -> Iterator[Any]:
    """Yield the state of each run, by way of the host, where nothing is compiled.

    Args:
      states: the states of all runs, stacked.
      shardings: those of one state, in the same tree.
    """
    leaves, structure = jax.tree.flatten(jax.device_get(states))
    for of_one_run in zip(*leaves, strict=True):
        # Copied: on a CPU, these share the memory of `states`, which the next step overwrites.
        state = jax.tree.unflatten(structure, [np.array(leaf) for leaf in of_one_run])
        yield jax.device_put(state, shardings)


def stack_states(states: list[Any], mesh: Mesh) -> Any:
    """Stack the states of all runs and distribute them over `mesh`; inverts `select_states`."""
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack([jax.device_get(leaf) for leaf in leaves]), *states
    )
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(RUNS_AXIS)))


VARYING_FIELDS = ('seed', 'optimizer.learning_rate')  # the trials of a group may differ in these
# A trial that sets one of these trains in its own process.
SEPARATE_FIELDS = (
    'train.keep_steps',
    'train.branch_from',
    'train.early_stopping_patience',
    'init_from',
    'task.source',
    'suite.tasks',
)


def group_trials(trials: dict[str, RawConfig], limit: int) -> list[list[str]]:
    """Group the trials that may train at once, at most `limit` in a group, in the given order.

    Returns:
      The names of the trials of each process.
    """
    groups: list[list[str]] = []
    for name, raw_config in trials.items():
        candidates = [] if _separate_fields(raw_config) else groups
        for group in candidates:
            if len(group) < limit and _shared_key(trials[group[0]]) == _shared_key(raw_config):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _shared_key(raw_config: RawConfig) -> str:
    """Return the fields that the trials of a group must share, as text."""
    fields = config_fields.select_run_fields(raw_config)
    return json.dumps({key: value for key, value in fields.items() if key not in VARYING_FIELDS})


def _separate_fields(raw_config: RawConfig) -> list[str]:
    """List the fields of the config that require the trial to have its own process."""
    fields = dict(config_fields.flatten_config(raw_config))
    return [field for field in SEPARATE_FIELDS if fields[field]]


def train_trials(trials: dict[str, RawConfig], workdir: Path, log: LogFn) -> None:
    """Train one group of trials in `workdir`/trials/NAME, from their newest common checkpoint.

    Args:
      trials: configs by name.
      workdir: the sweep's folder.

    Raises:
      UserError: the trials cannot train together, the data is bad, or a folder is in use.
      Preempted: a signal stopped the trials; all are saved.
      Diverged: some trials diverged; the others are finished.
    """
    _check_group(trials)
    names = list(trials)
    dataset = load_text_data(trials[names[0]], log)
    configs = {name: parse_config(trials[name], dataset.vocab_size) for name in names}
    config = configs[names[0]]
    check_trackers(config.train)
    parts = build_trainer_parts(config)
    vmapped = build_vmapped_runs(config, len(names))
    folder = workdir / 'trials'
    # Each trial has the numbers of a run on one device (build_vmapped_runs).
    microbatches = config.train.microbatches(1)
    partition = resume.describe_partition(trials[names[0]], {}, microbatches)
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        progress = Progress(
            sys.stderr,
            trial=None,
            name=f'{names[0]} and {len(names) - 1} more',
            steps=config.steps,
            report=folder / names[0] / PROGRESS_FILE,
        )
        stack.callback(progress.close)
        runs = []
        for name in names:
            config_hash = config_fields.config_hash(trials[name], partition)
            run = RunContext(
                trials[name],
                configs[name],
                config_hash,
                dataset,
                parts,
                None,
                folder / name,
                progress,
                log,
            )
            runs.append(_TrialRun(run, stack, count=len(names), is_shown=name == names[0]))
        _TrialGroup(runs, parts, vmapped, preemption).train(log)


def _check_group(trials: dict[str, RawConfig]) -> None:
    """Raise UserError if the trials cannot train together."""
    argument = f'--trial={",".join(trials)}'
    if len({_shared_key(raw_config) for raw_config in trials.values()}) > 1:
        raise UserError(
            f'{argument}: must differ only in {" and ".join(VARYING_FIELDS)}; train them separately'
        )
    for name, raw_config in trials.items():
        for field in _separate_fields(raw_config):
            raise UserError(
                f'{argument}: {field} ({name}) needs a process of its own; train it separately'
            )


class _TrialRun:
    """One trial of a group: its folder, and the writers of its files.

    Args:
      stack: closes the writers and releases the folder's lock.
      count: number of trials in the group.
      is_shown: whether the progress display shows this trial, on behalf of all.
    """

    def __init__(self, run: RunContext, stack: contextlib.ExitStack, *, count: int, is_shown: bool):
        self.context, self.config = run, run.config
        self._count, self._is_shown, self._stack = count, is_shown, stack
        stack.enter_context(files.hold_lock(run.workdir / 'lock', wait=False))
        if resume.open_run(run):
            raise UserError(f'{run.workdir}: already done; leave it out of --trial')
        train = run.config.train
        self.checkpoints = stack.enter_context(
            CheckpointManager(
                run.workdir / 'checkpoints', max_to_keep=train.keep_checkpoints, log=run.log
            )
        )
        self._metrics = stack.enter_context(MetricsWriter(run.workdir))
        self._trackers: Any = None  # Trackers, and a MetricsRecorder, once the start is known
        self.recorder: Any = None

    def begin(self, start: int, meta: Mapping[str, Any]) -> bool:
        """Start recording after `start` updates.

        Args:
          meta: the meta of the checkpoint that has them; {} without one.

        Returns:
          Whether the evaluations of step `start` are done.
        """
        run = self.context
        self._metrics.resume(start)
        self._trackers = self._stack.enter_context(start_trackers(run, start, enabled=True))
        progress = run.progress if self._is_shown else None
        seconds = meta.get('seconds', 0.0)
        self.recorder = MetricsRecorder(
            run.config,
            run.dataset.convert_loss,
            self._metrics,
            self._trackers,
            progress,
            start,
            seconds,
        )
        path = run.workdir / METRICS_FILE
        return self.recorder.restore(path, start, meta.get(UNFINISHED_ROW))

    def evaluate(self, step: int, params: Any) -> None:
        run = self.context
        if not self.recorder.has_results(step, VALIDATION_PREFIX):
            scores = run.dataset.validate(run.config, run.parts, params, run.progress)
            self.recorder.add(step, scores)

    def save(self, step: int, state: Any, is_complete: bool) -> None:
        """Save a checkpoint, as TrainingHooks.save does."""
        run = self.context
        seconds = self.recorder.elapsed_seconds()
        meta = make_checkpoint_meta(
            run.raw_config, run.config_hash, run.dataset.fingerprint, step, seconds
        )
        if is_complete:
            self.recorder.flush()
        else:
            meta[UNFINISHED_ROW] = self.recorder.flush_before(step)
        self.checkpoints.save(step, state, meta)

    def finish(self, state: Any) -> None:
        """Write the summary; the trial's time is its share of the group's."""
        run = self.context
        self.recorder.flush()
        self.checkpoints.wait()
        seconds = self.recorder.elapsed_seconds() / self._count
        extra = {**run.dataset.count_examples(run.config), 'fingerprint': run.dataset.fingerprint}
        summary = make_summary(
            run.config, run.config_hash, run.parts, state, self.recorder.last, seconds, extra
        )
        summary = write_summary(summary | {'trials_per_process': self._count}, run.workdir)
        self._trackers.finish(summary)


class _TrialGroup:
    """The trials of one process, and the functions that the training loop calls for all of them."""

    def __init__(
        self,
        runs: list[_TrialRun],
        parts: TrainerParts,
        vmapped: VmappedRuns,
        preemption: Preemption,
    ):
        self._runs, self._parts, self._vmapped = runs, parts, vmapped
        self._preemption = preemption

    def train(self, log: LogFn) -> None:
        """Train all trials to their end and write their summaries."""
        config, preemption = self._runs[0].config, self._preemption
        seeds = jnp.array([run.config.seed for run in self._runs], jnp.uint32)
        rates = jnp.array([run.config.optimizer.learning_rate for run in self._runs], jnp.float32)
        with preemption.nothing_unsaved():
            start, metas, states = self._restore()
            if states is None:
                states = self._vmapped.init(seeds)
            evaluated = [
                run.begin(start, meta) for run, meta in zip(self._runs, metas, strict=True)
            ]
            self._check_free_space(start)
            step = self._compile_step(states, seeds, rates, log)
        states = run_training_loop(
            lambda states, batch: step(states, batch, seeds, rates),
            states,
            self._iterate_batches(start),
            start=start,
            steps=config.steps,
            every=Intervals(
                log=config.train.log_every,
                evaluate=config.train.eval_every,
                suite=0,
                save=config.train.checkpoint_every,
                save_steps=(),
            ),
            max_skipped=config.train.max_skipped_in_row,
            hooks=Hooks(
                log=self._log_step,
                evaluate=self._evaluate,
                run_suite=lambda *_: None,
                save=self._save,
                should_stop=preemption.requested_on_any_process,
                should_finish=lambda: False,
            ),
            is_evaluated=all(evaluated),
        )
        if config.steps == start:  # killed before the summaries; does nothing for known results
            self._evaluate(start, states, True)
        with preemption.nothing_unsaved(self._finish_writing):
            self._finish(states)

    def _compile_step(
        self, states: Any, seeds: jax.Array, rates: jax.Array, log: LogFn
    ) -> Callable[..., Any]:
        began = time.monotonic()
        batch = next(self._iterate_batches(0))
        step = self._vmapped.step.lower(states, batch, seeds, rates).compile()
        log(
            f'{len(self._runs)} runs at once on {self._vmapped.mesh.size} devices; '
            f'compiled in {time.monotonic() - began:.1f} s'
        )
        return step

    def _check_free_space(self, start: int) -> None:
        size = disk_space.estimate_checkpoint_bytes(self._parts.abstract_state)
        needs = [
            disk_space.SpaceNeed(
                size,
                disk_space.count_checkpoints(run.config, start, run.checkpoints.count_saved(), 0),
            )
            for run in self._runs
        ]
        disk_space.check_free_space(self._runs[0].context.workdir, needs)

    def _log_step(self, step: int, values: dict[str, Any]) -> None:
        for index, run in enumerate(self._runs):
            run.recorder.log_step(step, {name: value[index] for name, value in values.items()})

    def _evaluate(self, step: int, states: Any, is_saved: bool) -> None:
        config, finish = self._runs[0].config, self._finish_writing
        reason = f'stopped and saved at step {step} of {config.steps}, before validation was done'
        progress = self._runs[0].context.progress
        with (
            self._pause_meters(),
            stop_on_signal(self._preemption, progress, reason, finish if is_saved else None),
        ):
            for run, state in zip(self._runs, self._select_states(states), strict=True):
                run.evaluate(step, self._parts.combine_params(state))

    def _save(self, step: int, states: Any, is_complete: bool, wait: bool) -> None:
        with self._pause_meters():
            for run, state in zip(self._runs, self._select_states(states), strict=True):
                run.save(step, state, is_complete)
            if wait:
                for run in self._runs:
                    run.checkpoints.wait()

    def _finish_writing(self) -> None:
        for run in self._runs:
            run.checkpoints.finish_writing()

    @contextlib.contextmanager
    def _pause_meters(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for run in self._runs:
                stack.enter_context(run.recorder.meter.pause())
            yield

    def _select_states(self, states: Any) -> Iterator[Any]:
        """Yield the state of each trial, sharded like that of a separate run."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._parts.abstract_state)
        return select_states(states, shardings)

    def _restore(self) -> tuple[int, list[dict[str, Any]], Any]:
        """Load the newest step that all trials have saved.

        Returns:
          (step, each trial's meta, states); (0, ..., None) if there is none.
        """
        folders = [run.context.workdir / 'checkpoints' for run in self._runs]
        common = set.intersection(*(set(manifest.list_steps(folder)) for folder in folders))
        abstract = self._parts.abstract_state
        for step in sorted(common, reverse=True):
            try:
                checkpoints = [load_checkpoint(folder, abstract, step=step) for folder in folders]
            except UserError:
                continue  # one is damaged; an older step may be valid for all
            for run, checkpoint in zip(self._runs, checkpoints, strict=True):
                resume.check_restored(run.context, checkpoint.meta, step)
            states = stack_states([c.state for c in checkpoints], self._vmapped.mesh)
            return step, [c.meta for c in checkpoints], states
        return 0, [{} for _ in self._runs], None

    def _iterate_batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Stack the batches of all trials; trials with the same seed read them once."""
        seeds = [run.config.seed for run in self._runs]
        feeds = {
            run.config.seed: run.context.dataset.iterate_batches(run.config, start, (0, 1))
            for run in self._runs
        }
        while True:
            batches = {seed: next(feed) for seed, feed in feeds.items()}
            yield {
                name: np.stack([batches[seed][name] for seed in seeds])
                for name in batches[seeds[0]]
            }

    def _finish(self, states: Any) -> None:
        """Write the summaries of the trials that did not diverge; raise Diverged for the others."""
        limit = self._runs[0].config.train.max_skipped_in_row
        diverged = []
        skips = jax.device_get(states.skipped_in_row).tolist()
        for run, state, skipped in zip(self._runs, self._select_states(states), skips, strict=True):
            if skipped >= limit:
                diverged.append(run.config.name)
                error = Diverged(f'{skipped} steps in a row up to the end were not finite')
                resume.record_divergence(run.context, error)
            else:
                run.finish(state)
        if diverged:
            raise Diverged(
                f'{", ".join(diverged)}: non-finite steps up to the end; the others are finished'
            )
