"""Text sources: 'files:GLOBS', 'tfds:NAME' or a function, opened as splits of documents.

A function is named by a dotted path, 'my_lab.poems:read_documents'. It takes no arguments and
yields one string per document, the same ones at every call; validation text is held out from them.
"""

import functools
import glob
import hashlib
import inspect
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt_jax.core.config import DataConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.files import sha256_file
from gpt_jax.core.registry import resolve
from gpt_jax.data.readers import READERS, TextChunk, read_chunks

ChunkReader = Callable[[], Iterator[TextChunk]]  # starts a new pass over the documents
SplitChunks = Iterator[tuple[str, TextChunk]]  # ('train' | 'validation' | 'test', chunk)


def split_by_document(read: ChunkReader, fraction: float) -> SplitChunks:
    """Assign each document to validation with probability `fraction`.

    The assignment depends on a hash of the document's first chunk, so copies share a split.
    """
    split, is_first = '', True
    for chunk in read():
        if is_first:
            digest = hashlib.blake2b(chunk.text.encode('utf-8'), digest_size=8).digest()
            split = 'validation' if int.from_bytes(digest) < fraction * 2**64 else 'train'
        is_first = chunk.is_last
        yield split, chunk


def split_tail(read: ChunkReader, fraction: float) -> SplitChunks:
    """Assign the last `fraction` of the characters to validation; reads the text twice.

    At most one document is cut in two.
    """
    boundary = int(sum(len(chunk.text) for chunk in read()) * (1 - fraction))
    characters = 0
    for text, is_last in read():
        remaining = boundary - characters
        characters += len(text)
        if remaining >= len(text):
            yield 'train', TextChunk(text, is_last or remaining == len(text))
        elif remaining <= 0:
            yield 'validation', TextChunk(text, is_last)
        else:
            yield 'train', TextChunk(text[:remaining], True)
            yield 'validation', TextChunk(text[remaining:], is_last)


# By data.holdout, for sources without a validation split.
HOLDOUTS = {'documents': split_by_document, 'tail': split_tail}


def stdlib_folder() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_path('stdlib'))


def describe_source(field: str, source: str) -> dict[str, Any]:
    """Return what identifies the text of `source`, in JSON's types, without reading the text.

    Args:
      field: name in the data section, for error messages.
      source: 'files:GLOBS', 'tfds:NAME' or 'package.module:function'.

    Raises:
      UserError: a glob matches no file, or the function cannot be imported.
    """
    kind, _, rest = source.partition(':')
    if kind not in ('files', 'tfds'):
        # The cache is rebuilt when the module's file changes.
        path = inspect.getsourcefile(_find_function(field, source)) or ''
        return {'function': source, 'sha256': sha256_file(path)}
    if kind == 'files':
        stats = [(str(path), path.stat()) for path in match_files(f'data.{field}', rest)]
        return {'files': [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]}
    if rest == 'python_stdlib':
        return {'tfds': rest, 'python': platform.python_version(), 'stdlib': str(stdlib_folder())}
    return {'tfds': rest, 'data_dir': os.environ.get('TFDS_DATA_DIR', '')}


def count_text_bytes(description: dict[str, Any]) -> int | None:
    """Return the size in bytes of the text that `describe_source` described; None if unknown."""
    sizes = {path: size for path, size, _ in description.get('files', [])}
    if any(path.endswith(tuple(READERS)) for path in sizes):
        return None
    return sum(sizes.values()) or None


def match_files(field: str, globs: str) -> list[Path]:
    """Return the files that comma-separated globs match, absolute, sorted and without duplicates.

    Args:
      field: dotted name of the config field, for error messages.
      globs: patterns; '**' matches any depth.

    Raises:
      UserError: a glob matches no file.
    """
    files: set[Path] = set()
    for pattern in map(str.strip, globs.split(',')):
        paths = map(Path, glob.glob(os.path.expanduser(pattern), recursive=True))
        matches = {path.resolve() for path in paths if path.is_file()}
        if not matches:
            raise UserError(f'{field}: {pattern!r} matches no file (looked in {os.getcwd()})')
        files |= matches
    return sorted(files)


def make_split_reader(config: DataConfig, cache: Path) -> Callable[[], SplitChunks]:
    """Return a function that starts a pass over the config's documents, each with its split.

    Validation text is the validation split of `data.validation_source`, or else its test split, or
    else its train split. Without such a source, it is the source's own validation split, or else
    held out from its train split according to `data.holdout`.

    Raises:
      UserError: an unreadable source, no train split, or files in both training and validation.
    """
    source_splits = _make_readers('source', config.source, config, cache)
    if 'train' not in source_splits:
        names = ', '.join(source_splits) or 'none'
        raise UserError(f'data.source: must have a train split, got {config.source} with {names}')
    splits: dict[str, ChunkReader] = {
        split: source_splits[split]
        for split in ('train', 'validation', 'test')
        if split in source_splits
    }
    if config.validation_source:
        _check_disjoint(config)
        other = _make_readers('validation_source', config.validation_source, config, cache)
        splits['validation'] = other.get('validation') or other.get('test') or other['train']
    return functools.partial(_read_splits, splits, config)


def _read_splits(splits: dict[str, ChunkReader], config: DataConfig) -> SplitChunks:
    carve = 'validation' not in splits
    for split, read in splits.items():
        if carve and split == 'train':
            yield from HOLDOUTS[config.holdout](read, config.validation_fraction)
        else:
            for chunk in read():
                yield split, chunk


def _make_readers(
    field: str, source: str, config: DataConfig, cache: Path
) -> dict[str, ChunkReader]:
    kind, _, rest = source.partition(':')
    if kind == 'files':
        paths = match_files(f'data.{field}', rest)

        def read() -> Iterator[TextChunk]:
            for path in paths:
                yield from read_chunks(path, config.text_field)

        return {'train': read}
    if kind != 'tfds':
        read_documents = _find_function(field, source)
        return {'train': lambda: (TextChunk(text, True) for text in read_documents())}
    from gpt_jax.data import tfds_source

    return tfds_source.make_chunk_readers(field, rest, config.text_field, cache, stdlib_folder())


def _find_function(field: str, source: str) -> Callable[[], Iterator[str]]:
    function: Callable[[], Iterator[str]] = resolve(source, {}, f'data.{field}')
    return function


def _check_disjoint(config: DataConfig) -> None:
    """Raise UserError if a file is both training and validation data."""
    if config.source.startswith('files:') and config.validation_source.startswith('files:'):
        train = match_files('data.source', config.source.removeprefix('files:'))
        validation = match_files(
            'data.validation_source', config.validation_source.removeprefix('files:')
        )
        if shared := set(train).intersection(validation):
            raise UserError(
                f'data.validation_source: must not share files with data.source, got '
                f'{min(shared)} in both'
            )
