"""Text sources: 'files:GLOBS', 'tfds:NAME' or a function, opened as splits of documents.

A function is named by a dotted path, 'my_lab.poems:read_documents'. It takes no arguments and
yields one string per document, the same ones at every call; validation text is held out from them.
"""

import contextlib
import functools
import glob
import hashlib
import inspect
import itertools
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpt_jax.core.config import DataConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.files import sha256_file
from gpt_jax.core.registry import resolve
from gpt_jax.data.readers import TextChunk, find_format, read_chunks, require_rows

ChunkReader = Callable[[], Iterator[TextChunk]]  # starts a new pass over the documents
SplitChunks = Iterator[tuple[str, TextChunk]]  # ('train' | 'validation' | 'test', chunk)
MAX_SUGGESTED_FROM = 1000  # files of a folder that are looked at for a hint


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
        return {'files': [_describe_file(path) for path in match_files(f'data.{field}', rest)]}
    if rest == 'python_stdlib':
        return {'tfds': rest, 'python': platform.python_version(), 'stdlib': str(stdlib_folder())}
    return {'tfds': rest, 'data_dir': os.environ.get('TFDS_DATA_DIR', '')}


def _describe_file(path: Path) -> list[Any]:
    """Return [name, file that it links to, size, time]: the name says how the file is read."""
    stat = path.stat()
    return [str(path), str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def count_text_bytes(description: dict[str, Any]) -> int | None:
    """Return the size in bytes of the text that `describe_source` described; None if unknown."""
    described = description.get('files', [])
    formats = [find_format(Path(path)) for path, *_ in described]
    if not all(file.is_text and not file.compression for file in formats):
        return None
    return sum(size for *_, size, _ in described) or None


def match_files(field: str, globs: str, with_text: bool = True) -> list[Path]:
    """Return the files that comma-separated globs match, as absolute paths without duplicates.

    Of several names of the same file, one with a suffix is returned. The order is that of the files
    that the names link to.

    Args:
      field: dotted name of the config field, for error messages.
      globs: patterns; '**' matches any depth. A file whose own name has commas or brackets matches
        as it is.
      with_text: whether plain text is accepted, in addition to files of rows.

    Raises:
      UserError: a glob matches no file, or matches a file of an unknown format.
    """
    files: dict[Path, Path] = {}  # names by the file that they link to
    names = (name for pattern in _split_globs(globs) for name in _match_glob(field, pattern, globs))
    for name in sorted(set(names), key=lambda name: (not name.suffix, name)):
        files.setdefault(name.resolve(), name)
    for name in files.values():
        try:
            find_format(name) if with_text else require_rows(name)
        except UserError as error:
            raise UserError(f'{field}: {error}') from None
    return [name for _, name in sorted(files.items())]


def _split_globs(globs: str) -> list[str]:
    """Split globs at commas, unless the whole is a name, or matches files, as it is."""
    is_whole = os.path.exists(os.path.expanduser(globs)) or (',' in globs and _find_paths(globs))
    return [globs] if is_whole else [pattern.strip() for pattern in globs.split(',')]


def _match_glob(field: str, pattern: str, globs: str) -> list[Path]:
    paths = _find_paths(pattern)
    if matches := [path for path in paths if path.is_file()]:
        return matches
    if paths:
        is_one = paths == [Path(os.path.expanduser(pattern)).absolute()]
        folder = pattern.rstrip('/') if is_one else str(paths[0])
        raise UserError(
            f'{field}: {pattern!r} {"is a folder" if is_one else "matches only folders"}; write '
            f'files:{folder}/{_suggest_glob(paths[0])} for the files in it'
        )
    hint = "; in a file's name, write ? for a comma" if ',' in globs else ''
    raise UserError(f'{field}: {pattern!r} matches no file (looked in {os.getcwd()}){hint}')


def _find_paths(pattern: str) -> list[Path]:
    """Return the files and folders that a glob matches, absolute.

    Brackets in names that exist are not those of a glob: 'a[1].txt', 'data [raw]/*.txt'.
    """
    pattern = os.path.expanduser(pattern)
    if not pattern:
        return []
    literal = Path(pattern).absolute()
    if not re.search('[*?]', pattern) and os.path.exists(literal):
        return [literal]
    matches = glob.glob(pattern, recursive=True) or glob.glob(
        _escape_folder(pattern), recursive=True
    )
    return sorted(Path(match).absolute() for match in matches)


def _escape_folder(pattern: str) -> str:
    """Escape the longest leading part of a glob that exists as a folder."""
    folder = next(parent for parent in Path(pattern).parents if os.path.isdir(parent))
    return os.path.join(glob.escape(str(folder)), Path(pattern).relative_to(folder))


def _suggest_glob(folder: Path) -> str:
    """Return a glob for the files in a folder, by the suffix of the first one with a reader."""
    for path in itertools.islice(folder.rglob('*'), MAX_SUGGESTED_FROM):
        if path.suffix and path.is_file() and '.git' not in path.parts:
            with contextlib.suppress(UserError):
                file_format = find_format(path)
                return f'**/*{file_format.suffix}{file_format.compression}'
    return '**/*.txt'


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
        return {'train': functools.partial(_read_files, field, paths, config)}
    if kind != 'tfds':
        read_documents = _find_function(field, source)
        return {'train': lambda: (TextChunk(text, True) for text in read_documents())}
    from gpt_jax.data import tfds_source

    return tfds_source.make_chunk_readers(field, rest, config.text_field, cache, stdlib_folder())


def _read_files(field: str, paths: list[Path], config: DataConfig) -> Iterator[TextChunk]:
    """Read the documents of files.

    Raises (while iterating):
      UserError: a bad file, or `data.separator` is not in any text of `data.source`.
    """
    separator = unescape_separator(config.separator)
    texts = documents = 0
    for path in paths:
        is_text = find_format(path).is_text
        texts += is_text
        for chunk in read_chunks(path, config.text_field, separator):
            documents += is_text and chunk.is_last
            yield chunk
    if separator and field == 'source' and documents == texts:
        raise UserError(
            f'data.separator: must separate documents in the plain text of data.source, got '
            f"{config.separator!r}, which is in none of its files; '' reads a file as a document"
        )


def _find_function(field: str, source: str) -> Callable[[], Iterator[str]]:
    function: Callable[[], Iterator[str]] = resolve(source, {}, f'data.{field}')
    return function


def _check_disjoint(config: DataConfig) -> None:
    """Raise UserError if a file is both training and validation data."""
    if config.source.startswith('files:') and config.validation_source.startswith('files:'):
        train, validation = (
            match_files(f'data.{field}', getattr(config, field).removeprefix('files:'))
            for field in ('source', 'validation_source')
        )
        if shared := find_shared_file(train, validation):
            raise UserError(
                f'data.validation_source: must not share files with data.source, got '
                f'{shared} in both'
            )


def unescape_separator(separator: str) -> str:
    """Replace '\\n', '\\r', '\\t' and '\\f', as written in a flag, by the characters."""
    escapes = {'n': '\n', 'r': '\r', 't': '\t', 'f': '\f', '\\': '\\'}
    return re.sub(r'\\([nrtf\\])', lambda match: escapes[match[1]], separator)


def find_shared_file(first: list[Path], second: list[Path]) -> Path | None:
    """Return a file of which both lists have a name, as named in the second; None if none."""
    files = {path.resolve() for path in first}
    return next((path for path in second if path.resolve() in files), None)
