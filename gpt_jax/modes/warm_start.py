"""Where does a run begin that goes on from another's weights? At its newest checkpoint; only the weights are taken."""

import dataclasses
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax import files, pretrained, tuned
from gpt_jax.assemble import Program, Settings
from gpt_jax.data.task_corpus import TaskCorpus
from gpt_jax.errors import UserError
from gpt_jax.grown import grown
from gpt_jax.modes.material import Material
from gpt_jax.modes.same_model import differences
from gpt_jax.modes.task_scores import with_references
from gpt_jax.observe.progress import Progress
from gpt_jax.train import checkpoint, manifest
from gpt_jax.train.checkpoint import Restored
from gpt_jax.train.state import State

Say = Callable[[str], None]
REFERENCES = 'references.npz'


def state(settings: Settings, program: Program, say: Say) -> State:
    """The state before the first update of the weights of `init_from`, placed as this run wants them.

    Raises:
      UserError: there is no such run or no good checkpoint, or its model is another.
    """
    if settings.task.kind != 'none':
        say(f'{settings.name}: begins with the weights of {settings.init_from}')
        return program.begin(_grown(settings, program, say))
    folder = pretrained.chosen(files.path(settings.init_from, 'config.init_from'), None)
    meta = manifest.newest_meta(folder / 'checkpoints')
    if meta is None:
        raise UserError(f'config.init_from: {folder} holds no checkpoint; name the folder of a run')
    wanted = program.abstract_state
    only = State(step=wanted.step, params=program.abstract_params, optimizer=None, skipped=None, in_row=None)
    changes = differences(meta['config']['model'], asdict(settings.model))
    if changes:
        raise UserError(f'config.init_from: {folder} holds another model ({"; ".join(changes)})')
    restored = checkpoint.load(folder / 'checkpoints', only, announce=say)
    say(f'{settings.name}: begins with the weights of {folder} at step {restored.step}')
    return program.begin(restored.state.params)


def _grown(settings: Settings, program: Program, say: Say) -> Any:
    """The weights, with rows for what their vocabulary has not, and with a head for the task."""
    found = pretrained.find(settings.init_from, asked='config.init_from', say=say)
    return grown(
        found.params, found.model, settings.model, settings.task, settings.seed, program.abstract_params
    )  # fmt: skip


def with_kept(settings: Settings, program: Program, restored: Restored, say: Say) -> State:
    """The state of a checkpoint, with what the run keeps of the weights that it began with.

    Raises:
      UserError: they are no longer what they were.
    """
    state: State = restored.state
    if not settings.init_from or program.abstract_state.kept is None:
        return state
    kept = program.kept(_grown(settings, program, say))
    tuned.check(restored.meta, kept, settings.init_from)
    return state.replace(kept=kept)


def compared(
    settings: Settings, corpus: Material, program: Program, workdir: Path, start: int, line: Progress, say: Say
) -> Material:
    """For preferences, the corpus with what the model that training begins with makes of its texts. Found once: a run
    that goes on reads it from its folder."""
    if settings.task.kind != 'prefer' or not isinstance(corpus, TaskCorpus):
        return corpus
    path = workdir / REFERENCES
    if start == 0 or not path.exists():  # what a run left there that had not come to a checkpoint may be another's
        say(f'{settings.name}: reads the preferences with the model as it is')
        begun = program.begin(_grown(settings, program, say)) if settings.init_from else program.init()
        params = program.whole(begun)
        found = {
            split: with_references(settings, program, rows, params, line).references
            for split, rows in corpus.splits.items()
        }
        if jax.process_index() == 0:
            _write(path, found)
        return _with(corpus, found)
    return _with(corpus, _read(path, corpus))


def _with(corpus: TaskCorpus, found: Any) -> TaskCorpus:
    splits = {split: dataclasses.replace(rows, references=found[split]) for split, rows in corpus.splits.items()}
    return dataclasses.replace(corpus, splits=splits)


def _write(path: Path, found: Any) -> None:
    flat = {split: np.concatenate([part for one in parts for part in one]) for split, parts in found.items()}
    content = io.BytesIO()
    np.savez(content, **flat)  # type: ignore[arg-type]  # its stubs take the names for flags
    files.write_bytes(path, content.getvalue())


def _read(path: Path, corpus: TaskCorpus) -> Any:
    found: dict[str, Any] = {}
    with np.load(path) as flat:
        for split, rows in corpus.splits.items():
            lengths = [one.inputs for example in rows.examples for one in example.stretches]
            parts = iter(np.split(flat[split], np.cumsum(lengths)[:-1]))
            found[split] = [[next(parts) for _ in example.stretches] for example in rows.examples]
    return found
