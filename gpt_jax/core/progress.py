"""The progress line of a run: trial, step, loss, speed, time left."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from gpt_jax.core.formatting import format_duration, format_short_count

LogFn = Callable[[str], None]  # takes one line for the user

PROGRESS_FILE = 'progress.json'  # in the run folder; a sweep reads it to watch its trials
DIVERGED_FILE = 'diverged.json'  # in the run folder; a sweep does not run this trial again
PRINT_EVERY = 10.0  # seconds between lines if the line cannot be rewritten: a log file, a pipe
REPORT_EVERY = 0.5  # seconds between writes of PROGRESS_FILE
SMOOTHING = 0.8  # weight of the old pace at each update; evaluations and checkpoints cause spikes


class Progress:
    """Display of a run's progress: a line rewritten in place on a terminal, or else printed lines.

    Args:
      stream: where to write; usually sys.stderr, so that a command's output can be piped.
      trial: (k, n) for trial k of n, from 1; None outside a sweep.
      name: the name to show for the run or trial.
      steps: the run's total number of steps.
      report: JSON file that receives {"text": ...}, for processes that watch this one; None: no
        file.
      clock: returns monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        trial: tuple[int, int] | None,
        name: str,
        steps: int,
        report: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._report, self._reported = report, -math.inf
        self.on_note: Callable[[], None] = lambda: None  # called during work between steps
        self._stream, self._clock = stream, clock
        self._trial, self._name, self._steps = trial, name, steps
        self._terminal = stream.isatty()
        self._drawn, self._printed = '', -math.inf
        self._text, self._head, self._noted = '', name, False
        self._seen: tuple[int, float] | None = None
        self._pace: float | None = None  # seconds per step

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Show `step`; the pace is measured from the first update, so compilation is excluded."""
        now = self._clock()
        if self._seen is not None and step > self._seen[0]:
            pace = (now - self._seen[1]) / (step - self._seen[0])
            old = self._pace
            self._pace = pace if old is None else SMOOTHING * old + (1 - SMOOTHING) * pace
        if self._seen is None or step > self._seen[0]:
            self._seen = step, now
        left = None if self._pace is None else self._pace * (self._steps - step)
        self._head = ' · '.join(_head(self._trial, self._name, step, self._steps))
        self._text = format_progress(
            self._trial, self._name, step, self._steps, loss, tokens_per_second, left
        )
        self._noted = False
        self._show(self._text, now, at_once=step >= self._steps)

    def note(self, what: str) -> None:
        """Show work between steps in place of the latest step's numbers."""
        self._noted = True
        self.on_note()
        self._show(f'{self._head} · {what}', self._clock(), at_once=False)

    def close(self) -> None:
        """End the line, so that later output starts on its own line."""
        if self._drawn:
            if self._noted and self._text:
                self._rewrite(self._text)  # show the last step again instead of the note
            self._stream.write('\n')
            self._stream.flush()
            self._drawn = ''

    def _show(self, text: str, now: float, *, at_once: bool) -> None:
        if self._report is not None and (at_once or now - self._reported >= REPORT_EVERY):
            self._reported = now
            with contextlib.suppress(OSError):  # a full disk must not end a run for its display
                self._report.write_text(json.dumps({'text': text.split(f'{self._name} · ', 1)[-1]}))
        if self._terminal:
            self._rewrite(text)
        elif now - self._printed >= PRINT_EVERY or at_once:
            with contextlib.suppress(OSError):
                self._stream.write(_writable(text, self._stream) + '\n')
                self._stream.flush()
            self._printed = now

    def _rewrite(self, text: str) -> None:
        # A wrapped line cannot be rewritten: a carriage return only goes back to its last row.
        text = _writable(text, self._stream)[: shutil.get_terminal_size().columns - 1]
        self._stream.write('\r' + text.ljust(len(self._drawn)))
        self._stream.flush()
        self._drawn = text


def format_progress(
    trial: tuple[int, int] | None,
    name: str,
    step: int,
    steps: int,
    loss: float,
    tokens_per_second: float,
    seconds_left: float | None,
) -> str:
    """Return the progress line; it omits the time left if `seconds_left` is None (no pace yet)."""
    parts = [
        *_head(trial, name, step, steps),
        f'loss {loss:.3f}',
        f'{format_short_count(tokens_per_second)} tok/s',
    ]
    if seconds_left is not None:
        parts.append(f'{format_duration(seconds_left)} left')
    return ' · '.join(parts)


def _head(trial: tuple[int, int] | None, name: str, step: int, steps: int) -> list[str]:
    return [*([f'trial {trial[0]} of {trial[1]}'] if trial else []), name, f'step {step}/{steps}']


def _writable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, 'encoding', None) or 'utf-8'
    return text.encode(encoding, 'replace').decode(encoding)
