"""What does one of the processes that run a sweep do next? Takes a trial that nobody has, watches it, tells of it."""

import math
import time
from pathlib import Path
from typing import Any, Protocol

from gpt_jax import files
from gpt_jax.errors import Preempted
from gpt_jax.launch import trial
from gpt_jax.launch.claims import Claim, Claims
from gpt_jax.launch.ledger import Ledger
from gpt_jax.launch.records import Limits, Trial, done, folder_of, summary_of, write_records

UNPAID = 'no budget'  # how the status of a trial begins that a larger budget would let run
STOPPED = 'stopped'  # the status of one that goes on, here or elsewhere
ATTEMPTS = 5  # how often one that stops by itself, with the code that says it may go on, is started in one call
WAIT, LOOK = 1.0, 5.0  # seconds between looks at what others do: with nothing to do, with a trial under way


class Board(Protocol):
    """Where a sweep is watched: observe/board.py."""

    def begin(self, names: list[str]) -> None: ...

    def away(self, names: list[str]) -> None: ...

    def tick(self, said: str) -> None: ...

    def end(self, name: str, status: str, summary: dict[str, Any], why: str = '') -> None: ...


class Worker:
    """One of the processes that run a sweep."""

    def __init__(
        self, trials: list[Trial], mine: set[str], command: list[str], workdir: Path, limits: Limits, board: Board,
        signals: trial.Signals,
    ):  # fmt: skip
        self._trials, self._mine, self._command, self._workdir, self.limits = trials, mine, command, workdir, limits
        self._board, self._signals = board, signals
        self._claims, self._ledger = Claims(workdir, limits.stale_seconds), Ledger(workdir)
        # What ended before this call is tried again; what ends from here on, wherever, has ended.
        self._before = {name: len(lines) for name, lines in self._ledger.ended().items()}
        self._shown: set[str] = set()
        self._attempts: dict[str, int] = {}

    def open(self, group: list[Trial]) -> list[Trial]:
        """The trials of the group that have not ended; the board is told of those that have."""
        ended = self._ended()
        left = [one for one in group if not done(one, self._workdir) and one.name not in ended]
        for one in group:
            if one not in left and one.name not in self._shown:
                self._shown.add(one.name)
                summary = files.read_json(summary_of(self._workdir, one.name)) if done(one, self._workdir) else {}
                self._board.end(one.name, 'done' if summary else ended[one.name], summary)
        return left

    def _ended(self) -> dict[str, str]:
        """How trials ended since this call began; those that stopped go on."""
        made = {}
        for name, lines in self._ledger.ended().items():
            since = [line['status'] for line in lines[self._before.get(name, 0) :]]
            if since and since[-1] != STOPPED:
                made[name] = since[-1]
        return made

    def attend(self, group: list[Trial]) -> bool:
        """Runs what is open of the group, if it may begin now and nobody else has it; whether it did anything."""
        todo = self.open(group)
        if self._signals.count and todo:
            raise Preempted(f'interrupted before trial {todo[0].name}; the same command goes on from there')
        if not todo or self._waits_for_trunk(todo):
            return False
        claims = self._take(todo)
        if claims is None:
            return False
        try:
            if len(self.open(todo)) < len(todo):  # another ended one of them just before
                return True
            reason = self._obstacle(todo, claims[0])
            if reason:
                self._end(todo, claims, reason, 0.0)
                return True
            self._run(todo, claims)
        finally:
            for claim in claims:
                claim.release()
        return True

    def _take(self, todo: list[Trial]) -> list[Claim] | None:
        """A claim on each; None, and none held, where another has one of them."""
        claims: list[Claim] = []
        for one in todo:
            claim = self._claims.take(one.name)
            if claim is None:
                for taken in claims:
                    taken.release()
                return None
            claims.append(claim)
        return claims

    def wait(self, names: list[str]) -> None:
        """A moment in which others get on."""
        self._board.away(names)
        self._board.tick('')
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if self._signals.count:
                raise Preempted(f'interrupted while waiting for {names[0]}, which runs elsewhere')
            time.sleep(trial.POLL)

    def _run(self, todo: list[Trial], claims: list[Claim]) -> None:
        """One process, told to the ledger and the board."""
        names = [one.name for one in todo]
        for one, claim in zip(todo, claims, strict=True):
            self._ledger.note(one.name, one.hash, 'begun', claim.number, of=len(todo))
        self._board.begin(names)
        began = time.monotonic()
        watch = _Watch(self, claims, began)
        ended = trial.run(
            [*self._command, f'--trial={",".join(names)}'], folder_of(self._workdir, names[0]), self._signals,
            hang_seconds=self.limits.hang_seconds, watch=watch, tick=self._board.tick,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if watch.lost:
            for one, claim in zip(todo, claims, strict=True):
                self._ledger.note(one.name, one.hash, 'lost', claim.number, status=STOPPED, seconds=round(seconds, 3))
            return
        status = ended.status
        if watch.out_of_time and ended.stopped:
            status = _out_of_time(self.limits)
        elif ended.stopped and not self._signals.count:
            self._attempts[names[0]] = self._attempts.get(names[0], 0) + 1
            if self._attempts[names[0]] >= ATTEMPTS:
                status = f'failed: stopped by itself {ATTEMPTS} times'
        self._end(todo, claims, status, seconds)
        write_records(self._trials, self._workdir)
        if ended.stopped and self._signals.count:
            raise Preempted(f'interrupted in trial {todo[0].name}; the same command goes on from there')

    def _end(self, todo: list[Trial], claims: list[Claim], status: str, seconds: float) -> None:
        for one, claim in zip(todo, claims, strict=True):
            # Of a group, each trial is done or not by itself; what left no summary is not done, whatever it says.
            own = 'done' if done(one, self._workdir) else 'failed: it left no summary' if status == 'done' else status
            share = round(seconds / len(todo), 3)
            self._ledger.note(one.name, one.hash, 'ended', claim.number, status=own, seconds=share)
            summary = files.read_json(summary_of(self._workdir, one.name)) if own == 'done' else {}
            self._shown.add(one.name)
            self._board.end(one.name, own, summary, why=trial.last_line(folder_of(self._workdir, todo[0].name)))

    def _waits_for_trunk(self, todo: list[Trial]) -> bool:
        """Whether a trunk that they begin from may still be done, by whoever."""
        parents = [one for one in self._trials if one.name in {each.parent for each in todo}]
        return any(one.name in self._mine or self._elsewhere(one) for one in self.open(parents))

    def _elsewhere(self, one: Trial) -> bool:
        claim = self._claims.latest(one.name)
        return claim is not None and self._claims.held(claim)

    def _obstacle(self, todo: list[Trial], claim: Claim) -> str:
        """Why these trials cannot begin, or ''."""
        for parent in sorted({one.parent for one in todo if one.parent}):
            if '/' not in parent and not summary_of(self._workdir, parent).exists():
                return f'failed: its trunk {parent} is not done'
        if self.spent() >= 3600 * self.limits.hours:
            return _out_of_time(self.limits)
        if self._flops(todo, claim) + sum(one.flops for one in todo) > self.limits.flops:
            return f'{UNPAID}: it would pass the {self.limits.flops:.3g} FLOPs of sweep.flops'
        return ''

    def _flops(self, todo: list[Trial], mine: Claim) -> float:
        """Of the other trials that are done, or at work under a claim that is older than this one."""
        total = 0.0
        for one in self._trials:
            if one not in todo:
                claim = self._claims.latest(one.name)
                before = claim is not None and self._claims.order(claim) < self._claims.order(mine)
                if done(one, self._workdir) or (claim is not None and before and self._claims.held(claim)):
                    total += one.flops
        return total

    def spent(self) -> float:
        """Seconds of all trials so far; of those under way, and of those whose process died, to their last beat."""
        total, ended, shares = 0.0, set(), {}
        for line in self._ledger.lines():
            key = line['trial'], line.get('claim', 0)
            if 'status' in line:
                total += line['seconds']
                ended.add(key)
            else:
                shares[key] = line.get('of', 1)
        for name, claims in self._claims.all().items():
            for claim in claims:
                key = name, claim.number
                if key in shares and key not in ended:
                    total += claim.seconds() / shares[key]
        return total


class _Watch:
    """Asked a few times a second while a trial runs: '' to go on, or what is to be done with it."""

    def __init__(self, worker: Worker, claims: list[Claim], began: float):
        self._worker, self._claims, self._began = worker, claims, began
        self._beat = self._looked = -math.inf
        self._paid = 3600 * worker.limits.hours - worker.spent()
        self.out_of_time = self.lost = False

    def __call__(self) -> str:
        now = time.monotonic()
        limits = self._worker.limits
        self.lost = self.lost or any(claim.lost() for claim in self._claims)
        if self.lost:
            return trial.KILL
        if now - self._beat > min(LOOK, limits.stale_seconds / 4):
            self._beat = now
            for claim in self._claims:
                claim.beat()
        if limits.hours < math.inf and now - self._looked > LOOK:
            self._looked, self._paid = now, now - self._began + 3600 * limits.hours - self._worker.spent()
        self.out_of_time = self.out_of_time or now - self._began > self._paid
        return trial.STOP if self.out_of_time else ''


def _out_of_time(limits: Limits) -> str:
    return f'{UNPAID}: the {limits.hours:g} hours of sweep.hours are spent'
