"""How are the trials of a sweep run, each once? One process each, a ledger of what happened, records of what came out.

    trials/NAME/       the trial's folder; its summary.json says that it is done
    ledger.jsonl       one line when a trial begins and one when it ends, with its config's hash; never edited
    records.jsonl      one line per trial, made anew from the summaries and the ledger after each

A trial is done when its summary is there and carries the hash of its config. So a kill at any moment loses nothing but
the steps since the last checkpoint, and nothing is done twice.
"""

import datetime
import json
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gpt_jax import files, jsonl
from gpt_jax.errors import Preempted, UserError
from gpt_jax.launch import trial

LEDGER, RECORDS = 'ledger.jsonl', 'records.jsonl'
UNPAID = 'no budget'  # how the status of a trial begins that a larger budget would let run


class Trial(NamedTuple):
    """hash: of its config. flops: that it costs. parent: the trial whose checkpoint it begins from, or ''."""

    name: str
    hash: str
    flops: float
    parent: str


class Limits(NamedTuple):
    """hang_seconds: without a sign of life. hours, flops: for all trials together, over all calls; infinity: none."""

    hang_seconds: float
    hours: float
    flops: float


class Board(Protocol):
    """Where a sweep is watched: observe/board.py."""

    def begin(self, names: list[str]) -> None: ...

    def tick(self, said: str) -> None: ...

    def end(self, name: str, status: str, summary: dict[str, Any], why: str = '') -> None: ...


def run(
    groups: list[list[Trial]], command: list[str], workdir: Path, limits: Limits, board: Board
) -> list[dict[str, Any]]:
    """Runs every trial that is not done, in order, and writes records.jsonl after each.

    One that fails, hangs, or runs out of memory is marked and passed over; the same call again tries it again, from its
    last checkpoint, and runs nothing that is done.

    Args:
      groups: trials of one process each; most hold one.
      command: to which `--trial=NAME,...` is added.

    Returns:
      The records in the order of the trials.

    Raises:
      Preempted: a signal asked for it; the trial under way is saved.
      UserError: a folder holds a trial of another config.
    """
    trials = [one for group in groups for one in group]
    spent_seconds, spent_flops = _spent(workdir), 0.0
    for one in trials:
        if done(one, workdir):
            board.end(one.name, 'done', files.read_json(_summary(workdir, one.name)))
            spent_flops += one.flops
    with trial.Signals() as signals:
        for group in groups:
            todo = [one for one in group if not done(one, workdir)]
            if not todo:
                continue
            if signals.count:
                raise Preempted(f'interrupted before trial {todo[0].name}; the same command goes on from there')
            reason = _obstacle(group, todo, workdir, limits, spent_seconds, spent_flops)
            if reason:
                _end(workdir, todo, reason, 0.0, board)
                continue
            seconds, ended = _run_one(todo, command, workdir, limits, spent_seconds, signals, board)
            spent_seconds += seconds
            spent_flops += sum(one.flops for one in todo if done(one, workdir))
            write_records(trials, workdir)
            if ended.stopped and signals.count:
                raise Preempted(f'interrupted in trial {todo[0].name}; the same command goes on from there')
    return write_records(trials, workdir)


def _run_one(
    todo: list[Trial], command: list[str], workdir: Path, limits: Limits, spent: float, signals: trial.Signals,
    board: Board,
) -> tuple[float, trial.Ended]:  # fmt: skip
    """One process: (its seconds, how it ended), told to the ledger and the board."""
    names = [one.name for one in todo]
    for one in todo:
        _note(workdir, one, 'begun')
    board.begin(names)
    began = time.monotonic()
    ended = trial.run(
        [*command, f'--trial={",".join(names)}'], _folder(workdir, names[0]), signals,
        hang_seconds=limits.hang_seconds, deadline=began + 3600 * limits.hours - spent, tick=board.tick,
    )  # fmt: skip
    seconds = time.monotonic() - began
    out_of_time = ended.stopped and not signals.count
    _end(workdir, todo, _out_of_time(limits) if out_of_time else ended.status, seconds, board)
    return seconds, ended


def done(one: Trial, workdir: Path) -> bool:
    """Whether the trial's summary is there.

    Raises:
      UserError: it is of another config.
    """
    path = _summary(workdir, one.name)
    if not path.exists():
        return False
    there = files.read_json(path).get('config_hash')
    if there != one.hash:
        raise UserError(f'{path}: of another config ({there}, not {one.hash}); rename the trial or delete its folder')
    return True


def _obstacle(
    group: list[Trial], todo: list[Trial], workdir: Path, limits: Limits, seconds: float, flops: float
) -> str:
    """Why these trials cannot begin, or ''."""
    parents = {one.parent for one in group if one.parent}
    for parent in sorted(parents):
        if '/' not in parent and not _summary(workdir, parent).exists():
            return f'failed: its trunk {parent} is not done'
    if seconds >= 3600 * limits.hours:
        return _out_of_time(limits)
    if flops + sum(one.flops for one in todo) > limits.flops:
        return f'{UNPAID}: it would pass the {limits.flops:.3g} FLOPs of sweep.flops'
    return ''


def _out_of_time(limits: Limits) -> str:
    return f'{UNPAID}: the {limits.hours:g} hours of sweep.hours are spent'


def _end(workdir: Path, todo: list[Trial], status: str, seconds: float, board: Board) -> None:
    for one in todo:
        # Of a group, each trial is done or not by itself; and what left no summary is not done, whatever it says.
        own = 'done' if done(one, workdir) else 'failed: it left no summary' if status == 'done' else status
        _note(workdir, one, 'ended', status=own, seconds=round(seconds / len(todo), 3))
        summary = files.read_json(_summary(workdir, one.name)) if own == 'done' else {}
        board.end(one.name, own, summary, why=trial.last_line(_folder(workdir, todo[0].name)))


def _note(workdir: Path, one: Trial, event: str, **more: Any) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
    jsonl.append(workdir / LEDGER, {'time': now, 'event': event, 'trial': one.name, 'hash': one.hash} | more)


def _spent(workdir: Path) -> float:
    """Seconds of all trials so far. One that has begun and not ended, its sweep killed, counts to its last sign."""
    path = workdir / LEDGER
    total, running = 0.0, {}
    for line in jsonl.read(path) if path.exists() else []:
        if line['event'] == 'begun':
            running[line['trial']] = datetime.datetime.fromisoformat(line['time']).timestamp()
        else:
            running.pop(line['trial'], None)
            total += line['seconds']
    for name, began in running.items():
        sign = _folder(workdir, name) / trial.PROGRESS
        total += max(0.0, sign.stat().st_mtime - began) if sign.exists() else 0.0
    return total


def write_records(trials: list[Trial], workdir: Path) -> list[dict[str, Any]]:
    """records.jsonl from the summaries, and from the ledger for the rest: it can neither miss a trial nor hold two."""
    path = workdir / LEDGER
    ended = {line['trial']: line['status'] for line in jsonl.read(path) if 'status' in line} if path.exists() else {}
    records = []
    for one in trials:
        if _summary(workdir, one.name).exists():
            records.append(files.read_json(_summary(workdir, one.name)) | {'name': one.name})
        elif one.name in ended:
            records.append({'name': one.name, 'status': ended[one.name], 'config_hash': one.hash})
    files.write_text(workdir / RECORDS, ''.join(json.dumps(one) + '\n' for one in records))
    return records


def _folder(workdir: Path, name: str) -> Path:
    return workdir / 'trials' / name


def _summary(workdir: Path, name: str) -> Path:
    return _folder(workdir, name) / 'summary.json'
