"""Claims on trials, for processes on any machines that share only a folder.

    claims/NAME.1           first claim on trial NAME, with its process; created atomically, then
                            never changed
    claims/NAME.1.beat      written by the holder as long as it lives: its seconds on the trial
    claims/NAME.1.released  the holder gave the claim up: the trial ended
    claims/NAME.2           next claim, made once the first is released or its holder is dead

Only the highest number counts. A claim is acquired by creating the file of the next number, which
the file system grants to one process only; no file is removed or renamed, so two processes can
never hold the same trial. A holder is dead if its process has ended (on the same machine), or if
its heartbeat is more than `stale` seconds older than a file touched now: both times are the file
server's, so the machines' clocks do not matter. A machine that slept gives the others on it
`stale` seconds for their next heartbeat. A holder that was frozen and wakes up finds the higher
number and stops (`Claim.is_superseded`).
"""

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import files
from gpt_jax.core.clock import ActiveClock
from gpt_jax.core.errors import FULL_DISK_ERRNOS

CLAIMS_FOLDER = 'claims'
HEARTBEAT_SUFFIX = '.beat'
RELEASED_SUFFIX = '.released'


def this_process() -> dict[str, Any]:
    """Return what identifies this process uniquely: machine, boot, container, pid and start."""
    return {
        'host': socket.gethostname(),
        'machine': _find_machine(),
        'pid': os.getpid(),
        'began': _find_start(os.getpid()),
    }


def is_dead(process: dict[str, Any]) -> bool:
    """Return whether a process has ended; False if unknown, as for one on another machine."""
    if not process['machine'] or process['machine'] != _find_machine():
        return False
    return _find_start(process['pid']) != process['began']


def _find_machine() -> str:
    """Identify the boot and the pid namespace; '' if the system does not reveal them.

    Equal for two processes only if they see each other's pids.
    """
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return ''


def _find_start(pid: int) -> str:
    """Return a process's start time in ticks since boot; '' if it is absent or a zombie.

    It distinguishes a process from a later one with the same pid.
    """
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return ''
    state, start = fields[0], fields[19]
    return '' if state in ('Z', 'X') else start


class Claim(NamedTuple):
    """This process's claim on a trial. path: claims/NAME.NUMBER."""

    path: Path
    number: int

    def heartbeat(self, seconds: float) -> None:
        """Show that the holder is alive; cheap.

        Args:
          seconds: time that it has spent on the trial.
        """
        path = _add_suffix(self.path, HEARTBEAT_SUFFIX)
        _touch(path)
        # In place, so that it is never read empty.
        with files.name_errors(path), open(path, 'r+b', buffering=0) as file:
            file.write(f'{seconds:20.3f}\n'.encode())

    def is_superseded(self) -> bool:
        """Return whether another process took the trial over because this one seemed dead."""
        trial = self.path.name.rpartition('.')[0]
        return self.path.with_name(f'{trial}.{self.number + 1}').exists()

    def release(self) -> None:
        _touch(_add_suffix(self.path, RELEASED_SUFFIX))

    def held_seconds(self) -> float:
        """Return the seconds that the holder had spent on the trial at its last heartbeat."""
        try:
            return float(_add_suffix(self.path, HEARTBEAT_SUFFIX).read_text())
        except (OSError, ValueError):  # no heartbeat, or the disk was full
            return 0.0


class Claims:
    """The claims on a sweep's trials.

    Args:
      workdir: the sweep's folder, on a file system that all machines share.
      stale: seconds without a heartbeat after which a holder counts as dead.
      clock: knows when this machine last slept; None: one that begins now.
    """

    def __init__(self, workdir: Path, stale: float, clock: ActiveClock | None = None):
        self._clock = clock or ActiveClock()
        self._folder, self._stale, self._process = workdir / CLAIMS_FOLDER, stale, this_process()
        self._folder.mkdir(parents=True, exist_ok=True)

    def acquire(self, name: str) -> Claim | None:
        """Claim a trial; None if another process holds it or was faster."""
        latest = self.find_latest(name)
        if latest is not None and self.is_held(latest):
            return None
        claim = self._make_claim(name, latest.number + 1 if latest else 1)
        claim.heartbeat(0.0)  # before the claim, so that no claim is ever seen without a heartbeat
        return claim if self._create(claim.path) else None

    def find_latest(self, name: str) -> Claim | None:
        """Return the latest claim on a trial, held or not; None if there is none."""
        latest, number = None, 1
        while (claim := self._make_claim(name, number)).path.exists():
            latest, number = claim, number + 1
        return latest

    def is_held(self, claim: Claim) -> bool:
        """Return whether the claim's holder may still be running the trial."""
        if _add_suffix(claim.path, RELEASED_SUFFIX).exists():
            return False
        known_dead = False
        # Without hard links the file may be read while it is being written.
        with contextlib.suppress(OSError, ValueError):
            known_dead = is_dead(json.loads(claim.path.read_text()))
        if known_dead:
            return False
        last_beat = _read_mtime(_add_suffix(claim.path, HEARTBEAT_SUFFIX))
        is_fresh = self._read_server_time() - last_beat <= self._stale
        # After a pause, the holder may be on this machine too, and about to beat again.
        return is_fresh or self._clock.seconds_since_pause() <= self._stale

    def list_all(self) -> dict[str, list[Claim]]:
        """List every claim that was ever made, by trial."""
        claims: dict[str, list[Claim]] = {}
        for path in sorted(self._folder.iterdir()):
            name, _, number = path.name.rpartition('.')
            if number.isdigit() and not path.name.startswith('.'):
                claims.setdefault(name, []).append(self._make_claim(name, int(number)))
        return claims

    def sort_key(self, claim: Claim) -> tuple[float, str]:
        """Return a key by which all processes agree on the order of claims."""
        return _read_mtime(claim.path), claim.path.name

    def _make_claim(self, name: str, number: int) -> Claim:
        return Claim(self._folder / f'{name}.{number}', number)

    def _create(self, path: Path) -> bool:
        """Create a claim's file; return whether this call created it.

        The content is written to another file and linked, which is atomic on network file systems.
        """
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix='.')
        try:
            with files.name_errors(path), os.fdopen(handle, 'w') as file:
                file.write(json.dumps(self._process))
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in FULL_DISK_ERRNOS:
                raise
            # No hard links here: O_EXCL decides, and the content is a single write
            return self._create_exclusively(path)
        finally:
            os.unlink(temporary)
        return True

    def _create_exclusively(self, path: Path) -> bool:
        try:
            with open(path, 'x') as file:
                file.write(json.dumps(self._process))
        except FileExistsError:
            return False
        return True

    def _read_server_time(self) -> float:
        """Return the file server's time."""
        probe = self._folder / f'.now-{self._process["host"]}-{self._process["pid"]}'
        _touch(probe)
        now = _read_mtime(probe)
        with contextlib.suppress(FileNotFoundError):
            probe.unlink()
        return now


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _touch(path: Path) -> None:
    with open(path, 'ab'):
        os.utime(path)  # without arguments, the time is the file server's


def _read_mtime(path: Path) -> float:
    """Return the time of the last change; 0.0 if there is no such file."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
