"""How do adapters become a folder of PEFT's (adapter_config.json, adapter_model.safetensors), and these ours again?

Ours have all layers stacked: layers that have none, or a smaller rank, are filled up with zeros, which change nothing
and learn nothing; on the way out these are left out again.

GPT-2's query, key and value are one module there. An adapter on it is three of ours with the same a. Three of ours that
differ are one of the sum of their ranks, whose B has a block for each and zeros beside; what it computes is the same,
though whoever trains it on there trains the zeros too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_jax import files, schema
from gpt_jax.errors import UserError
from gpt_jax.interop import adapter_config, huggingface, tensor_file, tensors
from gpt_jax.interop.adapter_config import Said
from gpt_jax.interop.adapter_modules import OWN_HEAD, PREFIX, TABLE, Flat, Module, modules, sides, targets
from gpt_jax.interop.layouts import to_theirs
from gpt_jax.interop.tensor_file import Written
from gpt_jax.interop.tensors import WEIGHT_DTYPES, Tensors
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.lowrank import RANK, Adapter, factors

TENSORS = 'adapter_model.safetensors'


class Adapters(NamedTuple):
    """pairs: by the path of the weight, as stored (stacked), float32. scales: by path, one number or one a layer.

    base: what their folder says that they are for. dropout: what they were trained with.
    """

    pairs: Mapping[str, Adapter]
    scales: Mapping[str, np.ndarray]
    base: str
    dropout: float


def read(
    folder: Path, model: ModelConfig, letters: Mapping[str, str], weight: Callable[[str], np.ndarray]
) -> Adapters:  # fmt: skip
    """The adapters of a folder, for this model.

    Args:
      letters: of all the model's weights, by path ('blocks/attention/query': 'NDHK').
      weight: path -> the model's weight, float32: an embedding that PEFT saved along must be the same.

    Raises:
      UserError: a field or a tensor that is not understood, or not this model's; names it.
    """
    said = adapter_config.read(folder / adapter_config.NAME, tensors.read_json(folder, adapter_config.NAME))
    path = tensors.inside(folder, TENSORS)
    found = Tensors({name: (path, entry) for name, entry in tensor_file.header(path).items()})
    dims = {**model.dims, 'V': model.vocab_size}
    there = list(modules(model, letters, dims))
    _check_names(path, found, there)
    by_weight: dict[str, dict[tuple[int, ...], Flat]] = {}
    for module in there:
        saved = f'{PREFIX}{module.name}.base_layer.weight'
        if saved in found.where:
            _check_same(path, found.weight(saved), module, weight, letters, dims)
        if module.tensors[0] not in found.where:
            continue
        for ours, one in _taken(path, module, found, said, letters, dims).items():
            before = by_weight.setdefault(ours, {}).setdefault(module.piece.element, one)
            if not (np.array_equal(before.a, one.a) and np.array_equal(before.b, one.b) and before.scale == one.scale):
                raise UserError(f'{path}: the adapters of embedding and head differ, and here they are one weight')
    if not by_weight:
        raise UserError(f'{path}: holds no adapter')
    if TABLE in by_weight and model.tied_head and not said.tied:
        _check_tied(path, found, there)
    stacked = {ours: _stacked(each, letters[ours], model, said) for ours, each in by_weight.items()}
    pairs = {ours: pair for ours, (pair, _) in stacked.items()}
    return Adapters(pairs, {ours: scales for ours, (_, scales) in stacked.items()}, said.base, said.dropout)


def _check_names(path: Path, found: Tensors, there: list[Module]) -> None:
    known = {name for module in there for name in module.tensors}
    known |= {f'{PREFIX}{module.name}.base_layer.weight' for module in there}
    for name in found.where:
        if name not in known:
            raise UserError(f'{path}: {name!r} is no adapter of a weight of this model{schema.nearest(name, known)}')
    for module in there:
        first, second = module.tensors
        if (first in found.where) != (second in found.where):
            one, other = (first, second) if first in found.where else (second, first)
            raise UserError(f'{path}: {one!r} is there, and {other!r} is missing')


def _check_tied(path: Path, found: Tensors, there: list[Module]) -> None:
    """A tied weight that is adapted in one of its two places is no longer one weight."""
    if not all(module.tensors[0] in found.where for module in there if module.piece.paths == (TABLE,)):
        raise UserError(
            f'{path}: adapts the embedding or the head alone, and in this model they are one weight; take a base model '
            'with a head of its own, or train the adapter with ensure_weight_tying'
        )


def _check_same(
    path: Path, value: np.ndarray, module: Module, weight: Callable[[str], np.ndarray], letters: Mapping[str, str],
    dims: Mapping[str, int],
) -> None:  # fmt: skip
    ours = module.piece.paths[0]
    mine = to_theirs([weight(ours)[: dims['V']]], module.piece, [letters[ours]], dims)
    if not np.array_equal(value, mine):
        raise UserError(f'{path}: {module.name} is saved along, and is not the one of this model')


def _taken(
    path: Path, module: Module, found: Tensors, said: Said, letters: Mapping[str, str], dims: Mapping[str, int]
) -> dict[str, Flat]:
    """The adapter of a module, by the paths of our weights in it."""
    rank, scale = said.of(module.name)
    each = [sides(letters[ours], dims) for ours in module.piece.paths]
    ends = np.cumsum([0, *(outputs for _, outputs in each)])
    shapes = ((rank, each[0][0]), (ends[-1], rank))
    for name, wanted in zip(module.tensors, shapes[::-1] if module.turned else shapes, strict=True):
        entry = found.where[name][1]
        wanted = wanted[::-1] if module.turned else wanted
        if entry.dtype not in WEIGHT_DTYPES:
            raise UserError(f'{path}: {name!r} is {entry.dtype}; adapters are read as {", ".join(WEIGHT_DTYPES)}')
        if entry.shape != wanted:
            raise UserError(f'{path}: {name!r} has the shape {list(entry.shape)}, not {list(map(int, wanted))}')
    first, second = (found.weight(name) for name in module.tensors)
    a, b = (second, first) if module.turned else (first.T, second.T)
    return {ours: Flat(a, b[:, ends[n] : ends[n + 1]], scale) for n, ours in enumerate(module.piece.paths)}


def _stacked(
    each: Mapping[tuple[int, ...], Flat], letters: str, model: ModelConfig, said: Said
) -> tuple[Adapter, np.ndarray]:
    """Of all layers' adapters one, filled up with zeros; and their scales."""
    rank = max(one.a.shape[-1] for one in each.values())
    sizes = {**model.dims, RANK: rank}
    a, b = (np.zeros([sizes[letter] for letter in word], np.float32) for word in factors(letters))
    scales = np.full(a.shape[: letters.startswith('N')], said.of('')[1], np.float32)
    for element, one in each.items():
        own = one.a.shape[-1]
        a[element].reshape(-1, rank)[: len(one.a), :own] = one.a  # a table may have rows that only fill it up
        b[element].reshape(rank, -1)[:own] = one.b
        scales[element] = one.scale
    return Adapter(a, b), scales


def write(
    folder: Path, model: ModelConfig, adapters: Adapters, letters: Mapping[str, str], *, stabilized: bool, dtype: str
) -> None:
    """Writes the folder, whole or not at all.

    Args:
      adapters: their pairs may be JAX's arrays.
      stabilized: whether the file says alpha / sqrt(rank).
      dtype: float32, bfloat16 or float16.

    Raises:
      UserError: no layout has this model, or an adapter is on a weight that PEFT has no name for.
    """
    dims = {**model.dims, 'V': model.vocab_size}
    there = list(modules(model, letters, dims))
    for ours in adapters.pairs.keys() - {ours for module in there for ours in module.piece.paths}:
        raise UserError(f'{ours}: its adapter has no place in a folder of PEFT; merge it into the weight')
    each = {module: _of_module(module, adapters, letters, dims) for module in there}
    made = {module: flat for module, flat in each.items() if flat is not None}
    about = adapter_config.written(
        {module.name: (flat.a.shape[1], flat.scale) for module, flat in made.items()},
        targets({module.name for module in made}, [module.name for module in there]),
        base=adapters.base, conv=huggingface.layout_of(model) in ('gpt2', 'openai-gpt'), stabilized=stabilized,
        dropout=adapters.dropout, tied=model.tied_head and TABLE in adapters.pairs,
    )  # fmt: skip
    with tensors.new_folder(folder) as unfinished:
        tensor_file.write(unfinished / TENSORS, [one for item in made.items() for one in _given(*item, dtype)])
        files.write_json(unfinished / adapter_config.NAME, about)


def _given(module: Module, flat: Flat, dtype: str) -> list[Written]:
    values = (flat.b, flat.a) if module.turned else (flat.a.T, flat.b.T)
    word = huggingface.DTYPES[dtype][0]
    made = [huggingface.in_dtype(value, name, dtype) for name, value in zip(module.tensors, values, strict=True)]
    return [
        Written(name, word, value.shape, lambda value=value: value)  # type: ignore[misc]
        for name, value in zip(module.tensors, made, strict=True)
    ]


def _of_module(
    module: Module, adapters: Adapters, letters: Mapping[str, str], dims: Mapping[str, int]
) -> Flat | None:  # fmt: skip
    """The adapter of a module; None where none of its weights has one, or all of it is zero."""
    ends = np.cumsum([0, *(sides(letters[ours], dims)[1] for ours in module.piece.paths)])
    each = [(n, _used(ours, module, adapters, dims)) for n, ours in enumerate(module.piece.paths)
            if ours in adapters.pairs]  # fmt: skip
    each = [(n, one) for n, one in each if one.a.shape[1]]
    if not each:
        return None
    scale = each[0][1].scale
    wide: list[tuple[np.ndarray, np.ndarray]] = []
    for n, one in each:
        same = next((b for a, b in wide if np.array_equal(a, one.a)), None)
        if same is None:
            same = np.zeros((one.a.shape[1], ends[-1]), np.float32)
            wide.append((one.a, same))
        same[:, ends[n] : ends[n + 1]] = one.b if one.scale == scale else one.b * np.float64(one.scale / scale)
    return Flat(np.concatenate([a for a, _ in wide], axis=1), np.concatenate([b for _, b in wide]), scale)


def _used(ours: str, module: Module, adapters: Adapters, dims: Mapping[str, int]) -> Flat:
    """One weight's adapter, without what is zero in both factors: it changes nothing and never will."""
    pair, element = adapters.pairs[ours], module.piece.element
    a, b = (np.asarray(one)[element].astype(np.float32) for one in (pair.a, pair.b))
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
    a = a[: dims['V']] if ours in (TABLE, OWN_HEAD) else a
    used = a.any(axis=0) | b.any(axis=1)
    scales = np.asarray(adapters.scales[ours])
    return Flat(a[:, used], b[used], float(scales[element] if scales.ndim else scales))
