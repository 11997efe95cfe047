"""Workers of a sweep: each process takes trials that no other runs, until all have ended.

    trials/NAME/     the trial's folder; its summary.json marks it as done
    claims/          which process runs which trial (claims.py)
    ledger.jsonl     an event when a trial begins and one when it ends (ledger.py)
    records.jsonl    one line per trial, rewritten from summaries and ledger after each trial

A trial is done when its summary exists and carries the hash of its config. A kill at any moment
therefore loses only the steps since the last checkpoint, and nothing is done twice. Any number of
processes, on machines that share the folder, may run the same sweep. Each stays until all trials
have ended, since a trial whose process dies must be taken over.
"""

import math
import time
from pathlib import Path
from typing import Any, Protocol

from gpt_jax.core import files
from gpt_jax.core.clock import ActiveClock
from gpt_jax.core.errors import Preempted
from gpt_jax.core.interruption import SignalCounter
from gpt_jax.sweep import process
from gpt_jax.sweep.claims import Claim, Claims
from gpt_jax.sweep.ledger import (
    Ledger,
    SweepLimits,
    Trial,
    is_done,
    is_known_divergence,
    trial_folder,
    trial_summary_path,
    write_records,
)

OVER_BUDGET = 'no budget'  # prefix of the status of a trial that a larger budget would let run
STOPPED_STATUS = 'stopped'  # status of a trial that will be resumed, here or elsewhere
MAX_ATTEMPTS = 5  # starts, in one call, of a trial that keeps exiting with 75 (resumable)
WAIT_SECONDS = 1.0  # between checks of other processes, while there is nothing to run
CHECK_SECONDS = 5.0  # between heartbeats and budget checks, while a trial runs


class TrialDisplay(Protocol):
    """A display of the sweep's trials, such as dashboard.Dashboard."""

    def start(self, names: list[str]) -> None: ...

    def mark_elsewhere(self, names: list[str]) -> None: ...

    def refresh(self, text: str) -> None: ...

    def finish(
        self, name: str, status: str, summary: dict[str, Any], last_line: str = ''
    ) -> None: ...


def run_trials(
    groups: list[list[Trial]],
    command: list[str],
    workdir: Path,
    limits: SweepLimits,
    display: TrialDisplay,
    only: frozenset[str] | None = None,
) -> list[dict[str, Any]]:
    """Run every trial that is not done and that no other process is running.

    Returns when all have ended, here or elsewhere. A trial that fails, hangs or runs out of memory
    is recorded, and the next one starts; a later call tries it again, from its last checkpoint.

    Args:
      groups: the trials of each process; most groups have only one.
      command: runs a group when `--trial=NAME,...` is appended.
      only: the names of the trials to run; None: all.

    Returns:
      The records, in the order of the trials.

    Raises:
      Preempted: a signal stopped the sweep; the running trial is saved.
      UserError: a folder holds a trial of another config.
    """
    trials = [trial for group in groups for trial in group]
    selected = [
        [trial for trial in group if only is None or trial.name in only] for group in groups
    ]
    names = {trial.name for group in selected for trial in group}
    with SignalCounter() as signals:
        worker = Worker(trials, names, command, workdir, limits, display, signals)
        while pending := [group for group in selected if worker.list_pending(group)]:
            if not any(worker.try_run(group) for group in pending):
                worker.wait([t.name for group in pending for t in worker.list_pending(group)])
    return write_records(trials, workdir)


class Worker:
    """One of the processes that run a sweep.

    Args:
      trials: all trials of the sweep.
      names: the trials that this worker may run.
    """

    def __init__(
        self,
        trials: list[Trial],
        names: set[str],
        command: list[str],
        workdir: Path,
        limits: SweepLimits,
        display: TrialDisplay,
        signals: SignalCounter,
    ):
        self._trials, self._names, self._command = trials, names, command
        self._workdir, self.limits = workdir, limits
        self._display, self._signals = display, signals
        self.clock = ActiveClock()
        self._claims = Claims(workdir, limits.stale_seconds, self.clock)
        self._ledger = Ledger(workdir)
        # Trials that failed before this call are tried again, unless they diverged; a trial that
        # fails from here on, in any process, is not.
        self._ended_before = {
            name: len(events) for name, events in self._ledger.read_end_events().items()
        }
        self._shown: set[str] = set()
        self._attempts: dict[str, int] = {}

    def list_pending(self, group: list[Trial]) -> list[Trial]:
        """List the trials of the group that have not ended, and show those that have."""
        ended = self._read_new_ends()
        pending = []
        for trial in group:
            done = is_done(trial, self._workdir)
            if not done and is_known_divergence(trial, self._workdir):
                ended.setdefault(trial.name, f'failed: {process.DIVERGED}')
            if not done and trial.name not in ended:
                pending.append(trial)
            elif trial.name not in self._shown:
                self._shown.add(trial.name)
                status = 'done' if done else ended[trial.name]
                self._display.finish(trial.name, status, self._read_summary(trial) if done else {})
        return pending

    def _read_new_ends(self) -> dict[str, str]:
        """Read the status of the trials that ended since this call began, in any process."""
        statuses = {}
        for name, events in self._ledger.read_end_events().items():
            new = [event['status'] for event in events[self._ended_before.get(name, 0) :]]
            if new and new[-1] != STOPPED_STATUS:
                statuses[name] = new[-1]
        return statuses

    def _read_summary(self, trial: Trial) -> dict[str, Any]:
        summary: dict[str, Any] = files.read_json(trial_summary_path(self._workdir, trial.name))
        return summary

    def try_run(self, group: list[Trial]) -> bool:
        """Run the pending trials of the group if they can begin here; return whether they did."""
        pending = self.list_pending(group)
        if self._signals.count and pending:
            raise Preempted(
                f'interrupted before trial {pending[0].name}; the same command resumes from there'
            )
        if not pending or self._must_wait_for_trunk(pending):
            return False
        claims = self._acquire(pending)
        if claims is None:
            return False
        try:
            if len(self.list_pending(pending)) < len(pending):
                return True  # another process ended one of them just before the claim
            obstacle = self._find_obstacle(pending, claims[0])
            if obstacle:
                self._record_end(pending, claims, obstacle, 0.0)
            else:
                self._run(pending, claims)
        finally:
            for claim in claims:
                claim.release()
        return True

    def wait(self, names: list[str]) -> None:
        """Wait a moment for other processes."""
        self._display.mark_elsewhere(names)
        self._display.refresh('')
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            self.clock.read()
            if self._signals.count:
                raise Preempted(f'interrupted while waiting for {names[0]}, which runs elsewhere')
            time.sleep(process.POLL_SECONDS)

    def _acquire(self, trials: list[Trial]) -> list[Claim] | None:
        """Claim all trials; None, with no claim held, if another process has one of them."""
        claims: list[Claim] = []
        for trial in trials:
            claim = self._claims.acquire(trial.name)
            if claim is None:
                for acquired in claims:
                    acquired.release()
                return None
            claims.append(claim)
        return claims

    def _run(self, trials: list[Trial], claims: list[Claim]) -> None:
        """Run the trials in one process; record this in the ledger and show it on the display."""
        names = [trial.name for trial in trials]
        for trial, claim in zip(trials, claims, strict=True):
            self._ledger.add_event(trial.name, trial.hash, 'begun', claim.number, of=len(trials))
        self._display.start(names)
        began = self.clock.read()
        watch = _TrialWatch(self, claims, began)
        result = process.run_process(
            [*self._command, f'--trial={",".join(names)}'],
            trial_folder(self._workdir, names[0]),
            self._signals,
            self.clock,
            hang_seconds=self.limits.hang_seconds,
            watch=watch,
            refresh=self._display.refresh,
        )
        seconds = self.clock.read() - began
        if watch.is_superseded:
            for trial, claim in zip(trials, claims, strict=True):
                self._ledger.add_event(
                    trial.name,
                    trial.hash,
                    'lost',
                    claim.number,
                    status=STOPPED_STATUS,
                    seconds=round(seconds, 3),
                )
            return
        status = result.status
        if watch.out_of_time and result.stopped:
            status = _out_of_time_status(self.limits)
        elif result.stopped and not self._signals.count:
            self._attempts[names[0]] = self._attempts.get(names[0], 0) + 1
            if self._attempts[names[0]] >= MAX_ATTEMPTS:
                status = f'failed: stopped by itself {MAX_ATTEMPTS} times'
        self._record_end(trials, claims, status, seconds)
        write_records(self._trials, self._workdir)
        if result.stopped and self._signals.count:
            raise Preempted(f'interrupted in trial {names[0]}; the same command resumes from there')

    def _record_end(
        self, trials: list[Trial], claims: list[Claim], status: str, seconds: float
    ) -> None:
        """Record the end of a process, for each of its trials.

        A trial is done if it has a summary; the process's status covers all of its trials.
        """
        last_line = process.read_last_line(trial_folder(self._workdir, trials[0].name))
        share = round(seconds / len(trials), 3)
        for trial, claim in zip(trials, claims, strict=True):
            done = is_done(trial, self._workdir)
            trial_status = 'done' if done else status
            if status == 'done' and not done:
                trial_status = 'failed: it left no summary'
            self._ledger.add_event(
                trial.name, trial.hash, 'ended', claim.number, status=trial_status, seconds=share
            )
            summary = self._read_summary(trial) if done else {}
            self._shown.add(trial.name)
            self._display.finish(trial.name, trial_status, summary, last_line)

    def _must_wait_for_trunk(self, trials: list[Trial]) -> bool:
        """Return whether a trunk of these branches may still be finished, here or elsewhere."""
        names = {trial.parent for trial in trials}
        trunks = [trial for trial in self._trials if trial.name in names]
        return any(
            trunk.name in self._names or self._is_running(trunk)
            for trunk in self.list_pending(trunks)
        )

    def _is_running(self, trial: Trial) -> bool:
        claim = self._claims.find_latest(trial.name)
        return claim is not None and self._claims.is_held(claim)

    def _find_obstacle(self, trials: list[Trial], claim: Claim) -> str:
        """Return the status of the trials if they cannot begin, or ''."""
        for parent in sorted({trial.parent for trial in trials if trial.parent}):
            if '/' not in parent and not trial_summary_path(self._workdir, parent).exists():
                return f'failed: its trunk {parent} is not done'
        if self.count_seconds() >= 3600 * self.limits.hours:
            return _out_of_time_status(self.limits)
        flops = self._count_other_flops(trials, claim) + sum(trial.flops for trial in trials)
        if flops > self.limits.flops:
            return f'{OVER_BUDGET}: would exceed the {self.limits.flops:.3g} FLOPs of sweep.flops'
        return ''

    def _count_other_flops(self, trials: list[Trial], own_claim: Claim) -> float:
        """Count the FLOPs of other trials that are done, or running under an older claim."""
        total = 0.0
        for trial in self._trials:
            if trial in trials:
                continue
            claim = self._claims.find_latest(trial.name)
            is_older = claim is not None and (
                self._claims.sort_key(claim) < self._claims.sort_key(own_claim)
            )
            if is_done(trial, self._workdir) or (
                claim is not None and is_older and self._claims.is_held(claim)
            ):
                total += trial.flops
        return total

    def count_seconds(self) -> float:
        """Count the seconds of all trials so far.

        Running trials, and those whose process died, count to their last heartbeat. Time in which
        a machine slept does not count.
        """
        total = 0.0
        ended: set[tuple[str, int]] = set()
        group_sizes: dict[tuple[str, int], int] = {}
        for event in self._ledger.read_events():
            key = event['trial'], event.get('claim', 0)
            if 'status' in event:
                total += event['seconds']
                ended.add(key)
            else:
                group_sizes[key] = event.get('of', 1)
        for name, claims in self._claims.list_all().items():
            for claim in claims:
                key = name, claim.number
                if key in group_sizes and key not in ended:
                    total += claim.held_seconds() / group_sizes[key]
        return total


class _TrialWatch:
    """Callback during a process: '' to continue, or how to end it; run a few times a second.

    Attributes:
      out_of_time: whether the budget of hours is spent.
      is_superseded: whether another process took one of the trials over.
    """

    def __init__(self, worker: Worker, claims: list[Claim], began: float):
        self._worker, self._claims, self._began = worker, claims, began
        self._last_beat = self._last_check = -math.inf
        # Seconds from `began` until the budget of hours is spent.
        self._seconds_allowed = 3600 * worker.limits.hours - worker.count_seconds()
        self.out_of_time = self.is_superseded = False

    def __call__(self) -> str:
        now = self._worker.clock.read()
        limits = self._worker.limits
        self.is_superseded = self.is_superseded or any(c.is_superseded() for c in self._claims)
        if self.is_superseded:
            return process.KILL_PROCESS
        if now - self._last_beat > min(CHECK_SECONDS, limits.stale_seconds / 4):
            self._last_beat = now
            for claim in self._claims:
                claim.heartbeat(now - self._began)
        elapsed = now - self._began
        if limits.hours < math.inf and now - self._last_check > CHECK_SECONDS:
            self._last_check = now
            seconds_left = 3600 * limits.hours - self._worker.count_seconds()
            self._seconds_allowed = elapsed + seconds_left
        self.out_of_time = self.out_of_time or elapsed > self._seconds_allowed
        return process.STOP_PROCESS if self.out_of_time else ''


def _out_of_time_status(limits: SweepLimits) -> str:
    return f'{OVER_BUDGET}: the {limits.hours:g} hours of sweep.hours are spent'
