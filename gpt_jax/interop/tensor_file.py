"""What does one .safetensors file hold, and how is one written? Nothing of it can run, and nothing is believed.

A file is 8 bytes (the header's length, little endian), the header (JSON: name -> dtype, shape and where its bytes lie),
and the bytes of all tensors, one after the other. The header is checked whole, against the file's size too, before a
single tensor is mapped.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gpt_jax.errors import UserError

# Those that weights may have, and those of buffers that old checkpoints hold beside them.
DTYPES: dict[str, Any] = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16,
    'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes, as the format itself says
LONGEST_SHAPE = 32  # NumPy's own limit is above it
METADATA = '__metadata__'


class Entry(NamedTuple):
    """Where a tensor lies: bytes `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Written(NamedTuple):
    """A tensor to be written; `make` is called when its turn comes, so that all need not be there at once."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def header(path: Path) -> dict[str, Entry]:
    """The file's tensors by name; no tensor is read.

    Raises:
      UserError: the file is cut off or too long, or its header is not what the format wants; names the tensor.
    """
    try:
        size = path.stat().st_size
        with open(path, 'rb') as file:
            start = file.read(8)
            length = struct.unpack('<Q', start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise UserError(f'{path}: no safetensors file, or cut off: its {size} bytes hold no header')
            content = file.read(length)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    parsed = parse_json(content, path)
    if not isinstance(parsed, dict):
        raise UserError(f'{path}: its header is not a JSON object')
    entries = {
        name: _entry(one, f'{path}: {name!r}', 8 + length) for name, one in parsed.items() if name != METADATA
    }  # fmt: skip
    _check_cover(entries, 8 + length, size, path)
    return entries


def parse_json(content: bytes, path: Path) -> Any:
    """JSON to the letter: no key twice, no NaN; whoever wrote otherwise had something in mind.

    Raises:
      UserError: it is not that.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            twice = next(key for key, _ in items if sum(key == other for other, _ in items) > 1)
            raise ValueError(f'{twice!r} stands there twice')
        return made

    def constant(word: str) -> Any:
        raise ValueError(f'{word} is no number')

    try:
        return json.loads(content.decode('utf-8'), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from None


def _entry(given: Any, where: str, base: int) -> Entry:
    if not isinstance(given, dict) or given.keys() != {'dtype', 'shape', 'data_offsets'}:
        raise UserError(f'{where}: wants dtype, shape and data_offsets, and nothing else')
    dtype, shape, offsets = given['dtype'], given['shape'], given['data_offsets']
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f'{where}: dtype {dtype!r} is not read here (quantized?); convert it to float32 or bfloat16')
    if not _naturals(shape) or len(shape) > LONGEST_SHAPE:
        raise UserError(f'{where}: {shape!r} is no shape')
    if not _naturals(offsets) or len(offsets) != 2:
        raise UserError(f'{where}: {offsets!r} are no offsets')
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != size:
        raise UserError(f'{where}: {dtype} of shape {shape} takes {size} bytes, not {offsets[1] - offsets[0]}')
    return Entry(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in given)


def _check_cover(entries: dict[str, Entry], begin: int, end: int, path: Path) -> None:
    """The tensors must fill the file from `begin` to `end`, without holes and without sharing a byte."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != begin:
            raise UserError(f'{path}: {name!r} begins at byte {entry.begin}, and the one before it ends at {begin}')
        begin = entry.end
    if begin != end:
        raise UserError(f'{path}: has {end} bytes, and its tensors end at {begin}; copy or download it again')


def mapped(path: Path, entry: Entry) -> np.ndarray:
    """The tensor's bytes as an array, mapped into memory and not yet read."""
    dtype = np.dtype(DTYPES[entry.dtype])
    if entry.begin == entry.end:
        return np.zeros(entry.shape, dtype)
    raw = np.memmap(path, np.uint8, 'r', entry.begin, (entry.end - entry.begin,))
    return raw.view(dtype).reshape(entry.shape)


def write(path: Path, tensors: Iterable[Written]) -> None:
    """Writes the tensors one after the other, as PyTorch's tools expect it.

    Raises:
      ValueError: `make` gives another shape or dtype than was announced.
    """
    tensors = list(tensors)
    entries: dict[str, Any] = {METADATA: {'format': 'pt'}}
    offset = 0
    for tensor in tensors:
        span = [offset, offset + tensor.size]
        entries[tensor.name] = {'dtype': tensor.dtype, 'shape': list(tensor.shape), 'data_offsets': span}
        offset = span[1]
    content = json.dumps(entries, separators=(',', ':')).encode()
    content += b' ' * (-len(content) % 8)  # so that the tensors are aligned
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(content)) + content)
        for tensor in tensors:
            value = tensor.make()
            if value.shape != tensor.shape or value.dtype != DTYPES[tensor.dtype]:
                raise ValueError(f'{tensor.name}: {value.dtype} {value.shape}, not {tensor.dtype} {tensor.shape}')
            file.write(np.ascontiguousarray(value).tobytes())
        file.flush()
        os.fsync(file.fileno())
