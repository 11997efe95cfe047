"""What began and ended when, told by many writers at once? Each has a file of its own; what is read is all of them.

    ledger/HOST-PID-TICKS.jsonl   one line when a trial begins and one when it ends; written by one process alone
    ledger.jsonl                  all lines in the order of their times, made anew after each: for people, and for jq

A line carries the number of the claim under which the trial ran (see claims.py), so that the order of what happened to
a trial does not depend on the machines' clocks.
"""

import contextlib
import datetime
import os
from pathlib import Path
from typing import Any

from gpt_jax import jsonl
from gpt_jax.launch import alive

FOLDER, MERGED = 'ledger', 'ledger.jsonl'


class Ledger:
    """The ledger of the sweep in `workdir`, for one of its writers."""

    def __init__(self, workdir: Path):
        me = alive.me()
        self._folder, self._merged = workdir / FOLDER, workdir / MERGED
        self._own = self._folder / f'{me["host"]}-{me["pid"]}-{me["began"] or "0"}.jsonl'
        if not self._folder.exists() and self._merged.exists():  # written before there were many writers
            self._folder.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.link(self._merged, self._folder / 'before.jsonl')
        self._folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[Path, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def note(self, trial: str, config_hash: str, event: str, claim: int, **more: Any) -> None:
        """Adds a line."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
        line = {'time': now, 'event': event, 'trial': trial, 'hash': config_hash, 'claim': claim}
        jsonl.append(self._own, line | more)
        jsonl.write(self._merged, self.lines())

    def lines(self) -> list[dict[str, Any]]:
        """All lines of all writers."""
        made: list[dict[str, Any]] = []
        for path in sorted(self._folder.glob('*.jsonl')):
            now = path.stat()
            seen = now.st_size, now.st_mtime_ns
            if path not in self._read or self._read[path][0] != seen:  # most have not changed since the last look
                self._read[path] = seen, jsonl.read(path)
            made += self._read[path][1]
        return sorted(made, key=lambda line: str(line['time']))

    def ended(self) -> dict[str, list[dict[str, Any]]]:
        """The lines that say how a trial ended, by trial, the last claim's last."""
        made: dict[str, list[dict[str, Any]]] = {}
        for line in self.lines():
            if 'status' in line:
                made.setdefault(line['trial'], []).append(line)
        return {name: sorted(lines, key=lambda line: line.get('claim', 0)) for name, lines in made.items()}
