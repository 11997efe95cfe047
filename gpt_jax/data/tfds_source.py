"""TensorFlow Datasets as a source of text and rows; reads array_record without TensorFlow."""

import contextlib
import hashlib
import importlib
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.data.readers import LocatedRows, TextChunk, check_text, missing_column_message
from gpt_jax.data.sources import ChunkReader

STDLIB = 'python_stdlib'
FORMAT = 'array_record'
RECORDS_PER_READ = 64
FLOAT32_MAX = 3e38  # approximately


def make_chunk_readers(
    field: str, name: str, column: str, cache: Path, stdlib: Path
) -> dict[str, ChunkReader]:
    """Return a reader of the documents of each split, preparing the dataset first if needed.

    Args:
      field: name in the data section, for error messages.
      name: '<name>' or '<name>/<config>'.
      column: the feature that holds the text.
      cache: folder for locks and for the prepared python_stdlib; other datasets use TFDS's folder.
      stdlib: folder of the library that python_stdlib reads.

    Raises:
      UserError: the dataset does not exist, cannot be prepared here, or has no feature `column`.
    """
    where = f'data.{field}: tfds:{name}'
    builder = open_builder(where, name, cache, stdlib)
    columns = list(builder.info.features or {})
    if column not in columns:
        raise UserError(missing_column_message(where, column, columns))
    return {split: _make_reader(where, builder, split, column) for split in builder.info.splits}


def open_builder(where: str, name: str, cache: Path, stdlib: Path) -> Any:
    """Return the TFDS builder of a dataset, preparing the dataset first if needed.

    Args:
      where: prefix of error messages.
      name, cache, stdlib: as in `make_chunk_readers`.

    Raises:
      UserError: the dataset does not exist or cannot be prepared here.
    """
    lock = cache / 'tfds' / f'{name.replace("/", "-")}.lock'
    with files.hold_lock(lock, wait=True), _quiet_tfds():
        if name == STDLIB:
            builder = _stdlib_builder(cache, stdlib)
        else:
            builder = _registered_builder(where, name)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare(file_format=FORMAT)
        # The type varies: no network, no TensorFlow, no beam, a wrong checksum, a full disk.
        except Exception as error:
            raise UserError(
                f"{where} cannot be prepared here ({_error_line(error)}); pip install '.[tf]', or "
                f'prepare it as {FORMAT} on a machine with a network and set TFDS_DATA_DIR to its '
                'folder'
            ) from error
    return builder


def _stdlib_builder(cache: Path, stdlib: Path) -> Any:
    from gpt_jax.data.stdlib import PythonStdlib

    version = hashlib.sha256(f'{platform.python_version()}:{stdlib}'.encode()).hexdigest()[:16]
    folder = cache / 'tfds' / version
    # Left over from a killed process: the caller holds the lock.
    for incomplete in (folder / STDLIB).glob('incomplete.*'):
        shutil.rmtree(incomplete)
    return PythonStdlib(root=str(stdlib), data_dir=str(folder), file_format=FORMAT)


def _registered_builder(where: str, name: str) -> Any:
    import tensorflow_datasets as tfds

    folder = os.environ.get('TFDS_DATA_DIR')  # TFDS itself reads it once, on import
    try:
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return tfds.builder(name, data_dir=folder, file_format=FORMAT)
        # Without TensorFlow, many datasets (c4, cnn_dailymail) register themselves only when their
        # module is imported.
        for module in _find_modules(tfds, name.split('/')[0]):
            importlib.import_module(module)
        return tfds.builder(name, data_dir=folder, file_format=FORMAT)
    except tfds.core.DatasetNotFoundError:
        raise UserError(f'{where}: TensorFlow Datasets has no dataset of this name') from None
    except Exception as error:
        raise UserError(f'{where} cannot be opened ({_error_line(error)})') from error


def _find_modules(tfds: Any, name: str) -> list[str]:
    """Return the TFDS modules with a class for the dataset: CnnDailymail for 'cnn_dailymail'."""
    root = Path(tfds.__file__).parent
    to_name = tfds.core.naming.camelcase_to_snakecase
    modules = []
    for path in sorted(root.glob('*/**/*.py')):
        if path.name.endswith('_test.py'):
            continue
        classes = re.findall(r'^class (\w+)\(', path.read_text('utf-8'), re.MULTILINE)
        if any(to_name(class_name) == name for class_name in classes):
            modules.append('.'.join([root.name, *path.relative_to(root).with_suffix('').parts]))
    return modules


def _make_reader(where: str, builder: Any, split: str, column: str) -> ChunkReader:
    def read() -> Iterator[TextChunk]:
        for location, record in read_records(where, builder, split):
            yield TextChunk(check_text(location, column, record[column]), True)

    return read


def read_records(where: str, builder: Any, split: str) -> LocatedRows:
    """Iterate over the records of a split as TFDS gives them, located as 'WHERE SPLIT[NUMBER]'.

    Raises (while iterating):
      UserError: the files are damaged.
    """
    try:
        source = builder.as_data_source(split)
        for first in range(0, len(source), RECORDS_PER_READ):
            indices = range(first, min(first + RECORDS_PER_READ, len(source)))
            for number, record in zip(indices, source.__getitems__(indices), strict=True):
                yield f'{where} {split}[{number}]', record
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'{where} cannot be read ({_error_line(error)}); delete {builder.data_path} to '
            'prepare it again'
        ) from error


def to_json_types(value: Any) -> Any:
    """Convert TFDS values to JSON's types.

    Bytes become text, arrays and ragged tensors become lists, and a float32 becomes the float with
    the fewest digits that rounds to it.

    Raises:
      UnicodeDecodeError: bytes that are not UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode('utf-8')
    if isinstance(value, dict):
        return {key: to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return [to_json_types(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json_types(value.item())
    if isinstance(value, float | np.floating):
        return _shortest_float(float(value))
    return value.item() if isinstance(value, np.generic) else value


def _shortest_float(value: float) -> float:
    """Return 3.8 for the float32 nearest to it, which as a float is 3.799999952316284."""
    short = np.float32(value) if abs(value) < FLOAT32_MAX else value
    return float(str(short)) if short == value else value


def find_class_names(features: Any, path: str = '') -> dict[str, tuple[str, ...]]:
    """Return the names of every ClassLabel among a dataset's features.

    Returns:
      The names by path: 'label' or 'choices[label]'.
    """
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.ClassLabel):
        return {path: tuple(features.names)}
    # The items of a Sequence are reached through the same path.
    items = getattr(features, 'feature', features)
    if items is not features:
        return find_class_names(items, path)
    names: dict[str, tuple[str, ...]] = {}
    if isinstance(features, tfds.features.FeaturesDict):
        for key, feature in features.items():
            names |= find_class_names(feature, f'{path}[{key}]' if path else key)
    return names


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silence TFDS's warnings about new folders, and its progress bars in log files."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _error_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
