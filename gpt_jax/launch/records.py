"""What is a trial, when is it done, and what came out? The folder's files say so, and are read anew each time.

trials/NAME/summary.json   says that the trial is done, and of which config
records.jsonl              one line per trial, from the summaries, and from the ledger for those that are not done
"""

from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax import files, jsonl
from gpt_jax.errors import UserError
from gpt_jax.launch.ledger import Ledger

RECORDS = 'records.jsonl'


class Trial(NamedTuple):
    """hash: of its config. flops: that it costs. parent: the trial whose checkpoint it begins from, or ''."""

    name: str
    hash: str
    flops: float
    parent: str


class Limits(NamedTuple):
    """hang_seconds: without a sign of life. hours, flops: for all trials together, over all calls; infinity: none.

    stale_seconds: without a sign of life of a process elsewhere, after which its trial is taken up here.
    """

    hang_seconds: float
    hours: float
    flops: float
    stale_seconds: float


def done(one: Trial, workdir: Path) -> bool:
    """Whether the trial's summary is there.

    Raises:
      UserError: it is of another config.
    """
    path = summary_of(workdir, one.name)
    if not path.exists():
        return False
    there = files.read_json(path).get('config_hash')
    if there != one.hash:
        raise UserError(f'{path}: of another config ({there}, not {one.hash}); rename the trial or delete its folder')
    return True


def write_records(trials: list[Trial], workdir: Path) -> list[dict[str, Any]]:
    """records.jsonl from the summaries, and from the ledger for the rest: it can neither miss a trial nor hold two."""
    ended = Ledger(workdir).ended()
    records = []
    for one in trials:
        if summary_of(workdir, one.name).exists():
            records.append(files.read_json(summary_of(workdir, one.name)) | {'name': one.name})
        elif one.name in ended:
            records.append({'name': one.name, 'status': ended[one.name][-1]['status'], 'config_hash': one.hash})
    jsonl.write(workdir / RECORDS, records)
    return records


def folder_of(workdir: Path, name: str) -> Path:
    return workdir / 'trials' / name


def summary_of(workdir: Path, name: str) -> Path:
    return folder_of(workdir, name) / 'summary.json'
