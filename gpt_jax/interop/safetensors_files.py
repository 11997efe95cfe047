"""Reading and writing of safetensors files and folders of them.

A file has 8 bytes (the length of the header, little endian), the header (JSON: name -> dtype, shape
and byte range), and the bytes of all tensors, one after the other. The header is checked
completely, including against the size of the file, before any tensor is mapped into memory.

The safetensors package is not used: as of version 0.8, its `safe_open` with NumPy copies tensors
instead of mapping them, does not read bfloat16, accepts headers that name a tensor twice or have
unknown fields, and does not name the tensor in most of its errors.
"""

import contextlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gpt_jax.core import files
from gpt_jax.core.errors import UserError
from gpt_jax.interop import torch_files

# Dtypes of weights, and of unused buffers in old checkpoints.
DTYPES: dict[str, Any] = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': ml_dtypes.bfloat16,
    'I64': np.int64,
    'I32': np.int32,
    'I16': np.int16,
    'I8': np.int8,
    'U8': np.uint8,
    'BOOL': np.bool_,
}
READABLE_DTYPES = ('F32', 'F16', 'BF16')  # of weights
MAX_HEADER_BYTES = 100_000_000  # the limit of the format
MAX_RANK = 32  # below NumPy's own limit
METADATA = '__metadata__'
WEIGHTS_FILE, INDEX_FILE = 'model.safetensors', 'model.safetensors.index.json'
TORCH_FILE, TORCH_INDEX_FILE = 'pytorch_model.bin', 'pytorch_model.bin.index.json'
MAX_FILE_BYTES = 256_000_000  # of files other than weights; the largest are tokenizers (tens of MB)
PICKLE_PATTERNS = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.h5', '*.msgpack')
SHARD_BYTES = 5_000_000_000  # maximum size of one file of an export


class TensorEntry(NamedTuple):
    """The header's entry of a tensor: it is stored in bytes `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class LazyTensor(NamedTuple):
    """A tensor to be written.

    Attributes:
      dtype: a key of DTYPES.
      make: returns the values; called when they are written, so that not all are in memory at once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read the entries of a file's tensors, by name.

    Raises:
      UserError: the file is truncated or too long, or its header is invalid; names the tensor.
    """
    try:
        size = path.stat().st_size
        with open(path, 'rb') as file:
            start = file.read(8)
            length = struct.unpack('<Q', start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise UserError(
                    f'{path}: not a safetensors file, or truncated: its {size} bytes hold no header'
                )
            content = file.read(length)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    header = parse_strict_json(content, path)
    if not isinstance(header, dict):
        raise UserError(f'{path}: its header is not a JSON object')
    entries = {
        name: _check_entry(entry, f'{path}: {name!r}', 8 + length)
        for name, entry in header.items()
        if name != METADATA
    }
    _check_coverage(entries, 8 + length, size, path)
    return entries


def parse_strict_json(content: bytes, path: Path) -> Any:
    """Parse JSON without the extensions of the standard library: no duplicate key, no NaN.

    Raises:
      UserError: the content is not JSON in this sense.
    """

    def make_object(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            keys = [key for key, _ in items]
            raise ValueError(f'{next(key for key in keys if keys.count(key) > 1)!r} occurs twice')
        return value

    def reject_constant(word: str) -> Any:
        raise ValueError(f'{word} is not a number')

    try:
        return json.loads(
            content.decode('utf-8'), object_pairs_hook=make_object, parse_constant=reject_constant
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error})') from None


def _check_entry(entry: Any, location: str, base: int) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != {'dtype', 'shape', 'data_offsets'}:
        raise UserError(f'{location}: must have dtype, shape and data_offsets, and nothing else')
    dtype, shape, offsets = entry['dtype'], entry['shape'], entry['data_offsets']
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(
            f'{location}: dtype {dtype!r} is not supported (quantized?); '
            'convert it to float32 or bfloat16'
        )
    if not _are_naturals(shape) or len(shape) > MAX_RANK:
        raise UserError(f'{location}: {shape!r} is not a shape')
    if not _are_naturals(offsets) or len(offsets) != 2:
        raise UserError(f'{location}: {offsets!r} are not offsets')
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != size:
        raise UserError(
            f'{location}: {dtype} of shape {shape} must have {size} bytes, '
            f'got {offsets[1] - offsets[0]}'
        )
    return TensorEntry(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _are_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    )


def _check_coverage(entries: dict[str, TensorEntry], begin: int, end: int, path: Path) -> None:
    """Check that the tensors fill the file from `begin` to `end`, without gaps or overlaps."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != begin:
            raise UserError(
                f'{path}: {name!r} begins at byte {entry.begin}, but the one before ends at {begin}'
            )
        begin = entry.end
    if begin != end:
        raise UserError(
            f'{path}: has {end} bytes, but its tensors end at {begin}; copy or download it again'
        )


def map_tensor(path: Path, entry: TensorEntry) -> np.ndarray:
    """Return a tensor that is mapped into memory and not yet read."""
    dtype = np.dtype(DTYPES[entry.dtype])
    if entry.begin == entry.end:
        return np.zeros(entry.shape, dtype)
    file = _find_safetensors(path)
    raw = np.memmap(file, np.uint8, 'r', entry.begin, (entry.end - entry.begin,))
    return raw.view(dtype).reshape(entry.shape)


def write_tensors(path: Path, tensors: Iterable[LazyTensor]) -> None:
    """Write tensors to a file, in the form that PyTorch's tools expect.

    Raises:
      ValueError: `make` returns another shape or dtype than declared.
    """
    tensors = list(tensors)
    header: dict[str, Any] = {METADATA: {'format': 'pt'}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            'dtype': tensor.dtype,
            'shape': list(tensor.shape),
            'data_offsets': [offset, offset + tensor.size],
        }
        offset += tensor.size
    content = json.dumps(header, separators=(',', ':')).encode()
    content += b' ' * (-len(content) % 8)  # aligns the tensors
    with files.name_errors(path), open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(content)) + content)
        for tensor in tensors:
            value = tensor.make()
            if value.shape != tensor.shape or value.dtype != DTYPES[tensor.dtype]:
                raise ValueError(
                    f'{tensor.name}: must be {tensor.dtype} {tensor.shape}, '
                    f'got {value.dtype} {value.shape}'
                )
            file.write(np.ascontiguousarray(value).tobytes())
        file.flush()
        os.fsync(file.fileno())


class TensorIndex(NamedTuple):
    """The tensors of a folder.

    Attributes:
      entries: the file and the entry in the header of its safetensors file, by name.
    """

    entries: dict[str, tuple[Path, TensorEntry]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.entries[name][1].shape

    def map(self, name: str) -> np.ndarray:
        """Return a tensor as stored, mapped into memory."""
        return map_tensor(*self.entries[name])

    def read_weight(self, name: str) -> np.ndarray:
        """Return a tensor as float32.

        Raises:
          UserError: it has NaN or infinite values.
        """
        value = self.map(name).astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(
                f'{self.entries[name][0]}: {name!r} has NaN or infinite values; '
                'these weights are damaged'
            )
        return value


def resolve_file(folder: Path, name: str) -> Path:
    """Return the path of a file in the folder.

    A link may lead to another file in the folder, or, in the hub's cache, to the folder `blobs`
    next to `snapshots`.

    Raises:
      UserError: `name` is not a plain file name, or there is no such file, or it links elsewhere.
    """
    if not re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9._-]*', name):
        raise UserError(f'{folder}: {name!r} is not the name of a file in this folder')
    path = folder / name
    target, roots = path.resolve(), [folder.resolve()]
    for parent in folder.resolve().parents:
        if parent.name == 'snapshots':
            roots.append(parent.parent / 'blobs')
    if not any(target.parent == root for root in roots):
        raise UserError(f'{path}: is a link out of the folder, to {target}')
    if not target.is_file():
        raise UserError(f'{path}: no such file')
    return path


def read_file(folder: Path, name: str) -> bytes:
    """Read a file in the folder other than weights.

    Raises:
      UserError: the file does not exist or is too large.
    """
    path = resolve_file(folder, name)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(f'{path}: must have at most {MAX_FILE_BYTES} bytes, got {size}')
    return path.read_bytes()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object from a file in the folder.

    Raises:
      UserError: the file does not exist, is too large, or is not a JSON object.
    """
    value = parse_strict_json(read_file(folder, name), folder / name)
    if not isinstance(value, dict):
        raise UserError(f'{folder / name}: must be a JSON object')
    return value


def index_folder(folder: Path) -> TensorIndex:
    """Find all tensors of a folder.

    Raises:
      UserError: it has no safetensors files, or its index and its files disagree; names the file or
        the tensor.
    """
    has_file, has_index = (folder / WEIGHTS_FILE).exists(), (folder / INDEX_FILE).exists()
    if has_index:
        files = set(_read_weight_map(folder, INDEX_FILE).values())
        if has_file and files != {WEIGHTS_FILE}:
            raise UserError(
                f'{folder}: holds {WEIGHTS_FILE}, but {INDEX_FILE} names other files; remove the '
                'wrong one'
            )
        return _index_shards(folder, INDEX_FILE)
    if has_file:
        return index_file(resolve_file(folder, WEIGHTS_FILE))
    if (folder / TORCH_INDEX_FILE).exists():
        return _index_shards(folder, TORCH_INDEX_FILE)
    if (folder / TORCH_FILE).exists():
        return index_file(resolve_file(folder, TORCH_FILE))
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f'{folder}: {pickles[0]} is not read; save the model with transformers '
            f'(save_pretrained), which writes {WEIGHTS_FILE}'
        )
    raise UserError(f'{folder}: holds neither {WEIGHTS_FILE} nor {INDEX_FILE}')


def index_file(path: Path) -> TensorIndex:
    """Find all tensors of a safetensors file, or of a PyTorch checkpoint (`.bin`).

    Raises:
      UserError: the file is damaged, or, for a checkpoint, PyTorch is missing or refuses it.
    """
    header = read_header(_find_safetensors(path))
    return TensorIndex({name: (path, entry) for name, entry in header.items()})


def _find_safetensors(path: Path) -> Path:
    """Return the file that is mapped; messages name `path`, the user's."""
    return torch_files.convert_checkpoint(path) if path.name.endswith('.bin') else path


def _read_weight_map(folder: Path, index: str) -> dict[str, str]:
    weight_map = read_json(folder, index).get('weight_map')
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise UserError(f'{folder / index}: must have a weight_map of files by tensor name')
    return weight_map


def _index_shards(folder: Path, index: str) -> TensorIndex:
    weight_map = _read_weight_map(folder, index)
    entries: dict[str, tuple[Path, TensorEntry]] = {}
    paths = {file: resolve_file(folder, file) for file in sorted(set(weight_map.values()))}
    for file, path in paths.items():
        for name, entry in index_file(path).entries.items():
            if weight_map.get(name) != file:
                raise UserError(
                    f'{path}: has {name!r}, but {index} has it in {weight_map.get(name)!r}'
                )
            entries[name] = entry
    for name, file in weight_map.items():
        if name not in entries:
            raise UserError(f'{folder / file}: {name!r} is missing, but {index} lists it')
    return TensorIndex(entries)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends without an error.

    Raises:
      UserError: `folder` is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'OUTPUT={folder}: must be empty; give another folder')
    unfinished = folder.parent / f'.{folder.name}.unfinished'
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_shards(
    folder: Path, tensors: Iterable[LazyTensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write one file, or files of at most `shard_bytes` (or one tensor) each, and their index."""
    shards = list(_split_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_tensors(folder / WEIGHTS_FILE, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f'model-{number:05}-of-{len(shards):05}.safetensors'
        write_tensors(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.size for shard in shards for tensor in shard)
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    files.write_json(folder / INDEX_FILE, index)


def _split_shards(tensors: Iterable[LazyTensor], shard_bytes: int) -> Iterator[list[LazyTensor]]:
    shard: list[LazyTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.size > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.size
    yield shard
