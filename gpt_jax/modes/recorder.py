"""How do a step's numbers, its validation and its clock become one row of metrics.jsonl?"""

import time
from collections.abc import Callable

from gpt_jax.assemble import Settings
from gpt_jax.model import accounting
from gpt_jax.observe.meters import Throughput
from gpt_jax.observe.progress import Progress
from gpt_jax.observe.writers import Metrics


class Recorder:
    """Gathers what is known of a step from step, validation and clock into one row, and writes the rows in order."""

    def __init__(
        self, settings: Settings, units: Callable[[float], dict[str, float]], metrics: Metrics, line: Progress | None,
        start: int, spent: float,
    ):  # fmt: skip
        self.meter = Throughput()
        self.last: dict[str, float] = {}
        self._settings, self._units, self._metrics, self._line = settings, units, metrics, line
        self._logged, self._began, self._spent = start, time.monotonic(), spent
        self._row: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._flops = accounting.flops_per_token(settings.model)

    def seconds(self) -> float:
        """Wall-clock seconds of this run, over all its starts."""
        return self._spent + time.monotonic() - self._began

    def log(self, done: int, values: dict[str, float]) -> None:
        """A step's own numbers."""
        self.meter.add((done - self._logged) * self._settings.tokens_per_step)
        self._logged = done
        timing = self.meter.read()
        tokens = done * self._settings.tokens_per_step
        self.add(
            done,
            values
            | self._units(values['loss'])
            | {'tokens': tokens}
            | {f'flops_{convention}': tokens * flops for convention, flops in self._flops.items()},
            timing | {'elapsed_seconds': self.seconds()},
        )
        if self._line is not None:
            self._line.update(done, values['loss'], timing['tokens_per_second'])

    def add(self, done: int, values: dict[str, float], timing: dict[str, float] | None = None) -> None:
        if self._row is not None and self._row[0] != done:
            self._write()
        _, before, clock = self._row or (done, {}, {})
        self._row = done, before | values, clock | (timing or {})
        self.last |= values

    def commit(self) -> None:
        """Returns when all rows so far are on the disk."""
        self._write()
        self._metrics.flush()

    def _write(self) -> None:
        if self._row is not None:
            self._metrics.write(*self._row)
            self._row = None
