"""Checkpoint manifests: the step, meta and checksums that show that a checkpoint is intact.

A manifest is one JSON file with the step, the caller's meta, a line for each array, and the size
and SHA-256 of every other file of the checkpoint. It ends with its own SHA-256 and must consist of
exactly the bytes that `write_manifest` writes, so that no change to it goes unnoticed either. It is
written last. This module does not import JAX.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax.core.errors import UserError
from gpt_jax.core.files import sha256_file, write_bytes, write_text

MANIFEST_FILE = 'manifest.json'
QUARANTINE_FOLDER, COMPLETED_FILE = 'quarantine', 'completed.txt'
BEST_FOLDER = 'best'  # in a run's folder: its best checkpoint, as a run of its own


class DamageError(Exception):
    """A checkpoint does not match its manifest; the message names the file and the difference."""


def write_manifest(
    folder: Path, *, step: int, meta: dict[str, Any], leaves: dict[str, str]
) -> None:
    """Write the manifest of a checkpoint whose other files are all written.

    Args:
      folder: the checkpoint's folder.
      step: the checkpoint's step.
      meta: JSON values.
      leaves: dtype and shape of each array by its path: {'params/embed': 'float32[256,64]'}.
    """
    checksums = {
        name: {'bytes': path.stat().st_size, 'sha256': sha256_file(path)}
        for name, path in sorted(_list_files(folder).items())
    }
    body = {'step': step, 'meta': meta, 'leaves': leaves, 'files': checksums}
    write_bytes(folder / MANIFEST_FILE, _encode(body))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest ('step', 'meta', 'leaves', 'files') and check its own SHA-256.

    Raises:
      DamageError: it is missing, or one of its bytes has changed.
    """
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        body = json.loads(content)
        del body['sha256']
        is_intact = _encode(body) == content
    except OSError as error:
        raise DamageError(f'{MANIFEST_FILE} cannot be read: {error.strerror}') from None
    except (ValueError, KeyError, TypeError):
        is_intact = False
    if not is_intact:
        raise DamageError(f'{MANIFEST_FILE} does not match its own SHA-256')
    return body


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest.

    Raises:
      DamageError: a file is missing, unlisted, or has another size or SHA-256; or the manifest is
        that of another step.
    """
    manifest = read_manifest(folder)
    if folder.name != str(manifest['step']):
        raise DamageError(f'{MANIFEST_FILE} is of step {manifest["step"]}')
    present, listed = _list_files(folder), manifest['files']
    for name in sorted(listed.keys() - present.keys()):
        raise DamageError(f'{name} is missing')
    for name in sorted(present.keys() - listed.keys()):
        raise DamageError(f'{name} is not listed in {MANIFEST_FILE}')
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


def list_steps(directory: Path) -> list[int]:
    """List the completed steps in a run's checkpoint folder, newest first, without verifying."""
    paths = directory.iterdir() if directory.is_dir() else ()
    is_step = re.compile('0|[1-9][0-9]*').fullmatch
    steps = [int(path.name) for path in paths if is_step(path.name) and path.is_dir()]
    return sorted(steps, reverse=True)


def find_newest_valid(directory: Path, on_damage: Callable[[int, DamageError], None]) -> int | None:
    """Return the step of the newest checkpoint that is intact; None if none was ever completed.

    Args:
      directory: the run's checkpoint folder.
      on_damage: called with the step of each newer checkpoint and its damage.

    Raises:
      UserError: checkpoints were completed here, but none is intact.
    """
    steps = list_steps(directory)
    for step in steps:
        try:
            verify_checkpoint(directory / str(step))
        except DamageError as damage:
            on_damage(step, damage)
        else:
            return step
    if steps or _was_completed(directory):
        raise _make_lost_error(directory)
    return None


def read_newest_meta(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the meta of the newest checkpoint, as read_newest_manifest does."""
    newest = read_newest_manifest(directory)
    return None if newest is None else newest['meta']


def read_newest_manifest(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the newest intact manifest; checks no other file of the checkpoint.

    None if none was ever completed in `directory`.

    Raises:
      UserError: checkpoints were completed here, but no manifest is intact; names the newest one.
    """
    directory, newest_damage = Path(directory), ''
    for step in list_steps(directory):
        try:
            return read_manifest(directory / str(step))
        except DamageError as damage:
            newest_damage = newest_damage or f'{directory / str(step)}: damaged ({damage}); '
    if newest_damage or _was_completed(directory):
        raise _make_lost_error(directory, newest_damage)
    return None


def select_checkpoint_folder(folder: Path, step: int | None) -> Path:
    """Select the folder whose checkpoints represent a run: its best/, if it has one.

    Args:
      folder: the run's folder.
      step: a step, whose checkpoint only the run's own folder has; None: the best or the newest.
    """
    best = folder / BEST_FOLDER
    return best if step is None and (best / 'checkpoints').is_dir() else folder


def mark_completed(directory: Path) -> None:
    """Record that a checkpoint was completed in `directory`, in case all of them are lost."""
    if not (directory / COMPLETED_FILE).exists():
        write_text(
            directory / COMPLETED_FILE,
            'A checkpoint was completed here: if none is left, this run refuses to start.\n',
        )


def quarantine_checkpoint(directory: Path, step: int) -> Path:
    """Move a checkpoint into the quarantine folder for inspection; return its new path."""
    quarantine = directory / QUARANTINE_FOLDER
    quarantine.mkdir(exist_ok=True)
    count = sum(1 for _ in quarantine.glob(f'{step}-*'))
    return (directory / str(step)).rename(quarantine / f'{step}-{count}')


def _was_completed(directory: Path) -> bool:
    return (directory / QUARANTINE_FOLDER).exists() or (directory / COMPLETED_FILE).exists()


def _make_lost_error(directory: Path, newest_damage: str = '') -> UserError:
    return UserError(
        f'{newest_damage}{directory}: no good checkpoint is left; restore one, or remove the folder'
    )


def _list_files(folder: Path) -> dict[str, Path]:
    """List every file below `folder` except its manifest, by relative path.

    Links and anything else that is not a folder count as files.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob('*')}
    return {
        name: path
        for name, path in paths.items()
        if name != MANIFEST_FILE and (path.is_symlink() or not path.is_dir())
    }


def _encode(body: dict[str, Any]) -> bytes:
    """Encode a manifest; raise TypeError or ValueError for NaN, infinity and arrays."""
    digest = hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()
    return (json.dumps({**body, 'sha256': digest}, indent=1, allow_nan=False) + '\n').encode()
