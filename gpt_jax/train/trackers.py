"""Trackers, which show a run's metrics elsewhere: TensorBoard, W&B, MLflow, trackio or your own.

metrics.jsonl is the source of truth, and a tracker is a view of it. Each tracker has a thread of
its own, so that a service that is slow or cannot be reached does not delay or stop training. What
it must remember is in the run folder, trackers/NAME.json: the service's id of the run, and the last
step that was sent. A resumed run continues the same run of the service: it first sends the rows of
metrics.jsonl that the service lacks, and does not send a step again that was sent before a kill and
is then trained again, which gives the same values.
"""

import importlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from gpt_jax.core import files
from gpt_jax.core.config import RawConfig, TrainConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.core.registry import resolve
from gpt_jax.train.metrics import METRICS_FILE, TIMING_FILE, read_metrics

TRACKERS_FOLDER = 'trackers'
TENSORBOARD = 'tensorboard'  # the tracker that has a config field of its own
CLASSES = {
    TENSORBOARD: 'gpt_jax.train.tracker_tensorboard:TensorBoardTracker',
    'wandb': 'gpt_jax.train.tracker_wandb:WandbTracker',
    'mlflow': 'gpt_jax.train.tracker_mlflow:MlflowTracker',
    'trackio': 'gpt_jax.train.tracker_trackio:TrackioTracker',
}
PROJECT = 'gpt_jax'  # the services' project or experiment, unless their environment names another
FIELD = 'train.trackers'
OPEN_SECONDS = 30.0  # for a service to answer, where that can be set
FINISH_SECONDS = 60.0  # for the trackers of a finished run to send what is left
STOP_SECONDS = 2.0  # the same if a signal or an error ends the run

TrackedRow = tuple[int, dict[str, float]]  # step, values by name


class TrackedRun(NamedTuple):
    """What a tracker is told about the run.

    Attributes:
      name: the config's name.
      group: the name of the sweep's folder, for a trial; otherwise ''.
      folder: the run folder.
      config: nested dicts, as in config.json.
      run_id: the service's id of the run, from its first start; '' then.
      last_step: the last step that was sent in an earlier start; -1: none.
    """

    name: str
    group: str
    folder: Path
    config: RawConfig
    run_id: str = ''
    last_step: int = -1


class Tracker(Protocol):
    """A tracker of one run, made by `factory(run: TrackedRun)`; used by one thread only.

    Any exception, KeyboardInterrupt too, ends the tracker in this start, with a one-line warning.

    Attributes:
      run_id: the service's id of the run, or any text to find it by.
      last_step: the last step that the service has: `run.last_step`, unless the service knows.
    """

    run_id: str
    last_step: int

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the finite values of a step; each step once, in ascending order."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Send the numbers and words of summary.json: the run is done."""

    def close(self) -> None:
        """End the connection; `finish` was called before if the run is done."""


def list_trackers(config: TrainConfig) -> tuple[str, ...]:
    """Return the words of the config's trackers, each once."""
    tensorboard = (TENSORBOARD,) if config.tensorboard else ()
    return tuple(dict.fromkeys((*tensorboard, *config.trackers)))


def check_trackers(config: TrainConfig) -> None:
    """Import the modules of config.trackers.

    Raises:
      UserError: one is not installed, or cannot be imported.
    """
    for word in config.trackers:
        _find_factory(word)


def _find_factory(word: str) -> Callable[[TrackedRun], Tracker]:
    if word not in CLASSES:
        return resolve(word, {}, FIELD)
    module, _, name = CLASSES[word].partition(':')
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # of the library: missing, or other versions than it requires
        raise UserError(
            f'config.{FIELD}: {word} cannot be imported ({type(error).__name__}: {error}); '
            f"pip install -e '.[{word}]'"
        ) from None


def find_group(workdir: Path) -> str:
    """Return the name of the sweep's folder if `workdir` is the folder of a trial, else ''."""
    return workdir.parents[1].name if workdir.parent.name == 'trials' else ''


class Trackers:
    """The trackers of a run; a context manager that ends them.

    Args:
      words: names of CLASSES, or dotted paths.
      start: number of updates in the run's initial state; the rows up to it are in metrics.jsonl.
      log: receives lines for the user.
    """

    def __init__(self, words: Iterable[str], run: TrackedRun, start: int, log: LogFn):
        self._threads = []
        for word in words:
            try:  # in this thread, since not every library can be imported in another
                factory = _find_factory(word)
            except UserError:
                if word != TENSORBOARD:
                    raise
                log(f'{run.name}: tensorboardX is not installed: no TensorBoard files are written')
                continue
            self._threads.append(_TrackerThread(word, factory, run, start, log))
            self._threads[-1].start()

    def log(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """Send a row of metrics.jsonl, and that of timing.jsonl; does not wait."""
        for thread in self._threads:
            thread.put((step, _join_row(values, timing)))

    def finish(self, summary: dict[str, Any]) -> None:
        """Send the summary of the finished run and end the trackers, within FINISH_SECONDS."""
        scalars = {
            name: value
            for name, value in summary.items()
            if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
        }
        for thread in self._threads:
            thread.put(scalars)
        self._end(FINISH_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(STOP_SECONDS)

    def _end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.put(None)
        for thread in self._threads:
            thread.end(max(0.0, deadline - time.monotonic()))
        self._threads = []


class _TrackerThread(threading.Thread):
    """The thread of one tracker. It is a daemon, so that no service can keep the process alive."""

    def __init__(
        self,
        word: str,
        factory: Callable[[TrackedRun], Tracker],
        run: TrackedRun,
        start: int,
        log: LogFn,
    ):
        super().__init__(name=f'tracker {word}', daemon=True)
        self._word, self._factory, self._run = word, factory, run
        self._start_step, self._log = start, log
        self._path = run.folder / TRACKERS_FOLDER / f'{word.replace(":", ".")}.json'
        # Rows, then a summary if the run is done, then None.
        self._queue: queue.SimpleQueue[TrackedRow | dict[str, Any] | None] = queue.SimpleQueue()
        self._has_failed = False

    def put(self, item: TrackedRow | dict[str, Any] | None) -> None:
        """Add a row, the summary or the end; after a failure it is dropped."""
        if not self._has_failed:
            self._queue.put(item)

    def end(self, seconds: float) -> None:
        """Wait for the thread; warn if it has not ended in time."""
        self.join(seconds)
        if self.is_alive():
            self._fail('was still sending when the run ended')

    def run(self) -> None:
        try:
            self._track()
        except BaseException as error:  # whatever a service or a user's tracker raises
            reason = ' '.join(f'{type(error).__name__}: {error}'.split()).removesuffix(':')
            self._fail(f'stopped ({reason[:200]})')

    def _fail(self, what: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._log(
                f'{self._run.name}: tracker {self._word}: {what}; {METRICS_FILE} has every step, '
                'and if the run is resumed, it sends those that are missing'
            )

    def _track(self) -> None:
        run = self._run
        if self._path.exists():
            run = run._replace(**files.read_json(self._path))
        tracker = self._factory(run)
        try:
            self._save_position(tracker.run_id, tracker.last_step)
            last_step = tracker.last_step
            for rows, summary in self._iterate_items(last_step):
                try:
                    for step, values in rows:
                        if step > last_step:
                            tracker.log(step, values)
                            last_step = step
                finally:
                    if rows:
                        self._save_position(tracker.run_id, last_step)
                if summary is not None:
                    tracker.finish(summary)
        finally:
            tracker.close()

    def _save_position(self, run_id: str, last_step: int) -> None:
        files.write_json(self._path, {'run_id': run_id, 'last_step': last_step})

    def _iterate_items(
        self, last_step: int
    ) -> Iterator[tuple[list[TrackedRow], dict[str, Any] | None]]:
        """Yield the rows that are to be sent next, and the summary once it is there."""
        yield _read_rows(self._run.folder, last_step, self._start_step), None
        is_ended = False
        while not is_ended:
            rows, summary = [], None
            for item in self._take_waiting():
                if isinstance(item, tuple):
                    rows.append(item)
                elif item is not None:
                    summary = item
                is_ended = item is None
            yield rows, summary

    def _take_waiting(self) -> list[TrackedRow | dict[str, Any] | None]:
        """Wait for an item and take all that are there: each save of the position is synced."""
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        return items


def _read_rows(folder: Path, after: int, up_to: int) -> list[TrackedRow]:
    """Read the rows of the steps after `after` and up to `up_to`, with their timing."""
    if after >= up_to:
        return []
    timing = {row.pop('step'): row for row in read_metrics(folder / TIMING_FILE)}
    return [
        (step, _join_row(row, timing.get(step, {})))
        for row in read_metrics(folder / METRICS_FILE)
        if after < (step := row.pop('step')) <= up_to
    ]


def _join_row(values: dict[str, float], timing: dict[str, float]) -> dict[str, float]:
    """Return the finite values of a row, with 'timing/' before the names of its timing."""
    joined = values | {f'timing/{name}': value for name, value in timing.items()}
    return {name: value for name, value in joined.items() if math.isfinite(value)}
