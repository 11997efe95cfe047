"""What does one see while a sweep runs? A table that redraws itself; where it cannot, a line when something happens."""

import math
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from gpt_jax.observe.progress import PRINT_EVERY, duration

REDRAW = 0.5  # seconds
ENDED_SHOWN, WAITING_SHOWN = 8, 4


class Row(NamedTuple):
    state: str
    detail: str


class Board:
    """The trials of a sweep as they wait, run and end.

    Args:
      stream: where to draw; sys.stderr by habit.
      name: the sweep's.
      costs: FLOPs of each trial by name, in order; the time left is guessed from them.
    """

    def __init__(
        self, stream: TextIO, name: str, costs: dict[str, float], *, clock: Callable[[], float] = time.monotonic
    ):
        self._stream, self._name, self._costs, self._clock = stream, name, costs, clock
        self._terminal = stream.isatty()
        self._rows = {trial: Row('waiting', '') for trial in costs}
        self._began, self._drawn, self._last = clock(), 0, -math.inf
        self._here: set[str] = set()  # ended in this call: what the pace is read from

    def begin(self, names: list[str]) -> None:
        for name in names:
            self._rows[name] = Row('running', 'starting')
        self._last = self._clock()
        self._draw()

    def away(self, names: list[str]) -> None:
        """These are in other hands, or wait for what is."""
        for name in names:
            self._rows[name] = Row('elsewhere', '')
        self._draw()

    def tick(self, said: str) -> None:
        """Shows what the trial under way says of itself ('' for nothing yet); cheap enough for a few times a second."""
        now = self._clock()
        if now - self._last < (REDRAW if self._terminal else PRINT_EVERY):
            return
        self._last = now
        running = [name for name, row in self._rows.items() if row.state == 'running']
        for name in running if said else []:
            self._rows[name] = Row('running', said)
        if self._terminal:
            self._draw()
        elif said and running:
            self._line(running[0], said)

    def end(self, name: str, status: str, summary: dict[str, Any], why: str = '') -> None:
        """A trial is done, with its summary, or is not: `why` is what it printed last."""
        before = self._rows[name].state
        known, running, away = summary.get('validation_loss'), before == 'running', before == 'elsewhere'
        detail = f'loss {known:.4f} · {summary.get("seconds", math.nan):.0f} s' if known is not None else status
        self._rows[name] = Row('done' if status == 'done' else 'failed', detail)
        if running and status == 'done':
            self._here.add(name)
        if self._terminal:
            self._draw()
        elif not running and status == 'done':
            self._line(name, 'done elsewhere' if away else 'already done')
        else:
            self._line(name, detail if status == 'done' else f'{status}; {why}' if why else status)

    def close(self) -> None:
        """Leaves the table standing."""
        if self._terminal:
            self._draw()
            self._drawn = 0

    def _line(self, name: str, text: str) -> None:
        position = list(self._rows).index(name) + 1
        self._stream.write(f'trial {position} of {len(self._rows)} · {name} · {text}\n')
        self._stream.flush()

    def _draw(self) -> None:
        if not self._terminal:
            return
        size = shutil.get_terminal_size()
        lines = [text[: size.columns - 1] for text in self.lines()][: max(3, size.lines - 2)]
        up = f'\x1b[{self._drawn}A' if self._drawn else ''
        self._stream.write(up + ''.join(f'\x1b[2K{text}\n' for text in lines) + '\x1b[0J')
        self._stream.flush()
        self._drawn = len(lines)

    def lines(self) -> list[str]:
        """The table: a head, the running trials, what ended last, what comes next."""
        states = [row.state for row in self._rows.values()]
        head = [f'{self._name}: {states.count("done")} of {len(states)} done']
        if 'failed' in states:
            head.append(f'{states.count("failed")} not')
        head.append(f'{duration(self._clock() - self._began)} spent')
        left = self._left()
        if left is not None:
            head.append(f'about {duration(left)} left')
        width = max(map(len, self._rows))
        shown = self._shown()
        rows = [f'  {name:{width}s}  {self._rows[name].state:8s} {self._rows[name].detail}'.rstrip() for name in shown]
        hidden = len(self._rows) - len(shown)
        return [' · '.join(head), *rows, *([f'  and {hidden} more'] if hidden else [])]

    def _shown(self) -> list[str]:
        of = lambda *kinds: [name for name, row in self._rows.items() if row.state in kinds]  # noqa: E731
        chosen = {
            *of('done', 'failed')[-ENDED_SHOWN:],
            *of('running'),
            *of('elsewhere')[:ENDED_SHOWN],
            *of('waiting')[:WAITING_SHOWN],
        }
        return [name for name in self._rows if name in chosen]

    def _left(self) -> float | None:
        """Seconds, if what is left goes at the pace of what ended in this call."""
        spent = sum(self._costs[name] for name in self._here)
        if not spent:
            return None
        ahead = sum(
            self._costs[name] for name, row in self._rows.items() if row.state in ('running', 'elsewhere', 'waiting')
        )
        return (self._clock() - self._began) * ahead / spent
