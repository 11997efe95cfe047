"""Which checkpoint of a folder is the newest that is still, to the byte, what was written? Imports no JAX.

A checkpoint's manifest is one JSON file holding the step, the caller's meta, a line per array, and the size and SHA-256
of every other file of the checkpoint. It ends with its own SHA-256, and it must be the very bytes that `write` would
write, so that none of them can change unseen either. It is written last.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.files import sha256_file, write_bytes, write_text

NAME = 'manifest.json'
QUARANTINE, COMPLETED = 'quarantine', 'completed.txt'


class DamageError(Exception):
    """The checkpoint is not what its manifest says; the message names the file and what is wrong with it."""


def write(folder: Path, *, step: int, meta: dict[str, Any], leaves: dict[str, str]) -> None:
    """Takes stock of `folder` and writes its manifest; every other file must have been written.

    Args:
      leaves: what each array is, by its path in the state, as in {'params/embed': 'float32[256,64]'}.
    """
    present = sorted(_files(folder).items())
    files = {name: {'bytes': path.stat().st_size, 'sha256': sha256_file(path)} for name, path in present}
    write_bytes(folder / NAME, _encode({'step': step, 'meta': meta, 'leaves': leaves, 'files': files}))


def read(folder: Path) -> dict[str, Any]:
    """The manifest alone, checked against its own SHA-256: 'step', 'meta', 'leaves', 'files'.

    Raises:
      DamageError: it is missing or one of its bytes has changed.
    """
    try:
        content = (folder / NAME).read_bytes()
        body = json.loads(content)
        del body['sha256']
        unchanged = _encode(body) == content
    except OSError as error:
        raise DamageError(f'{NAME} cannot be read: {error.strerror}') from None
    except (ValueError, KeyError, TypeError):
        unchanged = False
    if not unchanged:
        raise DamageError(f'{NAME} does not match its own SHA-256')
    return body


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, after every file of the folder was read and found to be as written.

    Raises:
      DamageError: a file is missing, surplus, of another size or of another SHA-256, or the folder is another step's.
    """
    manifest = read(folder)
    if folder.name != str(manifest['step']):
        raise DamageError(f'{NAME} is of step {manifest["step"]}')
    present, listed = _files(folder), manifest['files']
    for name in sorted(listed.keys() - present.keys()):
        raise DamageError(f'{name} is missing')
    for name in sorted(present.keys() - listed.keys()):
        raise DamageError(f'{name} is not listed in {NAME}')
    for name, entry in listed.items():
        try:
            size = present[name].stat().st_size
            if size != entry['bytes']:
                raise DamageError(f'{name} has {size} bytes, not {entry["bytes"]}')
            if sha256_file(present[name]) != entry['sha256']:
                raise DamageError(f'{name} does not match its SHA-256')
        except OSError as error:
            raise DamageError(f'{name} cannot be read: {error.strerror}') from None
    return manifest


def steps(directory: Path) -> list[int]:
    """The completed steps of a run's folder, newest first, not verified."""
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((int(p.name) for p in found if re.fullmatch('0|[1-9][0-9]*', p.name) and p.is_dir()), reverse=True)


def newest_good(directory: Path, on_damage: Callable[[int, DamageError], None]) -> int | None:
    """The step of the newest checkpoint that verifies; None only if none was ever completed in `directory`.

    Args:
      on_damage: is called with each newer one's step and what is wrong with it.

    Raises:
      UserError: checkpoints were completed here, but no good one is left.
    """
    there = steps(directory)
    for step in there:
        try:
            verify(directory / str(step))
        except DamageError as damage:
            on_damage(step, damage)
        else:
            return step
    if there or _was_one(directory):
        raise _lost(directory)
    return None


def read_meta(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The newest good checkpoint's meta, after all its files were verified; None if none was ever completed.

    Raises:
      UserError: checkpoints were completed here, but no good one is left.
    """
    step = newest_good(Path(directory), lambda *_: None)
    return None if step is None else read(Path(directory) / str(step))['meta']


def newest_meta(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The meta of the newest checkpoint whose manifest is whole; its other files are not looked at.

    None only if none was ever completed in `directory`.

    Raises:
      UserError: checkpoints were completed here, but none has a whole manifest; names the newest one's file.
    """
    directory, newest = Path(directory), ''
    for step in steps(directory):
        try:
            return read(directory / str(step))['meta']
        except DamageError as damage:
            newest = newest or f'{directory / str(step)}: damaged ({damage}); '
    if newest or _was_one(directory):
        raise _lost(directory, newest)
    return None


def mark_completed(directory: Path) -> None:
    """Leaves word that a checkpoint was completed in `directory`, should all of them be lost."""
    if not (directory / COMPLETED).exists():
        write_text(directory / COMPLETED, 'A checkpoint was completed here: without one, this run refuses to start.\n')


def quarantine(directory: Path, step: int) -> Path:
    """Moves the checkpoint out of the way, to where it can be looked at; returns the place."""
    room = directory / QUARANTINE
    room.mkdir(exist_ok=True)
    count = sum(1 for _ in room.glob(f'{step}-*'))
    return (directory / str(step)).rename(room / f'{step}-{count}')


def _was_one(directory: Path) -> bool:
    return (directory / QUARANTINE).exists() or (directory / COMPLETED).exists()


def _lost(directory: Path, why: str = '') -> UserError:
    return UserError(f'{why}{directory}: no good checkpoint is left of this run; bring one back, or remove the folder')


def _files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but its manifest, by relative path; also links and whatever else is not a folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob('*')}
    return {name: path for name, path in paths.items() if name != NAME and (path.is_symlink() or not path.is_dir())}


def _encode(body: dict[str, Any]) -> bytes:
    """Raises TypeError or ValueError for what JSON has no word for: NaN, infinity, arrays."""
    digest = hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()
    return (json.dumps({**body, 'sha256': digest}, indent=1, allow_nan=False) + '\n').encode()
