"""What is a record of a trial, and how is it read and appended? One JSON object per line, one line per trial."""

import fcntl
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError

# What the rooms of this house write and read; a record may carry more.
COLUMNS = {
    'name': "the trial's name, unique in its file",
    'status': "'done', or why there is no result; only done trials are fitted",
    'params_non_embedding': 'parameters without token embedding, position table and an untied head',
    'tokens': 'tokens trained on, repeats counted',
    'flops_with_attention': 'training FLOPs: 6 per parameter and token, and all of the score matrix',
    'validation_loss': 'nats per token',
    'bits_per_byte': 'validation loss in bits, over the bytes of the text that the tokens stand for',
    'seconds': 'wall-clock seconds of training',
}


def append(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Adds `record` as the last line, in one write and through to the disk; a torn line before it is cut off first.

    Raises:
      ValueError: the record holds NaN or an infinity, which JSON has no word for: a loss that is not there is None.
      OSError: the disk is full; the file is as it was.
    """
    line = json.dumps(record, allow_nan=False).encode() + b'\n'
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'ab+', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        tail = content[content.rfind(b'\n') + 1 :]
        if tail and _parsed(tail) is None:
            _report_torn(path, tail)
            file.truncate(len(content) - len(tail))
        elif tail:
            line = b'\n' + line
        end = file.seek(0, os.SEEK_END)
        if file.write(line) != len(line):
            file.truncate(end)
            raise OSError(f'{path}: the record could not be written whole; is the disk full?')
        os.fsync(file.fileno())


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records, in the order they were written. A torn last line, left by a crash, is dropped with a message.

    Raises:
      UserError: no such file, or a line elsewhere that is not a JSON object; named as `file:line`.
    """
    try:
        lines = Path(path).read_bytes().split(b'\n')
    except FileNotFoundError:
        raise UserError(f'{path}: no such file; run the sweep that writes it first') from None
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif number == len(lines):
            _report_torn(path, line)
        else:
            raise UserError(f'{path}:{number}: not a JSON object; mend or delete this line')
    return records


def column(records: list[dict[str, Any]], name: str) -> list[Any]:
    """The value of `name` in every record.

    Raises:
      UserError: a record lacks it; says which record, and which columns there are.
    """
    for index, record in enumerate(records):
        if name not in record:
            there = ', '.join(sorted({key for each in records for key in each})) or 'none'
            raise UserError(f'record {record.get("name", index)}: no column {name!r}; the columns are: {there}')
    return [record[name] for record in records]


def fittable(records: list[dict[str, Any]], names: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Splits off the records that no law can be fitted to: not done, or with a value that has no logarithm.

    Returns:
      The records to fit, and for each of the others {'name', 'reason'}.

    Raises:
      UserError: a finished record lacks one of the columns `names`.
    """
    kept, left_out = [], []
    for index, record in enumerate(records):
        name, status = str(record.get('name', index)), column([record], 'status')[0]
        reason = f'status is {status!r}' if status != 'done' else ''
        for key in [] if reason else names:
            value = column([record], key)[0]
            if not _has_logarithm(value):
                reason = f'{key} is {value!r}, not a finite number above zero'
        if reason:
            left_out.append({'name': name, 'reason': reason})
        else:
            kept.append(record)
    return kept, left_out


def _has_logarithm(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:  # covers UnicodeDecodeError too
        return None
    return value if isinstance(value, dict) else None


def _report_torn(path: str | os.PathLike[str], line: bytes) -> None:
    logging.getLogger(__name__).warning('%s: dropped a torn last line of %d bytes', path, len(line))
