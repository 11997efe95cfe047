"""What does one see while a run trains? One line: which trial, how far, the loss, the speed, the time left."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

PRINT_EVERY = 10.0  # seconds between lines where the line cannot be rewritten: a log file, a pipe
REPORT_EVERY = 0.5  # seconds between two writings of the file that others watch
SMOOTHING = 0.8  # of the old rate kept at each update; evaluations and checkpoints come in bursts


class Progress:
    """Draws the line of one trial; on a terminal it rewrites itself, elsewhere a line is printed every few seconds.

    Args:
      stream: where to draw; sys.stderr by habit, so that a command's output can be piped.
      trial: (k, n) for trial k of n, counted from 1; None for a run that stands alone.
      name: the trial's name.
      steps: the step that the run ends at.
      report: a file that holds {"text": the line's own part}, for whoever watches the process from outside; or None.
      clock: seconds, monotonic.
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
        self.on_note: Callable[[], None] = lambda: None  # called where work goes on between steps
        self._stream, self._trial, self._name, self._steps, self._clock = stream, trial, name, steps, clock
        self._terminal = stream.isatty()
        self._drawn, self._printed = '', -math.inf
        self._text, self._head, self._noted = '', name, False
        self._seen: tuple[int, float] | None = None
        self._pace: float | None = None  # seconds per step

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Shows `step`; the time left is counted from the first update on, so that compiling does not enter it."""
        now = self._clock()
        if self._seen is not None and step > self._seen[0]:
            pace = (now - self._seen[1]) / (step - self._seen[0])
            self._pace = pace if self._pace is None else SMOOTHING * self._pace + (1 - SMOOTHING) * pace
        if self._seen is None or step > self._seen[0]:
            self._seen = step, now
        left = None if self._pace is None else self._pace * (self._steps - step)
        text = line(self._trial, self._name, step, self._steps, loss, tokens_per_second, left)
        self._text, self._head, self._noted = text, ' · '.join(_head(self._trial, self._name, step, self._steps)), False
        self._show(text, now, at_once=step >= self._steps)

    def note(self, what: str) -> None:
        """Shows what is done between steps, in the place of the latest step's numbers."""
        self._noted = True
        self.on_note()
        self._show(f'{self._head} · {what}', self._clock(), at_once=False)

    def close(self) -> None:
        """Leaves the last line standing, so that what is written next begins on its own."""
        if self._drawn:
            if self._noted and self._text:
                self._rewrite(self._text)  # without what was done last between steps
            self._stream.write('\n')
            self._stream.flush()
            self._drawn = ''

    def _show(self, text: str, now: float, *, at_once: bool) -> None:
        if self._report is not None and (at_once or now - self._reported >= REPORT_EVERY):
            self._reported = now
            self._report.write_text(json.dumps({'text': text.split(f'{self._name} · ', 1)[-1]}))
        if self._terminal:
            self._rewrite(text)
        elif now - self._printed >= PRINT_EVERY or at_once:
            self._stream.write(_writable(text, self._stream) + '\n')
            self._stream.flush()
            self._printed = now

    def _rewrite(self, text: str) -> None:
        # A line that wraps cannot be rewritten: the carriage return goes back to its last row only.
        text = _writable(text, self._stream)[: shutil.get_terminal_size().columns - 1]
        self._stream.write('\r' + text.ljust(len(self._drawn)))
        self._stream.flush()
        self._drawn = text


def line(
    trial: tuple[int, int] | None,
    name: str,
    step: int,
    steps: int,
    loss: float,
    tokens_per_second: float,
    seconds_left: float | None,
) -> str:
    """The line itself; `seconds_left` None, before there is a rate, leaves the time out."""
    parts = [*_head(trial, name, step, steps), f'loss {loss:.3f}', f'{count(tokens_per_second)} tok/s']
    if seconds_left is not None:
        parts.append(f'{duration(seconds_left)} left')
    return ' · '.join(parts)


def _head(trial: tuple[int, int] | None, name: str, step: int, steps: int) -> list[str]:
    return [*([f'trial {trial[0]} of {trial[1]}'] if trial else []), name, f'step {step}/{steps}']


def count(value: float) -> str:
    """A number at a glance, with three figures or so: 950, 1.2k, 51.2k, 3.4M, 1.5B, 2.0T."""
    for limit, unit in ((1e3, ''), (1e6, 'k'), (1e9, 'M'), (1e12, 'B')):
        digits = 0 if unit == '' else 1
        # Rounded before it is compared: 999,960 is 1.0M, not 1000.0k.
        scaled = round(value / (limit / 1e3), digits)
        if abs(scaled) < 1e3:
            return f'{scaled:.{digits}f}{unit}'
    return f'{value / 1e12:.1f}T' if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    """0:42, 12:07, 1:02:03; whole seconds, hours without end."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f'{hour}:{minute:02d}:{second:02d}' if hour else f'{minute}:{second:02d}'


def _writable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, 'encoding', None) or 'utf-8'
    return text.encode(encoding, 'replace').decode(encoding)
