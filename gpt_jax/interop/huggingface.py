"""How does a Hugging Face folder become a model section and weights, and these such a folder again?"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gpt_jax import files, schema
from gpt_jax.errors import UserError
from gpt_jax.interop import hub, tensors, tokenizer_files
from gpt_jax.interop.dialect import misfits
from gpt_jax.interop.fields import Fields
from gpt_jax.interop.layouts import HEAD, LAYOUTS, Layout, Piece, pieces, shape, to_ours, to_theirs
from gpt_jax.interop.tensor_file import Written
from gpt_jax.interop.tensors import WEIGHT_DTYPES, Tensors
from gpt_jax.model.config import ModelConfig

CONFIG = 'config.json'
MAIN = ('block', 'norm:', 'position', 'feedforward')  # what layouts differ in most
# What weights may be written as: the format's word and PyTorch's.
DTYPES: dict[str, tuple[str, Any]] = {
    'float32': ('F32', np.float32),
    'bfloat16': ('BF16', ml_dtypes.bfloat16),
    'float16': ('F16', np.float16),
}


class Source(NamedTuple):
    """A folder whose config.json was understood; its tensors are known by their headers and not read yet.

    kind: its `model_type`.
    model: the model section of a config, but for how the model is computed and trained.
    tokens: the ids that its config.json gives to the special tokens ('eos_token_id': 50256), and what else stands
      there that newer folders have in generation_config.json.
    """

    folder: Path
    kind: str
    model: dict[str, Any]
    tokens: dict[str, Any]
    tensors: Tensors


def read(source: str, asked: str = '--source') -> Source:
    """Reads the config.json and the headers of the tensors of a folder, or of a name on the hub.

    Args:
      asked: what the user gave `source` to, for messages.

    Raises:
      UserError: there is no such folder, or a field of its config.json says what the model does not compute.
    """
    folder = hub.folder(source, asked)
    if not (folder / CONFIG).exists():
        raise UserError(f'{folder}: holds no {CONFIG}')
    values = tensors.read_json(folder, CONFIG)
    fields = Fields(folder / CONFIG, values)
    kind = fields.raw('model_type')
    if not isinstance(kind, str) or kind not in LAYOUTS:
        raise fields.refuse('model_type', f'{kind!r} is not supported; supported are {", ".join(LAYOUTS)}')
    layout = LAYOUTS[kind]
    fields.only('architectures', None, [layout.architecture], [layout.bare])
    model = layout.dialect.section(fields)
    found = _prefixed(tensors.find(folder), layout)
    if model['layers'] > len(found.where):
        raise UserError(f'{folder}: {CONFIG} says {model["layers"]} layers, and there are {len(found.where)} tensors')
    said = {key: values[key] for key in tokenizer_files.SAID if values.get(key) is not None}
    return Source(folder, kind, model, said, found)


def _prefixed(found: Tensors, layout: Layout) -> Tensors:
    """The tensors under their full names, without the buffers that nobody reads."""
    bare = not any(name.startswith(layout.prefix) for name in found.where)
    named = {f'{layout.prefix}{name}' if bare and name != HEAD else name: at for name, at in found.where.items()}
    buffer = re.compile(f'{re.escape(layout.prefix)}({layout.buffers})')
    return Tensors({name: at for name, at in named.items() if not buffer.fullmatch(name)})


def params(source: Source, letters: Mapping[str, str], dims: Mapping[str, int]) -> Callable[[str], np.ndarray]:
    """Checks that the folder's tensors are the model's, and returns path -> the weight, float32, read when asked for.

    Args:
      letters: of all the model's weights, by path ('blocks/attention/query': 'NDHK').
      dims: sizes by letter; the vocabulary is not padded.

    Raises:
      UserError: a tensor is missing, surplus, of another shape or dtype; later, it holds NaN or infinity. Or the
        head is said to be the embedding, and is not.
    """
    layout, found = LAYOUTS[source.kind], source.tensors
    wanted = {piece.name: piece for piece in pieces(layout, letters, dims)}
    for name, piece in wanted.items():
        if name not in found.where:
            close = schema.nearest(name, found.where)
            raise UserError(f'{source.folder}: {name!r} is missing{close}')
        path, entry = found.where[name]
        if entry.shape != shape(piece, dims):
            said = f'{list(entry.shape)}, and {CONFIG} says {list(shape(piece, dims))}'
            raise UserError(f'{path}: {name!r} has the shape {said}')
        if entry.dtype not in WEIGHT_DTYPES:
            raise UserError(f'{path}: {name!r} is {entry.dtype}; weights are read as {", ".join(WEIGHT_DTYPES)}')
    _check_surplus(source, wanted)
    by_path: dict[str, list[Piece]] = {}
    for piece in wanted.values():
        for ours in piece.paths:
            by_path.setdefault(ours, []).append(piece)
    return lambda path: _weight(path, by_path[path], found, letters[path], dims)


def _check_surplus(source: Source, wanted: Mapping[str, Piece]) -> None:
    found = source.tensors
    for name in found.where:
        if name == HEAD and HEAD not in wanted:  # the head is the embedding; it may be stored a second time
            table = next(name for name, piece in wanted.items() if piece.paths == ('embedding/table_VD',))
            head, body = found.where[HEAD][1], found.where[table][1]
            same = (head.dtype, head.shape) == (body.dtype, body.shape)  # before any is mapped: a shape may be any
            if not same or not np.array_equal(found.raw(HEAD), found.raw(table)):
                raise UserError(
                    f'{source.folder}: {CONFIG} ties the head to the embedding, and {HEAD!r} differs from {table!r}'
                )
        elif name not in wanted:
            path, entry = found.where[name]
            raise UserError(f'{path}: {name!r} {list(entry.shape)} is no weight of such a {source.kind} model')


def _weight(
    path: str, parts: list[Piece], found: Tensors, letters: str, dims: Mapping[str, int]
) -> np.ndarray:  # fmt: skip
    whole = np.empty([dims[letter] for letter in letters], np.float32)
    for piece in parts:
        whole[piece.element] = to_ours(found.weight(piece.name), piece, path, letters[len(piece.element) :], dims)
    return whole


def layout_of(model: ModelConfig) -> str:
    """The `model_type` under which this model can be written.

    Raises:
      UserError: there is none; names what stands in the way of the nearest.
    """
    faults = {kind: misfits(layout.dialect, model) for kind, layout in LAYOUTS.items()}
    kind = min(faults, key=lambda one: (sum(fault.startswith(MAIN) for fault in faults[one]), len(faults[one])))
    if not faults[kind]:
        return kind
    said = '; config.model.'.join(faults[kind])
    raise UserError(f'config.model.{said}: no layout of Hugging Face has that; the nearest is {kind}')


def config(model: ModelConfig, kind: str, dtype: str, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model that `layout_of` gave `kind`."""
    about = {'model_type': kind, 'architectures': [LAYOUTS[kind].architecture], 'torch_dtype': dtype, 'dtype': dtype}
    ids = {key: tokens.get(key) for key in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    return about | ids | {'use_cache': True} | LAYOUTS[kind].dialect.write(model)


def write(
    folder: Path, model: ModelConfig, weight: Callable[[str], np.ndarray], letters: Mapping[str, str], *,
    tokens: Mapping[str, Any], dtype: str, extra: Mapping[str, bytes], shard_bytes: int = tensors.SHARD_BYTES,
) -> None:  # fmt: skip
    """Writes the folder, whole or not at all.

    Args:
      folder: must not exist, or be empty.
      weight: path -> the weight as float32; asked for one at a time.
      letters: of all the weights, by path.
      tokens: bos_token_id, eos_token_id and pad_token_id, those that there are.
      dtype: float32, bfloat16 or float16.
      extra: contents of further files by name: the tokenizer's.

    Raises:
      UserError: no layout has this model, the folder holds something, or a weight is too large for the dtype.
    """
    kind = layout_of(model)
    with tensors.new_folder(folder) as unfinished:
        tensors.write(unfinished, written(model, kind, weight, letters, dtype), shard_bytes)
        files.write_json(unfinished / CONFIG, config(model, kind, dtype, tokens))
        for name, content in extra.items():
            files.write_bytes(unfinished / name, content)


def written(
    model: ModelConfig, kind: str, weight: Callable[[str], np.ndarray], letters: Mapping[str, str], dtype: str
) -> list[Written]:
    """Their tensors, each made when it is written. Rows that only pad the vocabulary are left out."""
    dims = {**model.dims, 'V': model.vocab_size}
    word, kept = DTYPES[dtype][0], _Newest(weight)

    def one(piece: Piece) -> Written:
        return Written(piece.name, word, shape(piece, dims), lambda: _their_tensor(piece, kept, letters, dims, dtype))

    return [one(piece) for piece in pieces(LAYOUTS[kind], letters, dims)]


class _Newest:
    """Keeps the weights that were asked for last, since the layers and parts of one follow each other."""

    def __init__(self, weight: Callable[[str], np.ndarray], limit: int = 3) -> None:
        self._weight, self._limit = weight, limit
        self._there: dict[str, np.ndarray] = {}

    def __call__(self, path: str) -> np.ndarray:
        if path not in self._there:
            while len(self._there) >= self._limit:
                del self._there[next(iter(self._there))]
            self._there[path] = self._weight(path)
        return self._there[path]


def _their_tensor(
    piece: Piece, weight: Callable[[str], np.ndarray], letters: Mapping[str, str], dims: Mapping[str, int], dtype: str
) -> np.ndarray:
    ours = [letters[path][len(piece.element) :] for path in piece.paths]
    parts = [weight(path)[piece.element] for path in piece.paths]
    if ours[0][0] == 'V':
        parts = [part[: dims['V']] for part in parts]
    return in_dtype(to_theirs(parts, piece, ours, dims), piece.name, dtype)


def in_dtype(value: np.ndarray, name: str, dtype: str) -> np.ndarray:
    """A tensor in one of DTYPES; raises UserError where a number of it is too large for that."""
    with np.errstate(over='ignore'):
        made: np.ndarray = value.astype(DTYPES[dtype][1])
    if not np.isfinite(made.astype(np.float32)).all():
        largest = math.inf if not np.isfinite(value).all() else float(np.abs(value).max())
        raise UserError(f'{name}: holds {largest:.3g}, which {dtype} has no number for')
    return made
