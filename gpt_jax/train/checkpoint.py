"""Checkpoints: saved in the background, and verified before they are loaded.

    checkpoints/40/state/          the arrays, written by Orbax (OCDBT, uncompressed: float32
                                   parameters do not compress)
    checkpoints/40/manifest.json   meta, and the checksum of every file (manifest.py)
    checkpoints/tmp-50/            a save in progress, or one that was killed
    checkpoints/quarantine/30-0/   a damaged checkpoint, for inspection
    checkpoints/completed.txt      records that a checkpoint was once complete here

`CheckpointManager.restore` loads the newest intact checkpoint, after it has moved damaged ones to
quarantine/. Training resumes at the batch `next_batch` of its meta (trainer/initialize.py).

A save is written into tmp-N, its manifest last, and then renamed to N. So a numbered folder is
complete or damaged, never unfinished. This module uses only the checkpointer of Orbax, since its
manager does not support manifests. Orbax takes a third of a second to import, so it is imported
when it is first needed.
"""

import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

from gpt_jax.core.errors import UserError, find_full_disk, make_disk_full
from gpt_jax.core.progress import LogFn
from gpt_jax.train import manifest
from gpt_jax.train.manifest import DamageError
from gpt_jax.train.multihost import (
    is_first_process,
    is_multiprocess,
    run_on_all_processes,
    run_on_first_process,
)

UNFINISHED_PREFIX = 'tmp-'
# The managers of this process in order of creation, which is the same on every process of a run.
_open_managers: list['CheckpointManager'] = []


class RestoredCheckpoint(NamedTuple):
    """A checkpoint's step, state and meta."""

    step: int
    state: Any
    meta: dict[str, Any]


class CheckpointManager:
    """Saves and restores the checkpoints of a run; a context manager that waits for saves at exit.

    With several processes, each creates a manager of the same folder on a shared POSIX file system
    and calls its methods in the same order. The first process verifies, quarantines and completes
    checkpoints. An error on one process is raised on all.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_to_keep: int,
        keep_steps: Iterable[int] = (),
        log: LogFn = print,
    ):
        """Open the folder and remove the leftovers of a killed save.

        Args:
          directory: the folder of the run's checkpoints.
          max_to_keep: number of newest checkpoints to keep.
          keep_steps: further steps whose checkpoints are kept.
          log: receives a line for each folder that is removed or quarantined.
        """
        if max_to_keep < 1:
            raise UserError(f'max_to_keep: must be at least 1, got {max_to_keep}')
        self._directory = Path(directory).resolve()
        self._max_to_keep, self._keep_steps = max_to_keep, frozenset(keep_steps)
        self._log = log
        self._verified: set[int] = set()  # steps saved or verified by this process
        self._thread = ThreadPoolExecutor(1, 'checkpoint')
        self._pending: Future[int] | None = None
        _open_managers.append(self)
        if is_first_process():
            for path in self._directory.glob(f'{UNFINISHED_PREFIX}*'):
                shutil.rmtree(path)
                log(f'{path}: unfinished, removed')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except Exception as close_error:
            if error is None:
                raise
            error.add_note(f'closing the checkpoints failed as well: {close_error}')

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copy the state to the host and return; a thread writes, checksums and renames it.

        Waits for the previous save; with several processes, also for a save to another folder, such
        as that of the best checkpoint. If this step already has an intact checkpoint, nothing is
        written.

        Args:
          step: the checkpoint's step.
          state: a pytree of jax.Array.
          meta: JSON values without NaN; copied before this returns.

        Raises:
          DiskFull: there was no space for this save, or for the previous one.
          RuntimeError: this save could not begin, or the previous one could not be completed.
        """
        leaves = _flatten(state)
        specs = {name: _describe(leaf) for name, leaf in leaves.items()}
        meta = json.loads(json.dumps(meta, allow_nan=False))
        # Orbax numbers the saves of a process across all folders. If processes saved to two
        # folders at once, one could wait for a signal that another sends for the other folder.
        for manager in [*_open_managers] if is_multiprocess() else [self]:
            manager.wait()
        if run_on_first_process(lambda: self._find_saved(step)) == step:
            return
        import orbax.checkpoint as ocp

        start_writing = functools.partial(
            self._checkpointer.save,
            self._unfinished_path(step) / 'state',
            args=ocp.args.PyTreeSave(leaves),
        )
        self._attempt(step, start_writing)
        self._pending = self._thread.submit(
            self._attempt, step, lambda: self._complete(step, meta, specs)
        )

    def count_saved(self) -> int:
        """Count the completed checkpoints of the folder."""
        return len(manifest.list_steps(self._directory))

    def restore(self, abstract_state: Any) -> RestoredCheckpoint | None:
        """Restore the newest intact checkpoint; None if none was ever completed here.

        A damaged checkpoint is moved to quarantine, and the one before it is tried.

        Args:
          abstract_state: a pytree of jax.ShapeDtypeStruct with shardings, or of arrays. The mesh
            may differ from the one that the state was saved from.

        Raises:
          UserError: checkpoints were completed here but none is intact, or the names, shapes or
            dtypes of the intact one differ.
        """
        self.wait()
        step = run_on_first_process(self._find_newest_valid)
        if step is None:
            return None
        self._verified.add(step)
        return _load(self._directory / str(step), abstract_state, partial=False)

    def latest_step(self) -> int | None:
        """Return the newest completed step, without verifying it."""
        return run_on_first_process(lambda: next(iter(manifest.list_steps(self._directory)), None))

    def wait(self) -> None:
        """Return once the save in progress, if any, is complete.

        Raises:
          DiskFull: there was no space for it.
          RuntimeError: it failed. Its files are removed; older checkpoints are unchanged.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            run_on_all_processes(pending.result)

    def finish_writing(self) -> None:
        """Return once this process's part of the save in progress is on disk; from any thread."""
        pending = self._pending
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait and release the threads, even if the save in progress fails."""
        try:
            self.wait()
        finally:
            if self in _open_managers:
                _open_managers.remove(self)
            self._thread.shutdown()
            if '_checkpointer' in self.__dict__:
                self._checkpointer.close()

    @functools.cached_property
    def _checkpointer(self) -> Any:
        import orbax.checkpoint as ocp

        return ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)
        )

    def _unfinished_path(self, step: int) -> Path:
        return self._directory / f'{UNFINISHED_PREFIX}{step}'

    def _attempt(self, step: int, action: Callable[[], Any]) -> int:
        """Run a part of a save; if it fails, remove the unfinished checkpoint."""
        try:
            action()
        except Exception as error:
            if is_first_process():
                shutil.rmtree(self._unfinished_path(step), ignore_errors=True)
            # Orbax's other writers failed as well; each would be logged with a traceback.
            logging.getLogger('asyncio').setLevel(logging.CRITICAL)
            if find_full_disk(error) is not None:
                raise make_disk_full(
                    f'{self._directory}: saving checkpoint {step} failed'
                ) from error
            raise RuntimeError(
                f'{self._directory}: saving checkpoint {step} failed: {error}'
            ) from error
        return step

    def _complete(self, step: int, meta: dict[str, Any], specs: dict[str, str]) -> None:
        """Complete a save in the thread; the order of the steps makes a crash safe at any point."""
        self._checkpointer.wait_until_finished()
        if not is_first_process():
            return
        unfinished = self._unfinished_path(step)
        manifest.write_manifest(unfinished, step=step, meta=meta, leaves=specs)
        unfinished.rename(self._directory / str(step))
        self._verified.add(step)
        manifest.mark_completed(self._directory)
        self._remove_old(step)

    def _remove_old(self, step: int) -> None:
        older = [
            old
            for old in manifest.list_steps(self._directory)
            if old < step and old not in self._keep_steps
        ]
        for old in older[self._max_to_keep - 1 :]:
            # Renamed first: a checkpoint that is half removed must not look damaged.
            (self._directory / str(old)).rename(self._unfinished_path(old))
            shutil.rmtree(self._unfinished_path(old))

    def _find_saved(self, step: int) -> int | None:
        """Return `step` if it has an intact checkpoint; quarantine a damaged one."""
        folder = self._directory / str(step)
        if folder.exists() and step not in self._verified:
            try:
                manifest.verify_checkpoint(folder)
            except DamageError as damage:
                self._quarantine(step, damage)
        return step if folder.exists() else None

    def _find_newest_valid(self) -> int | None:
        step = manifest.find_newest_valid(self._directory, self._quarantine)
        if step is not None:  # its writer may have been killed before it recorded the completion
            manifest.mark_completed(self._directory)
        return step

    def _quarantine(self, step: int, damage: DamageError) -> None:
        self._verified.discard(step)
        path = manifest.quarantine_checkpoint(self._directory, step)
        self._log(f'{self._directory / str(step)}: damaged ({damage}); moved to {path}')


def load_checkpoint(
    directory: str | os.PathLike[str],
    abstract_state: Any,
    *,
    step: int | None = None,
    log: LogFn = print,
) -> RestoredCheckpoint:
    """Load an intact checkpoint, or a part of it, outside its run.

    Nothing is moved or removed, so the folder may belong to a run in progress.

    Args:
      directory: the folder of the run's checkpoints.
      abstract_state: as in `CheckpointManager.restore`, but leaves may be missing:
        State(params=..., opt_state=None, ...).
      step: the checkpoint's step; None: the newest intact one.
      log: receives a line for each damaged checkpoint.

    Raises:
      UserError: there is no intact checkpoint, or a leaf is absent or has another shape or dtype.
    """
    directory = Path(directory).resolve()

    def skip(step: int, damage: DamageError) -> None:
        log(f'{directory}/{step}: damaged ({damage}); skipped')

    if step is not None:
        run_on_first_process(functools.partial(_verify_step, directory, step))
        return _load(directory / str(step), abstract_state, partial=True)
    newest = run_on_first_process(lambda: manifest.find_newest_valid(directory, skip))
    if newest is None:
        raise UserError(f'{directory}: no checkpoint here; train first, or name another folder')
    return _load(directory / str(newest), abstract_state, partial=True)


def _verify_step(directory: Path, step: int) -> int:
    steps = manifest.list_steps(directory)
    if step not in steps:
        listing = ', '.join(map(str, sorted(steps))) or 'none'
        raise UserError(f'{directory}: no checkpoint of step {step}; there are {listing}')
    try:
        manifest.verify_checkpoint(directory / str(step))
    except DamageError as damage:
        raise UserError(f'{directory}/{step}: damaged ({damage}); train that run again') from None
    return step


def _flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves by path, so that a checkpoint does not depend on any Python class."""
    import jax

    from gpt_jax.core import trees

    leaves = dict(zip(trees.name_leaves(tree), jax.tree.leaves(tree), strict=True))
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise TypeError('two leaves of the state have the same path')
    for name, leaf in leaves.items():
        if getattr(leaf, 'sharding', None) is None:
            raise TypeError(f'{name}: must be an array with a sharding, got {type(leaf).__name__}')
    return leaves


def _describe(leaf: Any) -> str:
    """Return dtype and shape: 'float32[256,64]'."""
    return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'


def _load(folder: Path, abstract_state: Any, *, partial: bool) -> RestoredCheckpoint:
    """Load a verified checkpoint; if `partial`, it may have leaves that `abstract_state` lacks."""
    import jax
    import orbax.checkpoint as ocp

    checkpoint, targets = manifest.read_manifest(folder), _flatten(abstract_state)
    saved = checkpoint['leaves']
    for name in [*targets, *(() if partial else saved)]:
        expected = _describe(targets[name]) if name in targets else 'absent'
        actual = saved.get(name, 'absent')
        if expected != actual:
            raise UserError(
                f'{folder}: {name} is {actual} in the checkpoint and {expected} in this run; use '
                "the checkpoint's own config"
            )
    restore_args = {
        name: ocp.ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        )
        for name, leaf in targets.items()
    }
    args = ocp.args.PyTreeRestore(item=targets, restore_args=restore_args, partial_restore=partial)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        leaves = checkpointer.restore(folder / 'state', args=args)
    structure = jax.tree.structure(abstract_state)
    state = jax.tree.unflatten(structure, [leaves[name] for name in targets])
    return RestoredCheckpoint(checkpoint['step'], state, checkpoint['meta'])
