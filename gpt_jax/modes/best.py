"""Which checkpoint is the best so far, and has the run gone on long enough without a better one?

The best lies in a run's folder as a run of its own, best/, with its tokenizer. What was seen before a restart is read
back from metrics.jsonl, so that an interrupted run ends where it would have ended.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax

from gpt_jax.assemble import Settings
from gpt_jax.modes.material import Material, judge, keep_tokenizer
from gpt_jax.observe import writers
from gpt_jax.observe.writers import METRICS
from gpt_jax.pretrained import BEST
from gpt_jax.train import checkpoint
from gpt_jax.train.state import State


class Best:
    """Follows the validations of one run; a context manager that waits for the save under way at exit."""

    def __init__(self, settings: Settings, corpus: Material, workdir: Path, start: int, say: Callable[[str], None]):
        self._judge, self._patience, self._keeps = judge(settings), settings.train.patience, settings.train.keep_best
        self._name, self._say, self._steps = settings.name, say, settings.steps
        self._score: float | None = None
        self._step, self._since = 0, 0
        self._checkpoints: Any = None
        if self._keeps:
            if start == 0 and jax.process_index() == 0:
                shutil.rmtree(workdir / BEST, ignore_errors=True)  # of a run that had not come to a checkpoint
            self._checkpoints = checkpoint.Checkpoints(workdir / BEST / 'checkpoints', keep=1, announce=say)
            if jax.process_index() == 0:
                keep_tokenizer(settings, corpus, workdir / BEST)
        for row in writers.read(workdir / METRICS) if (workdir / METRICS).exists() else []:
            if self._judge.name in row and row['step'] <= start:
                self._note(int(row['step']), float(row[self._judge.name]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.__exit__(kind, error, traceback)

    def see(self, step: int, scores: dict[str, float], state: State, meta: dict[str, Any]) -> None:
        """A validation; the state is saved where it is the best so far."""
        if self._note(step, scores[self._judge.name]) and self._checkpoints is not None:
            self._checkpoints.save(step, state, meta)

    def enough(self) -> bool:
        """Whether the last validations, `train.patience` of them, were none of them the best."""
        ends = 0 < self._patience <= self._since
        if ends:
            self._say(
                f'{self._name}: {self._since} validations without a better {self._judge.name} than '
                f'{self._score:.4f} at step {self._step}; it ends here'
            )
        return ends

    def known(self) -> dict[str, Any]:
        """For the summary."""
        if not self._keeps and not self._patience:
            return {}
        return {'best_step': self._step, f'best_{self._judge.name}': self._score}

    def _note(self, step: int, score: float) -> bool:
        better = self._judge.better(score, self._score)
        if better:
            self._step, self._score, self._since = step, score, 0
        else:
            self._since += 1
        return better
