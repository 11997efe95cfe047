"""Row sources of tasks (tfds:NAME, files:GLOBS, synthetic:NAME), opened as splits of rows."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.core.errors import UserError
from gpt_jax.data import sources
from gpt_jax.data.readers import read_rows
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
    paths = sources.match_files(field, globs, with_text=False)

    def read() -> Iterator[Row]:
        for path in paths:
            for location, columns in read_rows(path):
                yield Row(location, _to_json_columns(location, columns))

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


def _to_json_columns(location: str, columns: dict[str, Any]) -> dict[str, Any]:
    try:
        return {name: _to_json_types(value) for name, value in columns.items()}
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
