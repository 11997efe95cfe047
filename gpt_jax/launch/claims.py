"""Who runs which trial, where many machines share nothing but a folder? One at a time, and nobody's for ever.

    claims/NAME.1          the first claim on trial NAME: who it is. Made at once or not at all, and never changed
    claims/NAME.1.beat     touched by its holder as long as it lives
    claims/NAME.1.released the holder let go of it: the trial ended, one way or another
    claims/NAME.2          the next claim, made once the first was released or its holder is dead

Only the highest number counts. To take a trial up is to make the file of the next number, which the file system lets
one alone do; nothing is removed or renamed, so no moment exists at which two could take the same. A holder is dead when
its process is known to have ended (same machine), or when its beat is older than `stale` seconds against a file that
was touched just now: the times are the file server's, and the machines' clocks do not matter. A holder that was frozen
and wakes up finds the higher number and stops (see `Claim.lost`).
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from gpt_jax.launch import alive

FOLDER, BEAT, RELEASED = 'claims', '.beat', '.released'


class Claim(NamedTuple):
    """This process's hold on a trial."""

    path: Path  # claims/NAME.NUMBER
    number: int

    def beat(self) -> None:
        """A sign of life; cheap."""
        _touch(_with(self.path, BEAT))

    def lost(self) -> bool:
        """Whether another took the trial up, since this process seemed dead: leave it at once."""
        return self.path.with_name(f'{self.path.name.rpartition(".")[0]}.{self.number + 1}').exists()

    def release(self) -> None:
        self.beat()
        _touch(_with(self.path, RELEASED))

    def seconds(self) -> float:
        """From the claim to its last beat, by the file server's clock."""
        return max(0.0, _time(_with(self.path, BEAT)) - _time(self.path))


class Claims:
    """The claims on a sweep's trials.

    Args:
      workdir: the sweep's folder, on whatever file system all machines share.
      stale: seconds without a beat after which a holder counts as dead.
    """

    def __init__(self, workdir: Path, stale: float):
        self._folder, self._stale, self._me = workdir / FOLDER, stale, alive.me()
        self._folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> Claim | None:
        """A claim on the trial; None where another holds it, or was faster."""
        latest = self.latest(name)
        if latest is not None and self.held(latest):
            return None
        claim = self._claim(name, latest.number + 1 if latest else 1)
        claim.beat()  # first, so that nobody finds a claim without one
        return claim if self._make(claim.path) else None

    def latest(self, name: str) -> Claim | None:
        numbers = [one.number for one in self._of(name)]
        return self._claim(name, max(numbers)) if numbers else None

    def held(self, claim: Claim) -> bool:
        """Whether its holder may still be at work."""
        if _with(claim.path, RELEASED).exists():
            return False
        known_dead = False
        with contextlib.suppress(OSError, ValueError):  # being written at this moment, where there are no hard links
            known_dead = alive.dead(json.loads(claim.path.read_text()))
        return not known_dead and self._now() - _time(_with(claim.path, BEAT)) <= self._stale

    def all(self) -> dict[str, list[Claim]]:
        """Every claim that was ever made, by trial."""
        made: dict[str, list[Claim]] = {}
        for path in sorted(self._folder.iterdir()):
            name, _, number = path.name.rpartition('.')
            if number.isdigit() and not path.name.startswith('.'):
                made.setdefault(name, []).append(self._claim(name, int(number)))
        return made

    def order(self, claim: Claim) -> tuple[float, str]:
        """By which all agree on whose claim came first."""
        return _time(claim.path), claim.path.name

    def _claim(self, name: str, number: int) -> Claim:
        return Claim(self._folder / f'{name}.{number}', number)

    def _of(self, name: str) -> list[Claim]:
        number = 1
        made = []
        while (claim := self._claim(name, number)).path.exists():
            made.append(claim)
            number += 1
        return made

    def _make(self, path: Path) -> bool:
        """Whether the file was made by this call: written beside and linked, which network file systems do at once."""
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix='.')
        with os.fdopen(handle, 'w') as file:
            file.write(json.dumps(self._me))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here; then the whole content is one write, and O_EXCL says who was first
            return self._make_exclusively(path)
        finally:
            os.unlink(temporary)
        return True

    def _make_exclusively(self, path: Path) -> bool:
        try:
            with open(path, 'x') as file:
                file.write(json.dumps(self._me))
        except FileExistsError:
            return False
        return True

    def _now(self) -> float:
        """The file server's time."""
        probe = self._folder / f'.now-{self._me["host"]}-{self._me["pid"]}'
        _touch(probe)
        now = _time(probe)
        with contextlib.suppress(FileNotFoundError):
            probe.unlink()
        return now


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _touch(path: Path) -> None:
    with open(path, 'ab'):
        os.utime(path)  # without times: the server's own


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
