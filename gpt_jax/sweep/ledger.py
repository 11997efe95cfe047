"""The ledger and the records of a sweep: what happened to its trials, and their results.

    ledger/HOST-PID-TICKS.jsonl  an event when a trial begins and one when it ends; one writer each
    ledger.jsonl                 all events by time, rewritten after each; for people and jq
    trials/NAME/summary.json     the trial is done; holds the hash of its config
    records.jsonl                one line per trial, from the summaries, or from the ledger for
                                 trials that are not done

An event carries the number of the claim under which the trial ran (claims.py), so that the order
of a trial's events does not depend on the machines' clocks. A file is read again when it changes.
"""

import datetime
import math
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import files
from gpt_jax.core.config import SweepConfig
from gpt_jax.core.config_fields import is_hash_of
from gpt_jax.core.progress import DIVERGED_FILE
from gpt_jax.sweep import claims

LEDGER_FOLDER = 'ledger'
MERGED_FILE = 'ledger.jsonl'
RECORDS_FILE = 'records.jsonl'

Event = dict[str, Any]


class Ledger:
    """The ledger of the sweep in `workdir`, with this process as one of its writers."""

    def __init__(self, workdir: Path):
        process = claims.this_process()
        self._folder, self._merged = workdir / LEDGER_FOLDER, workdir / MERGED_FILE
        name = f'{process["host"]}-{process["pid"]}-{process["began"] or "0"}.jsonl'
        self._own = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        # By file: (size, mtime) when it was last read, and its events.
        self._cache: dict[Path, tuple[tuple[int, int], list[Event]]] = {}

    def add_event(self, trial: str, config_hash: str, event: str, claim: int, **extra: Any) -> None:
        """Add an event of a trial, with the number of the claim under which the trial runs."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
        entry = {'time': time, 'event': event, 'trial': trial, 'hash': config_hash, 'claim': claim}
        files.append_jsonl(self._own, entry | extra)
        files.write_jsonl(self._merged, self.read_events())

    def read_events(self) -> list[Event]:
        """Read the events of all writers, by time."""
        events: list[Event] = []
        for path in sorted(self._folder.glob('*.jsonl')):
            stat = path.stat()
            version = stat.st_size, stat.st_mtime_ns
            # Most files have not changed since they were last read.
            if path not in self._cache or self._cache[path][0] != version:
                self._cache[path] = version, files.read_jsonl(path)
            events += self._cache[path][1]
        return sorted(events, key=lambda event: str(event['time']))

    def read_end_events(self) -> dict[str, list[Event]]:
        """Read the events with a status, which end an attempt, by trial and in order of claims."""
        ended: dict[str, list[Event]] = {}
        for event in self.read_events():
            if 'status' in event:
                ended.setdefault(event['trial'], []).append(event)
        return {
            name: sorted(events, key=lambda event: event.get('claim', 0))
            for name, events in ended.items()
        }


class Trial(NamedTuple):
    """A trial of a sweep.

    Attributes:
      hash: the hash of its config.
      flops: its training FLOPs.
      parent: the trial from whose checkpoint it branches, or a path; '': none.
    """

    name: str
    hash: str
    flops: float
    parent: str


class SweepLimits(NamedTuple):
    """The limits of a sweep; infinity: no limit.

    Attributes:
      hang_seconds: time without activity after which a trial's process is stopped.
      hours, flops: total budgets of all trials, over all calls.
      stale_seconds: time without a heartbeat after which another process's trial is taken over.
    """

    hang_seconds: float
    hours: float
    flops: float
    stale_seconds: float


def make_limits(config: SweepConfig) -> SweepLimits:
    """Make the limits from a sweep's config, where 0 means no limit."""
    return SweepLimits(
        hang_seconds=60 * config.hang_minutes or math.inf,
        hours=config.hours or math.inf,
        flops=config.flops or math.inf,
        stale_seconds=60 * config.stale_minutes,
    )


def is_done(trial: Trial, workdir: Path) -> bool:
    """Return whether the trial has a summary, of this config.

    If it has one of another config, the trial itself decides whether that is the same run.
    """
    path = trial_summary_path(workdir, trial.name)
    if not path.exists():
        return False
    config_hash: str = files.read_json(path).get('config_hash', '')
    return is_hash_of(config_hash, trial.hash)


def is_known_divergence(trial: Trial, workdir: Path) -> bool:
    """Return whether the trial diverged with this config; it would again."""
    path = trial_folder(workdir, trial.name) / DIVERGED_FILE
    return path.exists() and is_hash_of(files.read_json(path)['config_hash'], trial.hash)


def write_records(trials: list[Trial], workdir: Path) -> list[dict[str, Any]]:
    """Write records.jsonl from the summaries, or from the ledger for trials that are not done."""
    ended = Ledger(workdir).read_end_events()
    records = []
    for trial in trials:
        if is_done(trial, workdir):
            summary = files.read_json(trial_summary_path(workdir, trial.name))
            records.append(summary | {'name': trial.name})
        elif trial.name in ended:
            status = ended[trial.name][-1]['status']
            records.append({'name': trial.name, 'status': status, 'config_hash': trial.hash})
    files.write_jsonl(workdir / RECORDS_FILE, records)
    return records


def trial_folder(workdir: Path, name: str) -> Path:
    return workdir / 'trials' / name


def trial_summary_path(workdir: Path, name: str) -> Path:
    return trial_folder(workdir, name) / 'summary.json'
