"""Which rows does a task's source name? From 'tfds:<name>', 'files:<globs>' or 'made:<name>' to splits of rows."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data import made, row_files, sources
from gpt_jax.errors import UserError

SPLITS = ('train', 'validation', 'test')
# What some TFDS sets call the split that others call validation (conll2003: dev).
VALIDATIONS = ('validation', 'dev', 'valid', 'val')


class Row(NamedTuple):
    """Columns by name: str, int, float, bool, None, lists and dicts of them; and where they stand, for messages."""

    place: str
    columns: Mapping[str, Any]


Reading = Callable[[], Iterator[Row]]


class Rows(NamedTuple):
    """The splits of a source, and the words of columns that hold a class by its number, where the source has them."""

    splits: Mapping[str, Reading]
    words: dict[str, tuple[str, ...]]


def read(field: str, source: str, cache: Path) -> Rows:
    """The rows of `source`; nothing but what TFDS or a made set must prepare is read yet.

    Args:
      field: the configuration's field, for messages ('task.source').
      source: 'tfds:<name>[/<config>]', 'files:<glob>[,<glob>...]' (all of it is train) or 'made:<name>'.
      cache: folder of what is prepared and made.

    Raises:
      UserError: no such set, no such file; a TFDS set that cannot be prepared here.
    """
    kind, _, name = source.partition(':')
    return KINDS[kind](field, name, cache)


def _tfds(field: str, name: str, cache: Path) -> Rows:
    from gpt_jax.data import tfds_sets

    where = f'{field}: tfds:{name}'
    builder = tfds_sets.opened(where, name, cache, sources.stdlib_folder())

    def reading(split: str) -> Iterator[Row]:
        for place, record in tfds_sets.records(where, builder, split):
            try:
                yield Row(place, tfds_sets.plain(record))
            except UnicodeDecodeError as error:
                raise UserError(f'{place}: holds bytes that are not UTF-8 ({error.reason})') from None

    there = {split: split for split in SPLITS if split in builder.info.splits}
    validation = next((split for split in VALIDATIONS if split in builder.info.splits), None)
    there |= {'validation': validation} if validation else {}
    splits = {split: functools.partial(reading, name) for split, name in there.items()}
    return Rows(splits, tfds_sets.label_words(builder.info.features))


def _files(field: str, globs: str, cache: Path) -> Rows:
    del cache
    paths = sources.found(field, globs)

    def reading() -> Iterator[Row]:
        for path in paths:
            for place, columns in row_files.rows(path):
                yield Row(place, columns)

    return Rows({'train': reading}, {})


def _made(field: str, name: str, cache: Path) -> Rows:
    if name not in made.SETS:
        raise UserError(f'{field}: made:{name}: no such set; one of {", ".join(made.SETS)}')
    folder = made.prepare(name, cache, sources.stdlib_folder())

    def reading(split: str) -> Iterator[Row]:
        for number, (_, columns) in enumerate(row_files.rows(folder / f'{split}.jsonl')):
            yield Row(f'{field}: made:{name} {split}[{number}]', columns)

    return Rows({split: functools.partial(reading, split) for split in SPLITS}, {})


KINDS: dict[str, Callable[[str, str, Path], Rows]] = {'tfds': _tfds, 'files': _files, 'made': _made}
