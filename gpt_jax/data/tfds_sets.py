"""What does a TensorFlow Datasets set hold? Read from array_record files, so without TensorFlow."""

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

from gpt_jax import files
from gpt_jax.data.holdout import Reading
from gpt_jax.data.text_files import Piece, checked_text, missing
from gpt_jax.errors import UserError

STDLIB = 'python_stdlib'
FORMAT = 'array_record'
RECORDS = 64  # read at once
LARGEST = 3e38  # about a float32's


def readings(of: str, name: str, column: str, cache: Path, stdlib: Path) -> dict[str, Reading]:
    """The splits of the set `name` ('<name>' or '<name>/<config>'), prepared first where it is not.

    Args:
      of: the configuration's field, for messages.
      column: the feature that holds the text.
      cache: where python_stdlib is prepared and where preparing is locked; other sets lie in TFDS's own folder.
      stdlib: the library's folder that python_stdlib reads.

    Raises:
      UserError: no such set, it cannot be prepared here, or it has no feature `column`.
    """
    where = f'data.{of}: tfds:{name}'
    builder = opened(where, name, cache, stdlib)
    columns = list(builder.info.features or {})
    if column not in columns:
        raise UserError(missing(where, column, columns))
    return {split: _reading(where, builder, split, column) for split in builder.info.splits}


def opened(where: str, name: str, cache: Path, stdlib: Path) -> Any:
    """The builder of the set `name`, prepared first where it is not.

    Args:
      where: begins messages.
      cache, stdlib: as in `readings`.

    Raises:
      UserError: no such set, or it cannot be prepared here.
    """
    with files.lock(cache / 'tfds' / f'{name.replace("/", "-")}.lock', wait=True), _quiet():
        builder = _stdlib_builder(cache, stdlib) if name == STDLIB else _registered_builder(where, name)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare(file_format=FORMAT)
        except Exception as error:  # anything: no network, no TensorFlow, no beam, a bad checksum, a full disk
            raise UserError(
                f"{where} cannot be prepared here ({_line(error)}); pip install '.[tf]', or prepare it "
                f'as {FORMAT} where there is a network and set TFDS_DATA_DIR to its folder'
            ) from error
    return builder


def _stdlib_builder(cache: Path, stdlib: Path) -> Any:
    from gpt_jax.data.python_stdlib import PythonStdlib

    version = hashlib.sha256(f'{platform.python_version()}:{stdlib}'.encode()).hexdigest()[:16]
    folder = cache / 'tfds' / version
    for left in (folder / STDLIB).glob('incomplete.*'):  # of a process killed while it held the lock that we hold
        shutil.rmtree(left)
    return PythonStdlib(root=str(stdlib), data_dir=str(folder), file_format=FORMAT)


def _registered_builder(where: str, name: str) -> Any:
    import tensorflow_datasets as tfds

    folder = os.environ.get('TFDS_DATA_DIR')  # TFDS itself reads it once, on import
    try:
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return tfds.builder(name, data_dir=folder, file_format=FORMAT)
        # Without TensorFlow, many sets (c4, cnn_dailymail) register themselves only when their module is imported.
        for module in _modules(tfds, name.split('/')[0]):
            importlib.import_module(module)
        return tfds.builder(name, data_dir=folder, file_format=FORMAT)
    except tfds.core.DatasetNotFoundError:
        raise UserError(f'{where}: TensorFlow Datasets knows no set of this name') from None
    except Exception as error:
        raise UserError(f'{where} cannot be opened ({_line(error)})') from error


def _modules(tfds: Any, name: str) -> list[str]:
    """The modules of TFDS that define a class of which TFDS makes the set's name, 'cnn_dailymail' of 'CnnDailymail'."""
    root = Path(tfds.__file__).parent
    found = []
    for path in sorted(root.glob('*/**/*.py')):
        classes = re.findall(r'^class (\w+)\(', path.read_text('utf-8'), re.MULTILINE)
        named = any(tfds.core.naming.camelcase_to_snakecase(word) == name for word in classes)
        if named and not path.name.endswith('_test.py'):
            found.append('.'.join([root.name, *path.relative_to(root).with_suffix('').parts]))
    return found


def _reading(where: str, builder: Any, split: str, column: str) -> Reading:
    def read() -> Iterator[Piece]:
        for at, record in records(where, builder, split):
            yield Piece(checked_text(at, column, record[column]), True)

    return read


def records(where: str, builder: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a split in order, as TFDS gives them (bytes, NumPy), each with its place, 'WHERE SPLIT[NUMBER]'.

    Raises (while iterating):
      UserError: the files are damaged.
    """
    try:
        source = builder.as_data_source(split)
        for first in range(0, len(source), RECORDS):
            several = source.__getitems__(range(first, min(first + RECORDS, len(source))))
            for number, record in enumerate(several, first):
                yield f'{where} {split}[{number}]', record
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'{where} cannot be read ({_line(error)}); delete {builder.data_path} to prepare it anew'
        ) from error


def plain(value: Any) -> Any:
    """What TFDS gives as JSON's types: bytes as text, arrays and ragged tensors as lists, a float32 as its digits say.

    Raises:
      UnicodeDecodeError: bytes that are not UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode('utf-8')
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray):
        return plain(value.item())
    if isinstance(value, float | np.floating):
        return _digits(float(value))
    return value.item() if isinstance(value, np.generic) else value


def _digits(value: float) -> float:
    """3.8 for the float32 nearest to it, which as a float is 3.799999952316284."""
    short = np.float32(value) if abs(value) < LARGEST else value
    return float(str(short)) if short == value else value


def label_words(features: Any, at: str = '') -> dict[str, tuple[str, ...]]:
    """The words of every ClassLabel among a set's features, by its path, 'label' or 'choices[label]'."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.ClassLabel):
        return {at: tuple(features.names)}
    inner = getattr(features, 'feature', features)  # a Sequence's members are reached through the same path
    found: dict[str, tuple[str, ...]] = {}
    if inner is not features:
        return label_words(inner, at)
    if isinstance(features, tfds.features.FeaturesDict):
        for key, one in features.items():
            found |= label_words(one, f'{at}[{key}]' if at else key)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS from warning about every folder that it is about to fill, and from drawing bars in a log file."""
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


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
