"""Metrics files of a run, throughput, and the loss curve.

    metrics.jsonl   the values that the config determines; the source of truth
    timing.jsonl    the values that depend on the machine's speed

Trackers such as TensorBoard are views of both (trackers.py). Two identical runs write
byte-identical metrics.jsonl, however often they are interrupted. A line is one step: first the
step, then the other keys in alphabetical order, with floats in the shortest form that reads back as
the same bits. JSON has no non-finite numbers, so those are the strings 'nan', 'inf' and '-inf',
which float() reads.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpt_jax.core import files
from gpt_jax.core.errors import UserError

METRICS_FILE, TIMING_FILE = 'metrics.jsonl', 'timing.jsonl'


class MetricsWriter:
    """Writes the metrics of one run; a context manager that closes the files.

    After a crash, the files may be ahead of the checkpoint that the run resumes from, or end in
    half a line; `resume` repairs both. No step is lost if `flush` is called before the checkpoint
    of the same step is committed.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, enabled: bool = True):
        """Open the files.

        Args:
          workdir: the run's folder; created if it does not exist.
          enabled: False makes every method a no-op; with several processes, only the first writes.

        Raises:
          UserError: a line before the last is broken; names `file:line`.
        """
        self._paths = [Path(workdir) / METRICS_FILE, Path(workdir) / TIMING_FILE]
        self._enabled = enabled
        self._files: list[Any] = []
        self._last_step = -1
        if enabled:
            Path(workdir).mkdir(parents=True, exist_ok=True)
            self.resume(math.inf)

    def write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """Write a line to metrics.jsonl and, if `timing` is not empty, to timing.jsonl.

        Raises:
          ValueError: `step` is not after the last one written, or a value is named 'step'.
        """
        if not self._enabled:
            return
        if step <= self._last_step:
            raise ValueError(
                f'{self._paths[0]}: step must be after {self._last_step}, got {step}; '
                'resume(step) drops later lines'
            )
        lines = [encode_line(step, values), encode_line(step, timing) if timing else '']
        for file, line in zip(self._files, lines, strict=True):
            with files.name_errors(file.name):
                file.write(line.encode())
        self._last_step = step

    def flush(self) -> None:
        """Return once every line is on the disk."""
        for file in self._files:
            with files.name_errors(file.name):
                file.flush()
                os.fsync(file.fileno())

    def resume(self, step: float) -> None:
        """Drop every line after `step` and a torn last line; the next step may be `step` + 1.

        Raises:
          UserError: a line before the last is broken; names `file:line`.
        """
        if not self._enabled:
            return
        self.close()
        for path in self._paths:
            path.touch()
            content = b''.join(line for line_step, line in _read_lines(path) if line_step <= step)
            if content != path.read_bytes():
                files.write_bytes(path, content)
        self._last_step = max(
            (line_step for line_step, _ in _read_lines(self._paths[0])), default=-1
        )
        self._files = [open(path, 'ab') for path in self._paths]  # noqa: SIM115 closed by close()

    def close(self) -> None:
        """Flush and close the files; `resume` opens them again."""
        self.flush()
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def encode_line(step: int, values: dict[str, float]) -> str:
    """Encode a step as a line of metrics.jsonl.

    Raises:
      ValueError: a value is named 'step'.
    """
    if 'step' in values:
        raise ValueError(
            "a metric must not be named 'step', which is the key of the step; rename it"
        )
    row: dict[str, int | float | str] = {'step': step}
    for name in sorted(values):
        value = values[name]
        row[name] = value if math.isfinite(value) else str(float(value))
    return json.dumps(row) + '\n'


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the lines of a metrics or timing file in order; a torn last line is left out.

    Non-finite values are floats again.

    Raises:
      UserError: the file does not exist, or a line before the last is broken; names `file:line`.
    """
    if not Path(path).exists():
        raise UserError(f'{path}: no such file')
    return [decode_line(line) for _, line in _read_lines(path)]


def decode_line(line: str | bytes) -> dict[str, Any]:
    """Invert `encode_line`; the step is the value of 'step'."""
    return {
        name: float(value) if isinstance(value, str) else value
        for name, value in json.loads(line).items()
    }


def _read_lines(path: str | os.PathLike[str]) -> list[tuple[int, bytes]]:
    """Read (step, bytes) of every complete line; one without a newline was torn by a crash."""
    lines: list[tuple[int, bytes]] = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b'\n'):
            break
        try:
            lines.append((int(json.loads(line)['step']), line))
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'{path}:{number}: must be a JSON object with a step; fix or delete this line'
            ) from None
    return lines


class Throughput:
    """Counts tokens and training time since the last reading; time inside `pause` does not count.

    Add a step's tokens when its metrics have arrived, not when it is dispatched: dispatch runs
    ahead of the device.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._start_window()

    def add_tokens(self, tokens: int) -> None:
        """Count the tokens of finished steps."""
        self._tokens += tokens

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock, for anything that is not a training step; may be nested."""
        if self._pauses == 0:
            self._pause_start = self._clock()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if self._pauses == 0:
                self._idle += self._clock() - self._pause_start

    def read(self) -> dict[str, float]:
        """End the window and start the next: 'seconds' of training and 'tokens_per_second'.

        Raises:
          RuntimeError: called inside `pause`.
        """
        if self._pauses:
            raise RuntimeError('read() must not be called inside pause()')
        seconds = self._clock() - self._start - self._idle
        tokens = self._tokens
        self._start_window()
        return {'seconds': seconds, 'tokens_per_second': tokens / seconds if seconds > 0 else 0.0}

    def _start_window(self) -> None:
        self._start, self._idle, self._tokens, self._pauses = self._clock(), 0.0, 0, 0


def compute_mfu(tokens_per_second: float, flops_per_token: float, peak_flops: float) -> float:
    """Compute the model FLOPs utilization (Chowdhery et al. 2022, appendix B): achieved over peak.

    Args:
      tokens_per_second: over all devices.
      flops_per_token: forward and backward, of the model, not of the hardware: recomputation is not
        counted. The caller must report whether attention is counted, and whether as causal.
      peak_flops: FLOPs per second of all devices together, at the precision of the matmuls.
    """
    return tokens_per_second * flops_per_token / peak_flops


MAX_CURVE_POINTS = 40


def make_loss_curve(rows: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """Average the training loss within bins of equal width in log tokens.

    Args:
      rows: rows of metrics.jsonl. Those without tokens or with a non-finite loss are skipped.

    Returns:
      [tokens, mean loss in nats/token] of at most MAX_CURVE_POINTS bins; the tokens are those of
      the last row in the bin.
    """
    points = [
        (float(row['tokens']), float(row['loss']))
        for row in rows
        if 'tokens' in row and 'loss' in row
    ]
    points = [(tokens, loss) for tokens, loss in points if tokens > 0 and math.isfinite(loss)]
    if not points:
        return []
    low, high = math.log(points[0][0]), math.log(points[-1][0])
    width = (high - low) / (MAX_CURVE_POINTS - 1) or 1.0
    bins: dict[int, list[tuple[float, float]]] = {}
    for tokens, loss in points:
        bins.setdefault(round((math.log(tokens) - low) / width), []).append((tokens, loss))
    return [
        [members[-1][0], round(sum(loss for _, loss in members) / len(members), 5)]
        for members in bins.values()
    ]
