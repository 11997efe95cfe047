"""Row sources of tasks (tfds:NAME, files:GLOBS, synthetic:NAME), opened as splits of rows."""

import csv
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.data import sources
from gpt_jax.data.readers import LocatedRows, parse_json, read_json_lines, read_parquet_rows
from gpt_jax.tasks import synthetic

SPLITS = ('train', 'validation', 'test')
# Names of the validation split in TFDS datasets (conll2003: dev).
VALIDATION_NAMES = ('validation', 'dev', 'valid', 'val')


class Row(NamedTuple):
    """One row of a source.

    Attributes:
      location: where the row is, for error messages.
      columns: values by column name: str, int, float, bool, None, and lists and dicts of them.
    """

    location: str
    columns: Mapping[str, Any]


RowReader = Callable[[], Iterator[Row]]  # starts a new pass over the rows


class RowSource(NamedTuple):
    """An opened source.

    Attributes:
      splits: a reader for each of the source's SPLITS.
      class_names: class names by column, for the columns that give classes by number and whose
        classes the source names.
    """

    splits: Mapping[str, RowReader]
    class_names: dict[str, tuple[str, ...]]


def open_row_source(field: str, source: str, cache: Path) -> RowSource:
    """Open `source`, preparing TFDS and synthetic datasets but reading no rows.

    Args:
      field: the config field, for error messages ('task.source').
      source: 'tfds:NAME[/CONFIG]', 'files:GLOB[,GLOB...]' (all rows are train) or 'synthetic:NAME'.
      cache: folder of prepared and generated datasets.

    Raises:
      UserError: there is no such dataset or file, or TFDS cannot prepare the dataset here.
    """
    kind, _, name = source.partition(':')
    return SOURCE_KINDS[kind](field, name, cache)


def _open_tfds(field: str, name: str, cache: Path) -> RowSource:
    from gpt_jax.data import tfds_source

    where = f'{field}: tfds:{name}'
    builder = tfds_source.open_builder(where, name, cache, sources.stdlib_folder())

    def read(split: str) -> Iterator[Row]:
        for location, record in tfds_source.read_records(where, builder, split):
            try:
                yield Row(location, tfds_source.to_json_types(record))
            except UnicodeDecodeError as error:
                raise UserError(f'{location}: bytes are not UTF-8 ({error.reason})') from None

    available = builder.info.splits
    names = {split: split for split in SPLITS if split in available}
    validation = next((split for split in VALIDATION_NAMES if split in available), None)
    names |= {'validation': validation} if validation else {}
    splits = {split: functools.partial(read, tfds_name) for split, tfds_name in names.items()}
    return RowSource(splits, tfds_source.find_class_names(builder.info.features))


def _open_files(field: str, globs: str, cache: Path) -> RowSource:
    del cache
    paths = sources.match_files(field, globs)

    def read() -> Iterator[Row]:
        for path in paths:
            for location, columns in read_rows(path):
                yield Row(location, columns)

    return RowSource({'train': read}, {})


def _open_synthetic(field: str, name: str, cache: Path) -> RowSource:
    if name not in synthetic.DATASETS:
        names = ', '.join(synthetic.DATASETS)
        raise UserError(f'{field}: synthetic:{name}: no such dataset; must be one of {names}')
    folder = synthetic.generate_dataset(name, cache, sources.stdlib_folder())

    def read(split: str) -> Iterator[Row]:
        for number, (_, columns) in enumerate(read_rows(folder / f'{split}.jsonl')):
            yield Row(f'{field}: synthetic:{name} {split}[{number}]', columns)

    return RowSource({split: functools.partial(read, split) for split in SPLITS}, {})


SOURCE_KINDS: dict[str, Callable[[str, str, Path], RowSource]] = {
    'tfds': _open_tfds,
    'files': _open_files,
    'synthetic': _open_synthetic,
}


def read_rows(path: Path) -> LocatedRows:
    """Iterate over the rows of one file: JSON Lines, a JSON list, CSV, TSV or Parquet.

    CSV and TSV have a header, and their values are text. CSV fields may be in double quotes
    (RFC 4180); in TSV a quote is an ordinary character.

    Returns:
      (location, columns): 'PATH:LINE' or 'PATH: row NUMBER' (from 0), and the values by name.

    Raises (while iterating):
      UserError: the file is unreadable, has an unknown suffix, is not UTF-8, or is malformed (the
        message names the line or row).
    """
    reader = next((READERS[suffix] for suffix in READERS if path.name.endswith(suffix)), None)
    if reader is None:
        raise UserError(f'{path}: file name must end in one of {", ".join(READERS)}')
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None


def _read_json(path: Path) -> LocatedRows:
    rows = parse_json(str(path), path.read_bytes())
    if not isinstance(rows, list):
        raise UserError(
            f'{path}: must be a list of objects, got {type(rows).__name__}; for one object per '
            'line, name it .jsonl'
        )
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(
                f'{path}: row {number}: must be an object with columns, got {type(row).__name__}'
            )
        yield f'{path}: row {number}', row


def _read_csv(path: Path) -> LocatedRows:
    return _read_table(path, csv.reader(_read_lines(path), strict=True))


def _read_tsv(path: Path) -> LocatedRows:
    lines = _read_lines(path)
    return _read_table(path, csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, strict=True))


def _read_table(path: Path, reader: Any) -> LocatedRows:
    csv.field_size_limit(sys.maxsize)  # an article may exceed the module's limit of 128 KiB
    line = 1
    try:
        header: list[str] = next(reader, [])
        if not header or len(set(header)) < len(header) or '' in header:
            raise UserError(f'{path}:1: must be a header of distinct column names, got {header}')
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f'{path}:{line}: must have {len(header)} fields, like the header, got '
                    f'{len(fields)}'
                )
            if fields:
                yield f'{path}:{line}', dict(zip(header, fields, strict=True))
            # Where the next row starts: a quoted field may contain line breaks.
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f'{path}:{line}: not a row of a table ({error})') from None


def _read_lines(path: Path) -> Iterator[str]:
    with open(path, 'rb') as file:
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
            except UnicodeDecodeError as error:
                raise UserError(
                    f'{path}:{number}: not UTF-8 at byte {offset + error.start} of the file'
                ) from None
            offset += len(line)


def _read_parquet(path: Path) -> LocatedRows:
    for location, row in read_parquet_rows(path):
        try:
            yield location, _to_json_types(row)
        except UnicodeDecodeError as error:
            raise UserError(f'{location}: bytes are not UTF-8 ({error.reason})') from None


def _to_json_types(value: Any) -> Any:
    """Convert dates, decimals and other Parquet types to text; keep JSON's types."""
    if isinstance(value, dict):
        return {key: _to_json_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_json_types(item) for item in value]
    if isinstance(value, bytes):
        return value.decode('utf-8')
    return value if value is None or isinstance(value, str | int | float) else str(value)


READERS: dict[str, Callable[[Path], LocatedRows]] = {
    '.jsonl': read_json_lines,
    '.jsonl.gz': read_json_lines,
    '.json': _read_json,
    '.csv': _read_csv,
    '.tsv': _read_tsv,
    '.parquet': _read_parquet,
}
