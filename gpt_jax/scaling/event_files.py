"""TensorBoard folders as tables of runs: a row per run, with the last value of each scalar.

A run is a folder with event files. Its hyperparameters are those of the HParams plugin, which
PyTorch writes to a folder of its own inside the run's, and the parts of its name that read
KEY=VALUE (runs/width=512,layers=8). An event file is a sequence of TFRecords: the length (8 bytes),
its checksum (4), an Event (a protocol buffer) and its checksum (4).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.table_formats import Row

FILE_PATTERN = '*tfevents*'
HPARAMS_PLUGIN = 'hparams'
NAME_PART = re.compile(r'([A-Za-z][A-Za-z0-9_.-]*)=([^,;/\s]+)')
TIME_NAME = re.compile(r'\d+(\.\d+)?')  # of the folder that add_hparams makes
LENGTH_BYTES, CHECKSUM_BYTES = 8, 4


def read_event_folder(path: str) -> list[Row]:
    """Read the runs below a folder.

    Returns:
      For each run: 'name' (the folder below `path`), the last 'step', the last value of each scalar
      by its tag, and its hyperparameters.

    Raises:
      UserError: no event files, or a damaged one.
    """
    root = Path(path)
    rows: dict[Path, Row] = {}
    for file in sorted(root.rglob(FILE_PATTERN), key=lambda file: (len(file.parts), file)):
        folder = file.parent
        if folder.parent in rows and TIME_NAME.fullmatch(folder.name):
            folder = folder.parent
        if folder not in rows:
            name = str(folder.relative_to(root)) if folder != root else root.resolve().name
            rows[folder] = {'name': name} | dict(NAME_PART.findall(name))
        _add_events(rows[folder], file)
    if not rows:
        raise UserError(
            f'{path}: a folder without TensorBoard event files; give a file, such as '
            f'{root / "records.jsonl"}'
        )
    return list(rows.values())


def _add_events(row: Row, file: Path) -> None:
    """Add the scalars and the hyperparameters of an event file to its run's row."""
    for record in _read_records(file):
        try:
            event = Event.FromString(record)
            for value in event.summary.value:
                plugin = value.metadata.plugin_data
                if plugin.plugin_name == HPARAMS_PLUGIN:
                    started = HParamsPluginData.FromString(plugin.content).session_start_info
                    row |= {key: _get_value(cell) for key, cell in started.hparams.items()}
                elif value.HasField('simple_value'):
                    row[value.tag] = value.simple_value
                elif len(value.tensor.float_val) == 1:
                    row[value.tag] = value.tensor.float_val[0]
        except DecodeError:
            raise UserError(f'{file}: not an event file, or damaged; delete it') from None
        if event.summary.value:
            row['step'] = max(event.step, row.get('step', 0))


def _get_value(cell: object) -> object:
    kind = cell.WhichOneof('kind')  # type: ignore[attr-defined]
    return getattr(cell, kind) if kind else None


def _read_records(file: Path) -> Iterator[bytes]:
    """Yield the records; one that was not written to its end, by a run that stopped, is skipped."""
    content = file.read_bytes()
    start = 0
    while start + LENGTH_BYTES + CHECKSUM_BYTES <= len(content):
        (length,) = struct.unpack_from('<Q', content, start)
        start += LENGTH_BYTES + CHECKSUM_BYTES
        if start + length > len(content):
            return
        yield content[start : start + length]
        start += length + CHECKSUM_BYTES
