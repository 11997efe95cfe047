"""The checkpoints of a ladder before they are loaded: place, weights, revision and tokens."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.data.readers import read_rows
from gpt_jax.interop import huggingface
from gpt_jax.train import manifest

SUMMARY_FILE = 'summary.json'  # of a finished run
PUBLISHED_SUFFIXES = ('.safetensors', '.bin', '.json')  # files that make a published model


class Checkpoint(NamedTuple):
    """A checkpoint, before its weights are loaded.

    Attributes:
      name: as the user gave it.
      location: the same for every spelling of its path: see find_location.
      weights_id: differs if its weights differ: of a run, the SHA-256 of its checkpoint's manifest;
        of a folder, that of names, sizes and modification times; on the hub, the commit, or '' if
        the hub does not answer.
      revision: for the reader: the revision on the hub, or the step of a run.
      tokens: number of tokens it was trained on.
      role: the kind of run, as in summary.json; '' if it is not a run of this program.
    """

    name: str
    location: str
    weights_id: str
    revision: str
    tokens: int
    role: str


def find_location(name: str) -> str:
    """Return the absolute path of a folder, without links, or a name on the hub.

    Raises:
      UserError: the path cannot be looked up, or has several snapshots.
    """
    folder = files.find_snapshot(files.check_path(name, 'MODEL'), 'MODEL')
    return str(folder.resolve()) if folder.is_dir() else name.removesuffix('@main')


def find_checkpoint(name: str, tokens: int | None) -> Checkpoint:
    """Find the tokens and the revision of a checkpoint, without loading it.

    Args:
      tokens: number of training tokens that the user gave; None: none.

    Raises:
      UserError: there is no such folder, or its tokens are unknown or differ from those given.
    """
    location = find_location(name)
    folder = Path(location)
    own_tokens, role = None, ''
    if (folder / 'checkpoints').is_dir():
        revision, own_tokens, role, weights_id = _read_run(folder)
    elif folder.is_dir():
        revision = folder.name if folder.parent.name == 'snapshots' else ''
        weights_id = _identify_files(folder)
    elif huggingface.is_hub_name(name):
        revision, weights_id = name.partition('@')[2], huggingface.find_commit(name)
    else:
        raise UserError(f'{name}: no such folder')
    if own_tokens is not None and tokens not in (None, own_tokens):
        raise UserError(f'{name}: was trained on {own_tokens} tokens, but --tokens says {tokens}')
    if own_tokens is None and tokens is None:
        raise UserError(
            f'{name}: the number of tokens it was trained on is unknown; give it with --tokens, a '
            'number for all or a table with the columns checkpoint and tokens'
        )
    return Checkpoint(name, location, weights_id, revision, own_tokens or tokens or 0, role)


def _identify_files(folder: Path) -> str:
    """Return an identity of a published model that does not read its weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in PUBLISHED_SUFFIXES and path.is_file():
            stat = path.stat()
            digest.update(f'{path.name}/{stat.st_size}/{stat.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def _read_run(folder: Path) -> tuple[str, int | None, str, str]:
    """Return the step of a run's best or newest checkpoint, its tokens if known, role and id."""
    selected = manifest.select_checkpoint_folder(folder, None)
    newest = manifest.read_newest_manifest(selected / 'checkpoints')
    weights_id = hashlib.sha256(json.dumps(newest).encode()).hexdigest()
    step = 0 if newest is None else newest['meta']['next_batch']
    if not (folder / SUMMARY_FILE).exists():
        return str(step), None, '', weights_id
    summary = files.read_json(folder / SUMMARY_FILE)
    tokens = step * summary['tokens'] // summary['steps']
    return str(step), tokens, summary.get('role', ''), weights_id


def read_tokens_table(path: Path) -> dict[str, int]:
    """Read training tokens by checkpoint, the columns `checkpoint` and `tokens` of a file of rows.

    Raises:
      UserError: the file cannot be read, or lacks a column or a value.
    """
    table = {}
    for where, row in read_rows(path):
        name, tokens = row.get('checkpoint'), row.get('tokens')
        if not name or tokens in (None, ''):
            raise UserError(f'{where}: must have a checkpoint and its tokens')
        table[str(name)] = parse_tokens(tokens, where)
    return table


def parse_tokens(value: Any, where: str) -> int:
    """Return a number of tokens, such as 300e9, as an integer.

    Raises:
      UserError: it is not a finite number of at least 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number < math.inf:
        raise UserError(f'{where}: must be a number of tokens, such as 300e9, got {value!r}')
    return round(number)


def index_tokens(tokens: Mapping[str, int]) -> dict[str, int]:
    """Return numbers of tokens by location, from those by name in any spelling.

    Raises:
      UserError: two spellings of a checkpoint have different tokens.
    """
    indexed: dict[str, int] = {}
    for name, number in tokens.items():
        location = name
        with contextlib.suppress(UserError):  # a table may have others than those to be scored
            location = find_location(name)
        if indexed.setdefault(location, number) != number:
            raise UserError(f'--tokens: has {indexed[location]} and {number} tokens for {name}')
    return indexed
