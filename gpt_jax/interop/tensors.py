"""Which tensors does a folder of weights hold, in one file or in many? Safetensors alone; never a pickle."""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.interop import tensor_file
from gpt_jax.interop.tensor_file import Entry, Written

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
LONGEST = 256_000_000  # bytes of what is no weights; tokenizers are the largest, some tens of millions
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.h5', '*.msgpack')
SHARD_BYTES = 5_000_000_000  # of one file that is written
WEIGHT_DTYPES = ('F32', 'F16', 'BF16')


class Tensors(NamedTuple):
    """The tensors of a folder, known by their headers.

    where: by name, the file and the entry in it.
    """

    where: dict[str, tuple[Path, Entry]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.where[name][1].shape

    def raw(self, name: str) -> np.ndarray:
        """The tensor as it is stored, mapped into memory."""
        return tensor_file.mapped(*self.where[name])

    def weight(self, name: str) -> np.ndarray:
        """The tensor as float32.

        Raises:
          UserError: some of it is NaN or infinite.
        """
        value = self.raw(name).astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f'{self.where[name][0]}: {name!r} holds NaN or infinity; these weights are broken')
        return value


def inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder.

    A link may lead to another file of the folder, or, in the hub's cache, into the `blobs` beside `snapshots`.

    Raises:
      UserError: no plain file name, no such file, or a link that leads elsewhere.
    """
    if not re.fullmatch(r'[A-Za-z0-9_-][A-Za-z0-9._-]*', name):
        raise UserError(f'{folder}: {name!r} is not the name of a file of this folder')
    path = folder / name
    real, roots = path.resolve(), [folder.resolve()]
    if folder.resolve().parent.name == 'snapshots':
        roots.append(folder.resolve().parents[1] / 'blobs')
    if not any(real.parent == root for root in roots):
        raise UserError(f'{path}: is a link that leads out of the folder, to {real}')
    if not real.is_file():
        raise UserError(f'{path}: no such file')
    return path


def content(folder: Path, name: str) -> bytes:
    """A file of the folder, whole.

    Raises:
      UserError: there is none, or it is too large for one that is no weights.
    """
    path = inside(folder, name)
    if path.stat().st_size > LONGEST:
        raise UserError(f'{path}: {path.stat().st_size} bytes are too many for such a file')
    return path.read_bytes()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder.

    Raises:
      UserError: there is none, or it is too large or not JSON.
    """
    value = tensor_file.parse_json(content(folder, name), folder / name)
    if not isinstance(value, dict):
        raise UserError(f'{folder / name}: wants a JSON object')
    return value


def find(folder: Path) -> Tensors:
    """All tensors of the folder.

    Raises:
      UserError: it holds no safetensors, or its index and its files disagree; names the file or the tensor.
    """
    single, index = (folder / SINGLE).exists(), (folder / INDEX).exists()
    if single and index:
        raise UserError(f'{folder}: holds both {SINGLE} and {INDEX}; remove the one that is not meant')
    if single:
        path = inside(folder, SINGLE)
        return Tensors({name: (path, entry) for name, entry in tensor_file.header(path).items()})
    if index:
        return _sharded(folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(f'{folder}: {pickles[0]} can run code when it is read, so it is not; save it as safetensors')
    raise UserError(f'{folder}: holds neither {SINGLE} nor {INDEX}')


def _sharded(folder: Path) -> Tensors:
    listed = read_json(folder, INDEX).get('weight_map')
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(f'{folder / INDEX}: wants a weight_map from tensors to files')
    where: dict[str, tuple[Path, Entry]] = {}
    paths = {file: inside(folder, file) for file in sorted(set(listed.values()))}
    for file, path in paths.items():
        for name, entry in tensor_file.header(path).items():
            if listed.get(name) != file:
                raise UserError(f'{path}: {name!r} is in it, and {INDEX} has it in {listed.get(name)!r}')
            where[name] = path, entry
    for name, file in listed.items():
        if name not in where:
            raise UserError(f'{folder / file}: {name!r} is not in it, and {INDEX} says so')
    return Tensors(where)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write what will be `folder` when the block is done: whole, or not at all.

    Raises:
      UserError: there is something in it already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'--output={folder}: is not empty; name another folder')
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


def write(folder: Path, tensors: Iterable[Written], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes one file, or as many of at most `shard_bytes` (or one tensor) as it takes, and their index."""
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        tensor_file.write(folder / SINGLE, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f'model-{number:05}-of-{len(shards):05}.safetensors'
        tensor_file.write(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.size for shard in shards for tensor in shard)
    files.write_json(folder / INDEX, {'metadata': {'total_size': total}, 'weight_map': weight_map})


def _shards(tensors: Iterable[Written], shard_bytes: int) -> Iterator[list[Written]]:
    shard: list[Written] = []
    for tensor in tensors:
        if shard and sum(one.size for one in shard) + tensor.size > shard_bytes:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard
