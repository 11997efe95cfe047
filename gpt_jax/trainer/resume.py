"""Which run a folder holds, and what may change when it is resumed.

A run is identified by the fields of its config that decide its numbers, by the fingerprint of its
data and, where the result depends on them, by its devices and microbatches
(config_fields.config_hash). Everything else may change on resume. Also allowed are another path to
the same data, and another length or schedule that had the same learning rates so far: the run is
then the one that the new config would have given from the start. Every change is recorded.
"""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import Config, RawConfig, parse_config
from gpt_jax.core.errors import Diverged, UserError
from gpt_jax.core.progress import DIVERGED_FILE
from gpt_jax.optim.schedules import make_schedule
from gpt_jax.train import manifest
from gpt_jax.trainer.hooks import RunContext
from gpt_jax.trainer.summary import SUMMARY_FILE

CHANGES_FILE = 'config_changes.jsonl'
# The fields that may change if the learning rates up to now stay the same.
LENGTH_FIELDS = (
    'optimizer.schedule',
    'optimizer.warmup_fraction',
    'optimizer.decay_end_fraction',
    'optimizer.cooldown_fraction',
    'optimizer.final_lr_fraction',
    'train.steps',
    'train.tokens',
    'train.flops',
)
# The fields that may change if the fingerprint of the data stays the same.
PATH_FIELDS = ('data.source', 'data.tokenizer', 'task.source')


def describe_partition(
    raw_config: RawConfig, mesh_shape: Mapping[str, int], microbatches: int
) -> str:
    """Describe how devices and microbatches divide a batch, if the result depends on it; else ''.

    It is also '' for one device and one microbatch: 'data8-microbatches2'.
    """
    if not config_fields.depends_on_partition(raw_config):
        return ''
    sizes = {**mesh_shape, 'microbatches': microbatches}
    return '-'.join(f'{name}{size}' for name, size in sizes.items() if size > 1)


def load_finished_summary(raw_config: RawConfig, workdir: Path) -> dict[str, Any] | None:
    """Load the summary if the folder holds this run, finished, by its fields alone; else None.

    This takes no data and no devices; `open_run` decides in full.

    Raises:
      UserError: the folder holds a run with another config; names the differences.
    """
    path = workdir / SUMMARY_FILE
    if not path.exists() or not (workdir / 'config.json').exists():
        return None
    before: RawConfig = files.read_json(workdir / 'config.json')
    _check_changes(before, raw_config, workdir)
    old, new = map(config_fields.select_run_fields, (before, raw_config))
    summary: dict[str, Any] = files.read_json(path)
    return summary if old == new else None


def open_run(run: RunContext) -> dict[str, Any] | None:
    """Return the summary if the folder holds this run, finished; None if there is more to do.

    What changed in the config since the run was last trained is recorded. A finished run whose
    length changed is opened again: its summary is put aside.

    Raises:
      UserError: the folder holds a run with another config; names the differences.
      Diverged: it holds this run, which has diverged.
    """
    workdir, path = run.workdir, run.workdir / SUMMARY_FILE
    summary: dict[str, Any] | None = files.read_json(path) if path.exists() else None
    meta = manifest.read_newest_meta(_checkpoints(run))
    changes: dict[str, list[Any]] = {}
    is_longer = False
    # All checks come first: a start that is refused leaves the folder as it was.
    if (workdir / 'config.json').exists() and (summary or meta):
        before = config_fields.add_later_fields(files.read_json(workdir / 'config.json'))
        _check_changes(before, run.raw_config, workdir)
        changes = _list_changes(before, run.raw_config)
        if summary is not None:
            check_fingerprint(run, summary['fingerprint'])
            is_longer = _is_longer(before, summary['steps'], run)
        if meta is not None and (summary is None or is_longer):
            check_restored(run, meta, meta['next_batch'])
    is_done = summary is not None and not is_longer
    if not is_done:
        _check_divergence(run)
    if jax.process_index() == 0:
        _update_folder(changes, summary, is_longer, run)
    return summary if is_done else None


def record_divergence(run: RunContext, error: Diverged) -> None:
    """Note in the run's folder that it diverged, so that no later start trains it again."""
    if jax.process_index() == 0:
        entry = {
            'config_hash': run.config_hash,
            'fingerprint': run.dataset.fingerprint,
            'error': str(error),
        }
        files.write_json(run.workdir / DIVERGED_FILE, entry)


def check_restored(run: RunContext, meta: Mapping[str, Any], step: int) -> None:
    """Raise UserError if training cannot go on from this run's checkpoint of `step`.

    Args:
      meta: what the checkpoint's manifest says about its run (hooks.make_checkpoint_meta).
    """
    check_fingerprint(run, meta['fingerprint'])
    if not step:
        return  # imported weights
    check_partition(meta['config_hash'], run.config_hash, run.workdir)
    _check_length(parse_old_config(meta['config'], run.config), step, run)


def check_partition(before: str, after: str, folder: Path) -> None:
    """Raise UserError unless two hashes of a run have the same partition.

    Args:
      before: config_hash of the updates so far, which are in `folder`.
      after: config_hash of those that follow.
    """
    partitions = [one.partition('-')[2] for one in (before, after)]
    if partitions[0] != partitions[1]:
        had, has = (partition or 'one device and microbatch' for partition in partitions)
        raise UserError(
            f'{folder}: with dropout or experts, the result depends on the devices and '
            f'microbatches; this run has {had} so far, not {has}: use these again, or another '
            '--workdir'
        )


def parse_old_config(before: RawConfig, config: Config) -> Config:
    """Parse the config of a run's earlier start, which may be of an older version."""
    return parse_config(config_fields.add_later_fields(before), config.model.vocab_size)


def check_fingerprint(run: RunContext, fingerprint: str) -> None:
    """Raise UserError unless the run's data has this fingerprint, or it is ''."""
    found = run.dataset.fingerprint
    if fingerprint not in ('', found):  # '': imported weights, before any training here
        raise UserError(
            f'{run.dataset.describe_source(run.config)} is not the data that this run began with '
            f'({found[:12]}, not {fingerprint[:12]}); restore it or change --workdir'
        )


def compare_learning_rates(before: Config, after: Config, steps: int) -> str:
    """Describe the first of `steps` updates that has another share of the peak rate; '': none."""
    counts = np.arange(steps)
    had, has = (
        np.asarray(make_schedule(config.optimizer, config.steps, 1.0)(counts))
        for config in (before, after)
    )
    differ = ~np.isclose(had, has, rtol=1e-5, atol=0)
    if not differ.any():
        return ''
    first = int(differ.argmax())
    return f'update {first + 1} has {has[first]:.4g} of the peak rate, not {had[first]:.4g}'


def _checkpoints(run: RunContext) -> Path:
    return run.workdir / 'checkpoints'


def _check_changes(before: RawConfig, after: RawConfig, workdir: Path) -> None:
    """Raise UserError if a field changed that decides the run's numbers."""
    old, new = (
        {
            field: value
            for field, value in config_fields.select_run_fields(config).items()
            if field not in (*LENGTH_FIELDS, *PATH_FIELDS)
        }
        for config in (before, after)
    )
    changes = config_fields.diff_configs(old, new)
    if changes:
        raise UserError(
            f'{workdir}: holds a run of another config ({"; ".join(changes)}); '
            'choose another --workdir'
        )


def _list_changes(before: RawConfig, after: RawConfig) -> dict[str, list[Any]]:
    """List [value before, value now] of every field that differs, by name."""
    old, new = (dict(config_fields.flatten_config(config)) for config in (before, after))
    return {
        field: [old.get(field), new.get(field)]
        for field in sorted({*old, *new})
        if old.get(field) != new.get(field) and not field.startswith(('sweep.', 'benchmark.'))
    }


def _is_longer(before: RawConfig, steps: int, run: RunContext) -> bool:
    """Return whether a finished run has more to do by its new length or schedule.

    Raises:
      UserError: its `steps` updates were not those of the new config.
    """
    old = parse_old_config(before, run.config)
    if old.steps == run.config.steps and not compare_learning_rates(old, run.config, steps):
        return False
    _check_length(old, steps, run)
    return True


def _update_folder(
    changes: Mapping[str, list[Any]],
    summary: dict[str, Any] | None,
    is_longer: bool,
    run: RunContext,
) -> None:
    """Write what the new config changes in the folder.

    Args:
      summary: of the finished run; None: it is not finished.
      is_longer: whether the finished run goes on.
    """
    path = run.workdir / SUMMARY_FILE
    if changes:
        _record_changes(changes, run)
    if summary is not None and is_longer:
        steps = summary['steps']
        run.log(
            f'{run.workdir}: {steps:,} steps are done; {run.config.steps - steps:,} more follow'
        )
        path.rename(path.with_stem(f'summary_of_{steps}_steps'))
    elif summary is not None and changes:  # a sweep recognizes its trials by this hash
        partition = summary['config_hash'].partition('-')[2]
        summary['config_hash'] = config_fields.config_hash(run.raw_config, partition)
        files.write_json(path, summary)
    if summary is None or changes:
        files.write_json(run.workdir / 'config.json', run.raw_config)
    if summary is None:
        run.dataset.save_tokenizer(run.config, run.workdir)


def _check_length(old: Config, step: int, run: RunContext) -> None:
    """Raise UserError unless the run's length and schedule fit its `step` updates so far."""
    config = run.config
    if config.steps < step:
        raise UserError(
            f'{run.workdir}: has {step:,} steps already, more than the {config.steps:,} of this '
            'config; choose another --workdir'
        )
    difference = compare_learning_rates(old, config, step)
    if difference:
        warmup = old.optimizer.warmup_fraction * old.steps / config.steps
        raise UserError(
            f'{run.workdir}: has {step:,} steps with other learning rates ({difference}); a run '
            'may become longer while its rate is constant, with a warmup of as many steps '
            f'(--config.optimizer.warmup_fraction={warmup:.6g}); else choose another --workdir'
        )


def _check_divergence(run: RunContext) -> None:
    path = run.workdir / DIVERGED_FILE
    if not path.exists():
        return
    entry = files.read_json(path)
    same_data = entry['fingerprint'] == run.dataset.fingerprint
    if entry['config_hash'] == run.config_hash and same_data:
        raise Diverged(
            f'{run.workdir}: diverged before and would again: {entry["error"]}; change the config, '
            f'or delete {path} to try again'
        )


def _record_changes(changes: Mapping[str, list[Any]], run: RunContext) -> None:
    steps = manifest.list_steps(_checkpoints(run))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    entry = {'time': now, 'step': max(steps, default=0), 'changes': changes}
    with open(run.workdir / CHANGES_FILE, 'a') as file:
        file.write(json.dumps(entry) + '\n')
    words = (f'{field} {old!r} -> {new!r}' for field, (old, new) in changes.items())
    run.log(f'{run.workdir}: resumed with {"; ".join(words)} ({CHANGES_FILE})')
