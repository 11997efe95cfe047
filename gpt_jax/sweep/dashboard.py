"""The display of a running sweep: a table redrawn in place, or lines in a log file."""

import math
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from gpt_jax.core.formatting import format_duration
from gpt_jax.core.progress import PRINT_EVERY

REDRAW_SECONDS = 0.5
MAX_ENDED, MAX_ELSEWHERE, MAX_WAITING = 8, 8, 4  # rows of the table


class DashboardRow(NamedTuple):
    """A trial's row. state: waiting, running, elsewhere (in another process), done or failed."""

    state: str
    detail: str


class Dashboard:
    """The trials of a sweep as they wait, run and end.

    Args:
      stream: where to draw, usually sys.stderr.
      name: the sweep's name.
      costs: FLOPs of each trial by name, in order; used to estimate the time left.
      clock: returns monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        name: str,
        costs: dict[str, float],
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream, self._name, self._costs, self._clock = stream, name, costs, clock
        self._is_terminal = stream.isatty()
        self._rows = {trial: DashboardRow('waiting', '') for trial in costs}
        self._began, self._lines_drawn, self._last_refresh = clock(), 0, -math.inf
        self._done_here: set[str] = set()  # trials done in this call; they set the estimated pace

    def start(self, names: list[str]) -> None:
        """Show trials as running."""
        for name in names:
            self._rows[name] = DashboardRow('running', 'starting')
        self._last_refresh = self._clock()
        self._draw()

    def mark_elsewhere(self, names: list[str]) -> None:
        """Show trials as running in another process, or waiting for one that is."""
        for name in names:
            self._rows[name] = DashboardRow('elsewhere', '')
        self._draw()

    def refresh(self, text: str) -> None:
        """Show the progress text of the running trials, '' for none yet; cheap to call often."""
        now = self._clock()
        if now - self._last_refresh < (REDRAW_SECONDS if self._is_terminal else PRINT_EVERY):
            return
        self._last_refresh = now
        running = self._select('running')
        for name in running if text else []:
            self._rows[name] = DashboardRow('running', text)
        if self._is_terminal:
            self._draw()
        elif text and running:
            self._print_line(running[0], text)

    def finish(self, name: str, status: str, summary: dict[str, Any], last_line: str = '') -> None:
        """Show the end of a trial.

        Args:
          status: 'done', or the reason why not.
          summary: the summary of a trial that is done.
          last_line: the last line of output of a trial that failed.
        """
        previous, is_done = self._rows[name].state, status == 'done'
        loss, detail = summary.get('validation_loss'), status
        if loss is not None:
            detail = f'loss {loss:.4f} · {summary.get("seconds", math.nan):.0f} s'
        self._rows[name] = DashboardRow('done' if is_done else 'failed', detail)
        if previous == 'running' and is_done:
            self._done_here.add(name)
        if self._is_terminal:
            self._draw()
        elif is_done and previous == 'running':
            self._print_line(name, detail)
        elif is_done:
            where = 'done elsewhere' if previous == 'elsewhere' else 'already done'
            self._print_line(name, where)
        else:
            self._print_line(name, f'{status}; {last_line}' if last_line else status)

    def close(self) -> None:
        """Leave the table on the screen; later output starts below it."""
        if self._is_terminal:
            self._draw()
            self._lines_drawn = 0

    def format_lines(self) -> list[str]:
        """Format the table: a header, the running trials, the last to end, the next to start."""
        states = [row.state for row in self._rows.values()]
        head = [f'{self._name}: {states.count("done")} of {len(states)} done']
        if 'failed' in states:
            head.append(f'{states.count("failed")} failed')
        head.append(f'{format_duration(self._clock() - self._began)} elapsed')
        seconds_left = self._estimate_seconds_left()
        if seconds_left is not None:
            head.append(f'about {format_duration(seconds_left)} left')
        width = max(map(len, self._rows))
        shown = self._select_shown()
        rows = [
            f'  {name:{width}s}  {self._rows[name].state:8s} {self._rows[name].detail}'.rstrip()
            for name in shown
        ]
        hidden = len(self._rows) - len(shown)
        return [' · '.join(head), *rows, *([f'  and {hidden} more'] if hidden else [])]

    def _print_line(self, name: str, text: str) -> None:
        position = list(self._rows).index(name) + 1
        self._stream.write(f'trial {position} of {len(self._rows)} · {name} · {text}\n')
        self._stream.flush()

    def _draw(self) -> None:
        if not self._is_terminal:
            return
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in self.format_lines()]
        lines = lines[: max(3, size.lines - 2)]
        cursor_up = f'\x1b[{self._lines_drawn}A' if self._lines_drawn else ''
        erased = ''.join(f'\x1b[2K{line}\n' for line in lines)
        self._stream.write(f'{cursor_up}{erased}\x1b[0J')
        self._stream.flush()
        self._lines_drawn = len(lines)

    def _select(self, *states: str) -> list[str]:
        return [name for name, row in self._rows.items() if row.state in states]

    def _select_shown(self) -> list[str]:
        shown = {
            *self._select('done', 'failed')[-MAX_ENDED:],
            *self._select('running'),
            *self._select('elsewhere')[:MAX_ELSEWHERE],
            *self._select('waiting')[:MAX_WAITING],
        }
        return [name for name in self._rows if name in shown]

    def _estimate_seconds_left(self) -> float | None:
        """Estimate the time left at the pace of the trials that ended in this call."""
        done = sum(self._costs[name] for name in self._done_here)
        if not done:
            return None
        remaining = sum(
            self._costs[name] for name in self._select('running', 'elsewhere', 'waiting')
        )
        return (self._clock() - self._began) * remaining / done
