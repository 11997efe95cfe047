"""How are the trials of a sweep run, each once? One process each, a ledger of what happened, records of what came out.

    trials/NAME/       the trial's folder; its summary.json says that it is done
    claims/            who is at work on which trial (claims.py)
    ledger.jsonl       one line when a trial begins and one when it ends, with its config's hash (ledger.py)
    records.jsonl      one line per trial, made anew from the summaries and the ledger after each

A trial is done when its summary is there and carries the hash of its config. So a kill at any moment loses nothing but
the steps since the last checkpoint, and nothing is done twice. Any number of processes, on machines that share the
folder, may run the same sweep: each takes what no other is at work on, and stays until all have ended, since the trial
of one that dies has to be taken up again.
"""

from pathlib import Path
from typing import Any

from gpt_jax.launch import trial
from gpt_jax.launch.records import Limits, Trial, write_records
from gpt_jax.launch.worker import Board, Worker


def run(
    groups: list[list[Trial]], command: list[str], workdir: Path, limits: Limits, board: Board,
    only: frozenset[str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Runs every trial that is not done and that no other process has in hand, and writes records.jsonl after each.

    Returns when all have ended, here or elsewhere. One that fails, hangs, or runs out of memory is marked and passed
    over; a later call tries it again, from its last checkpoint, and runs nothing that is done.

    Args:
      groups: trials of one process each; most hold one.
      command: to which `--trial=NAME,...` is added.
      only: the names of those to run; None: all.

    Returns:
      The records in the order of the trials.

    Raises:
      Preempted: a signal asked for it; the trial under way is saved.
      UserError: a folder holds a trial of another config.
    """
    trials = [one for group in groups for one in group]
    with trial.Signals() as signals:
        mine = [[one for one in group if only is None or one.name in only] for group in groups]
        names = {one.name for group in mine for one in group}
        worker = Worker(trials, names, command, workdir, limits, board, signals)
        while left := [group for group in mine if worker.open(group)]:
            if not any(worker.attend(group) for group in left):
                worker.wait([one.name for group in left for one in worker.open(group)])
    return write_records(trials, workdir)
