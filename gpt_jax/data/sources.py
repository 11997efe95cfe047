"""Which text does a source word name? From 'files:<globs>' or 'tfds:<name>' to splits of documents."""

import functools
import glob
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt_jax.data.config import DataConfig
from gpt_jax.data.holdout import HOLDOUTS, Labelled, Reading
from gpt_jax.data.text_files import READERS, Piece, pieces
from gpt_jax.errors import UserError


def stdlib_folder() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path('stdlib'))


def describe(field: str, source: str) -> dict[str, Any]:
    """What identifies the text of `source` without reading it: JSON, and quick.

    Args:
      field: the configuration's field, for messages.

    Raises:
      UserError: a glob matches no file.
    """
    kind, _, rest = source.partition(':')
    if kind == 'files':
        stats = [(str(path), path.stat()) for path in matching(field, rest)]
        return {'files': [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]}
    if rest == 'python_stdlib':
        return {'tfds': rest, 'python': platform.python_version(), 'stdlib': str(stdlib_folder())}
    return {'tfds': rest, 'data_dir': os.environ.get('TFDS_DATA_DIR', '')}


def matching(field: str, globs: str) -> list[Path]:
    """What `found` gives for the configuration's field data.FIELD."""
    return found(f'data.{field}', globs)


def found(where: str, globs: str) -> list[Path]:
    """The files that comma-separated globs name ('**' for any depth): absolute, sorted, each once.

    Raises:
      UserError: a glob matches no file; `where` begins the message.
    """
    files: set[Path] = set()
    for pattern in globs.split(','):
        paths = [Path(path) for path in glob.glob(os.path.expanduser(pattern.strip()), recursive=True)]
        matches = {path.resolve() for path in paths if path.is_file()}
        if not matches:
            raise UserError(f'{where}: {pattern.strip()!r} matches no file (looked in {os.getcwd()})')
        files |= matches
    return sorted(files)


def labelled(config: DataConfig, cache: Path) -> Callable[[], Labelled]:
    """A function that begins a reading of the configuration's documents, each with its split.

    A validation source gives its validation split; failing that its test split; failing that everything.

    Raises:
      UserError: what the source's readers raise; no train split; training files among the validation files.
    """
    own = _readings('source', config.source, config, cache)
    if 'train' not in own:
        raise UserError(f'data.source: {config.source} has no train split (it has {", ".join(own) or "none"})')
    parts: dict[str, Reading] = {split: own[split] for split in ('train', 'validation', 'test') if split in own}
    if config.validation_source:
        _check_apart(config)
        other = _readings('validation_source', config.validation_source, config, cache)
        parts['validation'] = other.get('validation') or other.get('test') or other['train']
    return functools.partial(_one_reading, parts, config)


def _one_reading(parts: dict[str, Reading], config: DataConfig) -> Labelled:
    carved = 'validation' not in parts
    for split, reading in parts.items():
        if carved and split == 'train':
            yield from HOLDOUTS[config.holdout](reading, config.validation_fraction)
        else:
            for piece in reading():
                yield split, piece


def _readings(field: str, source: str, config: DataConfig, cache: Path) -> dict[str, Reading]:
    kind, _, rest = source.partition(':')
    if kind == 'files':
        paths = matching(field, rest)

        def read() -> Iterator[Piece]:
            for path in paths:
                yield from pieces(path, config.text_field)

        return {'train': read}
    from gpt_jax.data import tfds_sets

    return tfds_sets.readings(field, rest, config.text_field, cache, stdlib_folder())


def _check_apart(config: DataConfig) -> None:
    if config.source.startswith('files:') and config.validation_source.startswith('files:'):
        train = matching('source', config.source.removeprefix('files:'))
        shared = set(train).intersection(matching('validation_source', config.validation_source.removeprefix('files:')))
        if shared:
            raise UserError(f'data.validation_source: {min(shared)} is training data too')


def size(described: dict[str, Any]) -> int | None:
    """Bytes of the text that `describe` described; None where that is not known without reading."""
    if any(path.endswith(tuple(READERS)) for path, _, _ in described.get('files', [])):
        return None
    return sum(size for _, size, _ in described.get('files', [])) or None
