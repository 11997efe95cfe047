"""The initial state of a run: its own last checkpoint, a trunk's, pretrained weights, or new.

How a checkpoint is read is in train/checkpoint.py, and what happens to a damaged one in
train/manifest.py.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import config_fields, files, model_counts
from gpt_jax.core.config import Config, RawConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.formatting import format_short_count
from gpt_jax.core.progress import LogFn
from gpt_jax.train import finetune_checkpoint
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.checkpoint import CheckpointManager, RestoredCheckpoint, load_checkpoint
from gpt_jax.train.step import State
from gpt_jax.trainer import resume
from gpt_jax.trainer.hooks import UNFINISHED_ROW, RunContext

# The fields in which a branch may differ from its trunk, besides its length and schedule.
BRANCH_FIELDS = (
    *resume.LENGTH_FIELDS,
    'train.keep_steps',
    'train.branch_from',
    'train.branch_step',
    'train.eval_tokens',
    'train.max_skipped_in_row',
)


class InitializedRun(NamedTuple):
    """A run that is ready for its next step.

    Attributes:
      step: the compiled training step.
      start: number of updates in the state.
      seconds: wall-clock seconds that they took.
      unfinished_row: the metrics of the last one so far, if its checkpoint was saved before it was
        evaluated (hooks.py); else None.
    """

    step: Callable[..., Any]
    state: State
    start: int
    seconds: float
    unfinished_row: dict[str, str] | None


def initialize_or_restore(run: RunContext, checkpoints: CheckpointManager) -> InitializedRun:
    """Compile the step and make the state concurrently, since both need the compiler.

    Raises:
      UserError: the data or the pretrained weights have changed since the run began.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        initial = executor.submit(_make_state, run, checkpoints)
        step, compile_seconds = _compile_step(run)
        state, start, seconds, unfinished_row = initial.result()
    name = run.config.name
    if run.parts.mesh_reason:
        run.log(f'{name}: {run.parts.mesh_reason}')
    run.log(f'{name}: {_describe(run)}; compiled in {compile_seconds:.1f} s')
    return InitializedRun(step, state, start, seconds, unfinished_row)


def _make_state(
    run: RunContext, checkpoints: CheckpointManager
) -> tuple[State, int, float, dict[str, str] | None]:
    """Return the initial state and the other fields of InitializedRun."""
    config, parts = run.config, run.parts
    saved = finetune_checkpoint.drop_unsaved(parts.abstract_state, config.init_from)
    restored = checkpoints.restore(saved)
    if restored is not None:
        resume.check_restored(run, restored.meta, restored.step)
        run.log(f'{config.name}: resuming from the checkpoint of step {restored.step}')
        state = _add_frozen(config, parts, restored, run.log)
        meta = restored.meta
        return state, meta['next_batch'], meta['seconds'], meta.get(UNFINISHED_ROW)
    if config.train.branch_from:
        fingerprint = run.dataset.fingerprint
        state = restore_branch(run.raw_config, config, fingerprint, parts, run.workdir, run.log)
        return state, config.train.branch_step, 0.0, None
    if config.init_from:
        from gpt_jax.trainer import init_from

        return init_from.load_pretrained_state(config, parts, run.log), 0, 0.0, None
    return parts.init_state(), 0, 0.0, None


def _add_frozen(
    config: Config, parts: TrainerParts, restored: RestoredCheckpoint, log: LogFn
) -> State:
    """Add the frozen params if the checkpoint does not contain them."""
    if not config.init_from:
        return restored.state
    from gpt_jax.trainer import init_from

    return init_from.restore_frozen(config, parts, restored, log)


def _compile_step(run: RunContext) -> tuple[Callable[..., Any], float]:
    """Return the compiled step, and the seconds that compilation took."""
    parts = run.parts
    local = run.dataset.iterate_batches(run.config, 0, parts.batch_shard())
    batch = next(parts.shard_batches(local))
    began = time.monotonic()
    step = parts.train_step.lower(parts.abstract_state, batch).compile()
    return step, time.monotonic() - began


def _describe(run: RunContext) -> str:
    config, mesh = run.config, run.parts.mesh
    params = {
        name: format_short_count(value)
        for name, value in model_counts.parameters(config.model).items()
    }
    active = '' if params['active'] == params['total'] else f'{params["active"]} active, '
    tokens = format_short_count(config.steps * config.tokens_per_step)
    return (
        f'{params["total"]} parameters ({active}{params["non_embedding"]} without embeddings), '
        f'{tokens} tokens in {config.steps:,} steps '
        f'on {mesh.size} x {mesh.devices.flat[0].device_kind}'
    )


def resolve_trunk(config: Config, workdir: Path) -> Path:
    """Return the trunk's folder: train.branch_from is a path, or a trial of the same sweep."""
    trunk = config.train.branch_from
    return Path(trunk) if '/' in trunk else workdir.parent / trunk


def restore_branch(
    raw_config: RawConfig,
    config: Config,
    fingerprint: str,
    parts: TrainerParts,
    workdir: Path,
    log: LogFn,
) -> State:
    """Restore the trunk's state after `train.branch_step` updates, for a cooldown branch.

    Args:
      fingerprint: the fingerprint of this run's data, which must be the trunk's data.
      workdir: the branch's folder.

    Raises:
      UserError: there is no such run or checkpoint, or the trunk differs in more than
        BRANCH_FIELDS, or in its learning rates up to `train.branch_step`.
    """
    trunk, step = resolve_trunk(config, workdir), config.train.branch_step
    if step >= config.steps:
        raise UserError(
            f'config.train.branch_step: must be before the end of the run at step {config.steps}, '
            f'got {step}'
        )
    if not (trunk / 'config.json').exists():
        raise UserError(f'config.train.branch_from: {trunk} holds no run; train the trunk first')
    trunk_config = files.read_json(trunk / 'config.json')
    trunk_fields, branch_fields = (
        {
            field: value
            for field, value in config_fields.select_run_fields(section).items()
            if field not in BRANCH_FIELDS
        }
        for section in (trunk_config, raw_config)
    )
    changes = config_fields.diff_configs(trunk_fields, branch_fields)
    if changes:
        raise UserError(
            f'config.train.branch_from: {trunk} must match this run except in length and schedule, '
            f'got {"; ".join(changes)}'
        )
    parsed_trunk = resume.parse_old_config(trunk_config, config)
    difference = resume.compare_learning_rates(parsed_trunk, config, step)
    if difference:
        raise UserError(
            f'config.train.branch_step: up to step {step} this run must have the learning rates of '
            f'{trunk}, but {difference}; branch off earlier, or change the schedule'
        )
    saved = finetune_checkpoint.drop_unsaved(parts.abstract_state, config.init_from)
    restored = load_checkpoint(trunk / 'checkpoints', saved, step=step, log=log)
    partition = resume.describe_partition(raw_config, parts.mesh.shape, parts.microbatches)
    resume.check_partition(
        restored.meta['config_hash'], config_fields.config_hash(raw_config, partition), trunk
    )
    if restored.meta['fingerprint'] != fingerprint:
        raise UserError(
            f'config.train.branch_from: {trunk} was not trained on {config.data.source}'
        )
    log(f'{config.name}: branches off {trunk.name} at step {step}')
    return _add_frozen(config, parts, restored, log)
