"""How does a run's state outlive its process? Saved whole in the background, and read back verified or not at all.

    checkpoints/40/state/          the arrays, written by Orbax (OCDBT, uncompressed: float32 weights do not compress)
    checkpoints/40/manifest.json   meta, and the sum of every file (see manifest.py)
    checkpoints/tmp-50/            a save under way, or one that was killed
    checkpoints/quarantine/30-0/   a checkpoint that was found damaged, kept for whoever wants to look
    checkpoints/completed.txt      says that a checkpoint was once complete here, even if none is left

A save is written into tmp-N, its manifest last, and then renamed to N. So a numbered folder is complete or damaged,
never unfinished, and whatever is unfinished has a name that says so. Orbax takes a third of a second to import, so it
is not imported before something is saved or read.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

from gpt_jax.errors import UserError
from gpt_jax.train import manifest
from gpt_jax.train.manifest import DamageError
from gpt_jax.train.together import first_decides, is_first, several, together

UNFINISHED = 'tmp-'
# Those of this process, in the order in which they were made, which is the same on every process of a run.
_open: list['Checkpoints'] = []


class Restored(NamedTuple):
    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, for its one writer; a context manager that waits for the save under way at exit.

    With several processes every one of them makes it on the same (shared, POSIX) folder and calls its methods in the
    same order; the first one verifies, quarantines and completes, and an error on one is raised on all.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        keep_steps: Iterable[int] = (),
        announce: Callable[[str], None] = print,
    ):
        """Removes what a killed save left behind.

        Args:
          keep: how many of the newest checkpoints stay.
          keep_steps: those of these steps stay too.
          announce: receives one line for each thing removed or quarantined.
        """
        if keep < 1:
            raise UserError(f'keep: {keep} checkpoints; keep at least 1')
        self._directory, self._keep, self._announce = Path(directory).resolve(), keep, announce
        self._keep_steps = frozenset(keep_steps)
        self._good: set[int] = set()  # steps saved or verified by this process
        self._thread = ThreadPoolExecutor(1, 'checkpoint')
        self._pending: Future[int] | None = None
        _open.append(self)
        for left in self._directory.glob(f'{UNFINISHED}*') if is_first() else ():
            shutil.rmtree(left)
            announce(f'{left}: unfinished, removed')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except Exception as second:
            if error is None:
                raise
            error.add_note(f'and then: {second}')

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copies the state to the host and returns; a thread writes, sums and renames it. Waits for an earlier save.

        With several processes also for one to another folder (a run's best, beside its newest).
        A step that is already there and good is left as it is.

        Args:
          state: a pytree of jax.Array.
          meta: whatever JSON holds, without NaN; as it is now.

        Raises:
          RuntimeError: this save could not begin, or the one before could not be completed.
        """
        leaves = _flatten(state)
        specs = {name: _spec(leaf) for name, leaf in leaves.items()}
        meta = json.loads(json.dumps(meta, allow_nan=False))
        # Orbax counts its saves by process, whichever folder they are for: where processes save to two folders at once,
        # one may wait for a signal that another gives for the other folder.
        for each in [*_open] if several() else [self]:
            each.wait()
        if first_decides(lambda: self._saved(step)) == step:
            return
        import orbax.checkpoint as ocp

        write = functools.partial(self._orbax.save, self._unfinished(step) / 'state', args=ocp.args.PyTreeSave(leaves))
        self._attempt(step, write)
        self._pending = self._thread.submit(self._attempt, step, lambda: self._complete(step, meta, specs))

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest good checkpoint, on the shardings of `abstract_state`; None only if none was ever completed here.

        One that is damaged in any byte is moved to quarantine, and the next older one is tried.

        Args:
          abstract_state: a pytree of jax.ShapeDtypeStruct with shardings (or of arrays). The mesh need not be the one
            that the state was saved from.

        Raises:
          UserError: there were checkpoints but none is good, or the good one's names, shapes or dtypes differ.
        """
        self.wait()
        step = first_decides(self._choose)
        if step is None:
            return None
        self._good.add(step)
        return _load(self._directory / str(step), abstract_state, part=False)

    def latest(self) -> int | None:
        """The newest completed step, not verified."""
        return first_decides(lambda: next(iter(manifest.steps(self._directory)), None))

    def wait(self) -> None:
        """Returns when the save under way, if any, is complete.

        Raises:
          RuntimeError: it failed. What it wrote is removed, and older checkpoints are as they were.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            together(pending.result)

    def close(self) -> None:
        """Waits, and lets go of the threads, also when the save under way failed."""
        try:
            self.wait()
        finally:
            if self in _open:
                _open.remove(self)
            self._thread.shutdown()
            if '_orbax' in self.__dict__:
                self._orbax.close()

    @functools.cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint as ocp

        return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False))

    def _unfinished(self, step: int) -> Path:
        return self._directory / f'{UNFINISHED}{step}'

    def _attempt(self, step: int, action: Callable[[], Any]) -> int:
        try:
            action()
        except Exception as error:
            if is_first():
                shutil.rmtree(self._unfinished(step), ignore_errors=True)
            raise RuntimeError(f'{self._directory}: saving checkpoint {step} failed: {error}') from error
        return step

    def _complete(self, step: int, meta: dict[str, Any], specs: dict[str, str]) -> None:
        """In the thread: the arrays are being written; the rest follows, in the order that makes it safe."""
        self._orbax.wait_until_finished()
        if not is_first():
            return
        manifest.write(self._unfinished(step), step=step, meta=meta, leaves=specs)
        self._unfinished(step).rename(self._directory / str(step))
        self._good.add(step)
        manifest.mark_completed(self._directory)
        older = [one for one in manifest.steps(self._directory) if one < step and one not in self._keep_steps]
        for old in older[self._keep - 1 :]:
            # Renamed first, since one that is half removed must not look like one that was damaged.
            (self._directory / str(old)).rename(self._unfinished(old))
            shutil.rmtree(self._unfinished(old))

    def _saved(self, step: int) -> int | None:
        folder = self._directory / str(step)
        if folder.exists() and step not in self._good:
            try:
                manifest.verify(folder)
            except DamageError as damage:
                self._quarantine(step, damage)
        return step if folder.exists() else None

    def _choose(self) -> int | None:
        step = manifest.newest_good(self._directory, self._quarantine)
        if step is not None:  # its writer may have been killed just before it left this word
            manifest.mark_completed(self._directory)
        return step

    def _quarantine(self, step: int, damage: DamageError) -> None:
        self._good.discard(step)
        place = manifest.quarantine(self._directory, step)
        self._announce(f'{self._directory / str(step)}: damaged ({damage}); moved to {place}')


def load(
    directory: str | os.PathLike[str],
    abstract: Any,
    *,
    step: int | None = None,
    announce: Callable[[str], None] = print,
) -> Restored:
    """Reads the newest good checkpoint, or the part of it that `abstract` names, for use outside its run.

    Moves and removes nothing, so that it may look into a folder that a run is writing to.

    Args:
      step: the checkpoint of this step and no other; None: the newest.
      abstract: as for `Checkpoints.restore`, but leaves may be absent: State(params=..., optimizer=None, ...).

    Raises:
      UserError: there is no good checkpoint, or a named leaf is absent or of another shape or dtype.
    """
    directory = Path(directory).resolve()

    def skip(step: int, damage: DamageError) -> None:
        announce(f'{directory}/{step}: damaged ({damage}); skipped')

    if step is not None:
        wanted = step
        first_decides(lambda: _verified(directory, wanted))
        return _load(directory / str(step), abstract, part=True)
    step = first_decides(lambda: manifest.newest_good(directory, skip))
    if step is None:
        raise UserError(f'{directory}: no checkpoint here; train first or name another folder')
    return _load(directory / str(step), abstract, part=True)


def _verified(directory: Path, step: int) -> int:
    there = manifest.steps(directory)
    if step not in there:
        steps = ', '.join(map(str, sorted(there))) or 'none'
        raise UserError(f'{directory}: no checkpoint of step {step}; there are {steps}')
    try:
        manifest.verify(directory / str(step))
    except DamageError as damage:
        raise UserError(f'{directory}/{step}: damaged ({damage}); train that run again') from None
    return step


def _flatten(tree: Any) -> dict[str, Any]:
    """The leaves by path: what a checkpoint holds, so that it does not depend on optax's or our own classes."""
    import jax

    from gpt_jax import trees

    leaves = dict(zip(trees.names(tree), jax.tree.leaves(tree), strict=True))
    if len(leaves) != len(jax.tree.leaves(tree)):
        raise TypeError('two leaves of the state have the same path')
    for name, leaf in leaves.items():
        if getattr(leaf, 'sharding', None) is None:
            raise TypeError(f'{name}: {type(leaf).__name__} without a sharding; a state holds arrays on devices')
    return leaves


def _spec(leaf: Any) -> str:
    return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'


def _load(folder: Path, abstract: Any, *, part: bool) -> Restored:
    import jax
    import orbax.checkpoint as ocp

    good, wanted = manifest.read(folder), _flatten(abstract)
    for name in [*wanted, *(() if part else good['leaves'])]:
        here, there = _spec(wanted[name]) if name in wanted else 'absent', good['leaves'].get(name, 'absent')
        if here != there:
            raise UserError(f'{folder}: {name} is {there} in the checkpoint and {here} in this run; use its own config')
    targets = {
        name: ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)
        for name, leaf in wanted.items()
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=targets, partial_restore=part)
        leaves = reader.restore(folder / 'state', args=arguments)
    state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in wanted])
    return Restored(good['step'], state, good['meta'])
