"""Where do a run's numbers go? Into metrics.jsonl, which is the truth; timing.jsonl; and TensorBoard, a view of both.

metrics.jsonl holds what the configuration decides, timing.jsonl what the clock of this machine decides, so two equal
runs write byte-identical metrics.jsonl, however often they were interrupted. A line is one step: the step, then the
other keys in alphabetical order, floats in the shortest form that reads back as the same bits. JSON has no word for a
value that is not finite: it is written as the string 'nan', 'inf' or '-inf', so float() reads every value back.
"""

import json
import logging
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpt_jax import files
from gpt_jax.errors import UserError

METRICS, TIMING, TENSORBOARD = 'metrics.jsonl', 'timing.jsonl', 'tensorboard'


class Metrics:
    """The writer of one run's numbers.

    After a crash the files may be ahead of the checkpoint that the run goes on from, or end in half a line; `resume`
    mends both. That leaves no gap only if `flush` is called before a checkpoint of the same step is committed.

    Args:
      workdir: the run's folder; made if absent.
      tensorboard: also write event files under workdir/tensorboard, where tensorboardX is installed.
      enabled: False makes every method do nothing; of many processes only the first one writes.

    Raises:
      UserError: the folder holds a file with a broken line that no crash can have left; named as `file:line`.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, tensorboard: bool, enabled: bool = True):
        self._paths = [Path(workdir) / METRICS, Path(workdir) / TIMING]
        self._enabled = enabled
        self._tensorboard = tensorboard and enabled
        self._events: Any = None
        self._files: list[Any] = []
        self._last = -1
        if enabled:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self.resume(math.inf)

    def write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """One line for `step` in metrics.jsonl, and in timing.jsonl where `timing` holds anything.

        Raises:
          ValueError: `step` is not after the last one written, or a value is named 'step'.
        """
        if not self._enabled:
            return
        if step <= self._last:
            raise ValueError(f'{self._paths[0]}: step {step} after step {self._last}; resume(step) drops later ones')
        lines = [line(step, values), line(step, timing) if timing else '']
        for file, text in zip(self._files, lines, strict=True):
            file.write(text.encode())
        self._last = step
        if self._tensorboard:
            self._show(step, {**values, **{f'timing/{name}': value for name, value in timing.items()}})

    def flush(self) -> None:
        """Returns when every line written so far is on the disk."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def resume(self, step: float) -> None:
        """Drops every line after `step`, and a torn last line, so that `step + 1` is the next that may be written.

        Raises:
          UserError: a line before the last is broken; named as `file:line`.
        """
        if not self._enabled:
            return
        self.close()
        for path in self._paths:
            path.touch()
            kept = b''.join(text for at, text in _lines(path) if at <= step)
            if kept != path.read_bytes():
                files.write_bytes(path, kept)
        self._last = max((at for at, _ in _lines(self._paths[0])), default=-1)
        self._files = [open(path, 'ab') for path in self._paths]  # noqa: SIM115 closed by close()

    def close(self) -> None:
        """Flushes and closes the files; a later `resume` opens them again."""
        self.flush()
        for file in self._files:
            file.close()
        self._files = []
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _show(self, step: int, values: dict[str, float]) -> None:
        if self._events is None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                logging.getLogger(__name__).warning('tensorboardX is not installed: no TensorBoard view is written')
                self._tensorboard = False
                return
            # purge_step hides what an interrupted run had already shown from this step on.
            self._events = SummaryWriter(str(self._paths[0].parent / TENSORBOARD), purge_step=step)
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)


def line(step: int, values: dict[str, float]) -> str:
    """One line of metrics.jsonl.

    Raises:
      ValueError: a value is named 'step'.
    """
    if 'step' in values:
        raise ValueError("a value named 'step' would hide the step it belongs to; rename it")
    return json.dumps({'step': step, **{name: _word(values[name]) for name in sorted(values)}}) + '\n'


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics or timing file, in order, non-finite values as floats again; a torn last one is left out.

    Raises:
      UserError: no such file, or a line before the last is broken; named as `file:line`.
    """
    if not Path(path).exists():
        raise UserError(f'{path}: no such file')
    return [{name: float(v) if isinstance(v, str) else v for name, v in json.loads(t).items()} for _, t in _lines(path)]


def _word(value: float) -> float | str:
    return value if math.isfinite(value) else str(float(value))


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, bytes]]:
    """The (step, bytes) of every whole line: what lacks its newline was torn by a crash."""
    found: list[tuple[int, bytes]] = []
    for number, text in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not text.endswith(b'\n'):
            break
        try:
            found.append((int(json.loads(text)['step']), text))
        except (ValueError, TypeError, KeyError):
            raise UserError(f'{path}:{number}: not a line of metrics; mend or delete it') from None
    return found
