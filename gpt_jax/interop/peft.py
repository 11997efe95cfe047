"""Import and export of LoRA adapters in PEFT's format.

A folder has adapter_config.json and adapter_model.safetensors. A tensor is named after the module
of its adapter, which layouts.py maps to our weights: 'lora_A.weight' is [rank, inputs] and
'lora_B.weight' [outputs, rank]; for an embedding 'lora_embedding_A' [rank, V] and
'lora_embedding_B' [D, rank]. Adapters of experts are not supported: PEFT's names for them change
with the version of transformers.

Our adapters are stacked over all layers. Layers without an adapter or with a smaller rank are
padded with zeros, which change nothing and stay zero in training; an export drops them.

In GPT-2 and GPT-NeoX, query, key and value are one module in PEFT. On import, its adapter becomes
three of our adapters with the same a. On export, three different adapters become one whose rank is
the sum of theirs and whose B has a block for each, with zeros elsewhere; it computes the same
function, but further training also trains the zeros.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.interop import huggingface, peft_config, safetensors_files
from gpt_jax.interop.layouts import LAYOUTS
from gpt_jax.interop.peft_config import ADAPTER_CONFIG_FILE, PeftConfig
from gpt_jax.interop.safetensors_files import READABLE_DTYPES, LazyTensor, TensorIndex
from gpt_jax.interop.weight_mapping import (
    ExternalTensor,
    export_weight,
    import_weight,
    list_output_columns,
    list_tensors,
    tensor_shape,
)
from gpt_jax.model.low_rank import RANK_LETTER, Adapter, adapter_letters, can_adapt

ADAPTER_FILE, TORCH_FILE = 'adapter_model.safetensors', 'adapter_model.bin'
TENSOR_PREFIX = 'base_model.model.'
EMBEDDING_PATH, HEAD_PATH = 'embedding/table_VD', 'head/weight_VD'
LINEAR_SUFFIXES = ('lora_A.weight', 'lora_B.weight')
EMBEDDING_SUFFIXES = ('lora_embedding_A', 'lora_embedding_B')


class AdapterModule(NamedTuple):
    """A module that may have an adapter.

    Attributes:
      name: the module's name in PEFT's tensor names.
      matrix: the module's matrix, and our weights in it.
      suffixes: suffixes of the names of its two tensors.
    """

    name: str
    matrix: ExternalTensor
    suffixes: tuple[str, str]

    @property
    def tensors(self) -> tuple[str, str]:
        """The names of PEFT's tensors A and B."""
        a, b = self.suffixes
        return f'{TENSOR_PREFIX}{self.name}.{a}', f'{TENSOR_PREFIX}{self.name}.{b}'

    @property
    def base_tensor(self) -> str:
        """The name of the module's own matrix, which PEFT may save with the adapter."""
        return f'{TENSOR_PREFIX}{self.name}.base_layer.weight'

    @property
    def is_transposed(self) -> bool:
        """Whether its inputs are our last dims: a head's inputs are the D of its table [V, D]."""
        is_table = self.matrix.paths[0] in (EMBEDDING_PATH, HEAD_PATH)
        return is_table and self.suffixes == LINEAR_SUFFIXES


class FlatAdapter(NamedTuple):
    """The adapter of a module or of one of our weights in it, as two matrices.

    Attributes:
      a: [our first dims, rank].
      b: [rank, our last dims].
      scale: factor of their product.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float


class PeftAdapters(NamedTuple):
    """The adapters of a folder.

    Attributes:
      pairs: adapters by path of the weight, stacked as in checkpoints, float32.
      scales: scales by path, one number or one per layer.
      base: name of the base model.
      dropout: dropout rate during training.
      saved: whole weights in place of the base model's (PEFT's modules_to_save), float32, by path.
    """

    pairs: Mapping[str, Adapter]
    scales: Mapping[str, np.ndarray]
    base: str
    dropout: float
    saved: Mapping[str, np.ndarray] = MappingProxyType({})


def list_modules(
    model_config: ModelConfig, letters: Mapping[str, str], dims: Mapping[str, int]
) -> Iterator[AdapterModule]:
    """Yield the modules of a model that may have adapters, in the order of its layout.

    A tied head is a module of its own.

    Args:
      letters: letters of all the model's weights, by path.
      dims: sizes by letter.
    """
    layout = LAYOUTS[huggingface.select_layout(model_config)]
    for matrix in list_tensors(layout.mappings, letters, dims):
        if all(can_adapt(letters[path]) and 'E' not in letters[path] for path in matrix.paths):
            is_embedding = matrix.paths == (EMBEDDING_PATH,)
            suffixes = EMBEDDING_SUFFIXES if is_embedding else LINEAR_SUFFIXES
            yield AdapterModule(matrix.name.removesuffix('.weight'), matrix, suffixes)
            if is_embedding and model_config.tied_head:
                yield AdapterModule(layout.head.removesuffix('.weight'), matrix, LINEAR_SUFFIXES)


def factor_sizes(letters: str, dims: Mapping[str, int]) -> tuple[int, int]:
    """Return the total sizes of a weight's first dims and of its last dims, without layers."""
    a, b = (
        math.prod(dims[letter] for letter in factor if letter not in f'N{RANK_LETTER}')
        for factor in adapter_letters(letters)
    )
    return a, b


def select_target_modules(adapted: Collection[str], names: Collection[str]) -> list[str]:
    """Return a value of target_modules that selects the adapted modules and no others.

    It lists the shortest suffixes of names without a layer number, or else whole names.

    Args:
      adapted: names of the modules with adapters.
      names: names of all modules.
    """
    targets: set[str] = set()
    for name in adapted:
        parts = name.split('.')
        suffixes = [
            '.'.join(parts[n:])
            for n in range(len(parts) - 1, 0, -1)
            if not any(part.isdigit() for part in parts[n:])
        ]

        def means_only_adapted(suffix: str) -> bool:
            matches = [name for name in names if name == suffix or name.endswith(f'.{suffix}')]
            return all(match in adapted for match in matches)

        targets.add(next(filter(means_only_adapted, suffixes), name))
    return sorted(targets)


def read_adapters(
    folder: Path,
    model_config: ModelConfig,
    letters: Mapping[str, str],
    read_weight: Callable[[str], np.ndarray],
) -> PeftAdapters:
    """Read the adapters of a folder for a model.

    Args:
      folder: PEFT's folder.
      model_config: the base model's config.
      letters: letters of all the model's weights, by path ('blocks/attention/query': 'NDHK').
      read_weight: path -> the model's weight, float32; an embedding that PEFT saved with its
        adapter must be equal to it.

    Raises:
      UserError: a field or a tensor is not supported, or does not belong to this model; names it.
    """
    config = peft_config.read_adapter_config(
        folder / ADAPTER_CONFIG_FILE, safetensors_files.read_json(folder, ADAPTER_CONFIG_FILE)
    )
    has_torch_file = not (folder / ADAPTER_FILE).exists() and (folder / TORCH_FILE).exists()
    path = safetensors_files.resolve_file(folder, TORCH_FILE if has_torch_file else ADAPTER_FILE)
    tensors = safetensors_files.index_file(path)
    dims = {**model_config.dims, 'V': model_config.vocab_size}
    modules = list(list_modules(model_config, letters, dims))
    replaced = list_saved_tensors(model_config, letters, dims) if config.saves_modules else {}
    _check_names(path, tensors, modules, replaced)
    by_weight: dict[str, dict[tuple[int, ...], FlatAdapter]] = {}
    for module in modules:
        if module.base_tensor in tensors.entries:
            saved = tensors.read_weight(module.base_tensor)
            _check_saved_weight(path, saved, module, read_weight, letters, dims)
        if module.tensors[0] not in tensors.entries:
            continue
        adapters = _read_module(path, module, tensors, config, letters, dims)
        for weight_path, adapter in adapters.items():
            elements = by_weight.setdefault(weight_path, {})
            if not _are_equal(elements.setdefault(module.matrix.element, adapter), adapter):
                raise UserError(
                    f'{path}: the adapters of embedding and head must be equal, since they are one '
                    'weight in this model'
                )
    saved_weights = _read_saved_weights(path, tensors, replaced, read_weight, letters, dims)
    if not by_weight and not saved_weights:
        raise UserError(f'{path}: holds no adapter')
    if EMBEDDING_PATH in by_weight and model_config.tied_head and not config.tied:
        _check_both_tied_modules(path, tensors, modules)
    pairs, scales = {}, {}
    for weight_path, elements in by_weight.items():
        pairs[weight_path], scales[weight_path] = _stack_layers(
            elements, letters[weight_path], model_config, config
        )
    return PeftAdapters(pairs, scales, config.base, config.dropout, saved_weights)


def _are_equal(adapter: FlatAdapter, other: FlatAdapter) -> bool:
    same_factors = np.array_equal(adapter.a, other.a) and np.array_equal(adapter.b, other.b)
    return same_factors and adapter.scale == other.scale


def list_saved_tensors(
    model_config: ModelConfig, letters: Mapping[str, str], dims: Mapping[str, int]
) -> dict[str, ExternalTensor]:
    """Return the tensors that modules_to_save may name, by PEFT's name of the tensor."""
    layout = LAYOUTS[huggingface.select_layout(model_config)]
    tensors = {
        f'{TENSOR_PREFIX}{tensor.name}': tensor
        for tensor in list_tensors(layout.mappings, letters, dims)
    }
    if model_config.tied_head:
        (embedding,) = (tensor for tensor in tensors.values() if tensor.paths == (EMBEDDING_PATH,))
        tensors[f'{TENSOR_PREFIX}{layout.head}'] = embedding
    return tensors


def _read_saved_weights(
    path: Path,
    tensors: TensorIndex,
    replaced: Mapping[str, ExternalTensor],
    read_weight: Callable[[str], np.ndarray],
    letters: Mapping[str, str],
    dims: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Return the weights of which the folder holds tensors; their other parts are the model's."""
    saved: dict[str, np.ndarray] = {}
    present = {name: tensor for name, tensor in replaced.items() if name in tensors.entries}
    for name, tensor in present.items():
        _check_tensor(path, name, tensors, tensor_shape(tensor, dims))
        value = tensors.read_weight(name)
        twins = [other for other, same in replaced.items() if same == tensor and other != name]
        for twin in twins:  # embedding and tied head
            if twin not in present or not np.array_equal(tensors.read_weight(twin), value):
                raise UserError(
                    f'{path}: {name!r} differs from {twin!r}, but they are one weight in this '
                    'model; use a base model with an untied head'
                )
        for weight_path in tensor.paths:
            if weight_path not in saved:
                saved[weight_path] = np.array(read_weight(weight_path))
            ours = letters[weight_path][len(tensor.element) :]
            part = import_weight(value, tensor, weight_path, ours, dims)
            # An embedding may have padding rows after those of the folder.
            saved[weight_path][tensor.element][: len(part)] = part
    return saved


def _check_tensor(path: Path, name: str, tensors: TensorIndex, shape: tuple[int, ...]) -> None:
    entry = tensors.entries[name][1]
    if entry.dtype not in READABLE_DTYPES:
        raise UserError(
            f'{path}: {name!r} must be one of {", ".join(READABLE_DTYPES)}, got {entry.dtype}'
        )
    if entry.shape != shape:
        raise UserError(
            f'{path}: {name!r} must have the shape {list(shape)}, got {list(entry.shape)}'
        )


def _check_names(
    path: Path,
    tensors: TensorIndex,
    modules: list[AdapterModule],
    replaced: Mapping[str, ExternalTensor],
) -> None:
    known = {name for module in modules for name in (*module.tensors, module.base_tensor)}
    known |= replaced.keys()
    for name in tensors.entries:
        if name not in known:
            nearest = config_fields.nearest(name, known)
            raise UserError(f'{path}: {name!r} is not an adapter of this model{nearest}')
    for module in modules:
        a, b = module.tensors
        if (a in tensors.entries) != (b in tensors.entries):
            present, missing = (a, b) if a in tensors.entries else (b, a)
            raise UserError(f'{path}: {missing!r} is missing, but {present!r} is present')


def _check_both_tied_modules(
    path: Path, tensors: TensorIndex, modules: list[AdapterModule]
) -> None:
    """Check that a tied weight is adapted in both its modules; else it would be two weights."""
    if not all(
        module.tensors[0] in tensors.entries
        for module in modules
        if module.matrix.paths == (EMBEDDING_PATH,)
    ):
        raise UserError(
            f'{path}: adapts only one of embedding and head, which are one weight in this model; '
            'use a base model with an untied head, or train the adapter with ensure_weight_tying'
        )


def _check_saved_weight(
    path: Path,
    saved: np.ndarray,
    module: AdapterModule,
    read_weight: Callable[[str], np.ndarray],
    letters: Mapping[str, str],
    dims: Mapping[str, int],
) -> None:
    weight_path = module.matrix.paths[0]
    weight = read_weight(weight_path)[: dims['V']]
    expected = export_weight([weight], module.matrix, [letters[weight_path]], dims)
    if not np.array_equal(saved, expected):
        raise UserError(f'{path}: the saved weight of {module.name} differs from that of the model')


def _read_module(
    path: Path,
    module: AdapterModule,
    tensors: TensorIndex,
    config: PeftConfig,
    letters: Mapping[str, str],
    dims: Mapping[str, int],
) -> dict[str, FlatAdapter]:
    """Read a module's adapter as one adapter for each of our weights in it, by path."""
    rank, scale = config.rank_and_scale(module.name)
    paths = module.matrix.paths
    sizes = [factor_sizes(letters[weight_path], dims) for weight_path in paths]
    columns = list_output_columns(module.matrix, [outputs for _, outputs in sizes], dims)
    inputs, outputs = sizes[0][0], sum(map(len, columns))
    if module.is_transposed:
        inputs, outputs = outputs, inputs
    for name, shape in zip(module.tensors, ((rank, inputs), (outputs, rank)), strict=True):
        _check_tensor(path, name, tensors, shape)
    their_a, their_b = (tensors.read_weight(name) for name in module.tensors)
    a, b = (their_b, their_a) if module.is_transposed else (their_a.T, their_b.T)
    return {
        weight_path: FlatAdapter(a, b[:, columns[n]], scale) for n, weight_path in enumerate(paths)
    }


def _stack_layers(
    elements: Mapping[tuple[int, ...], FlatAdapter],
    letters: str,
    model_config: ModelConfig,
    config: PeftConfig,
) -> tuple[Adapter, np.ndarray]:
    """Stack the adapters of a weight's layers, padded with zeros, and their scales."""
    rank = max(adapter.a.shape[-1] for adapter in elements.values())
    sizes = {**model_config.dims, RANK_LETTER: rank}
    a, b = (
        np.zeros([sizes[letter] for letter in factor], np.float32)
        for factor in adapter_letters(letters)
    )
    scales = np.full(a.shape[: letters.startswith('N')], config.rank_and_scale('')[1], np.float32)
    for index, adapter in elements.items():
        own_rank = adapter.a.shape[-1]
        # An embedding may have padding rows after those of the adapter.
        a[index].reshape(-1, rank)[: len(adapter.a), :own_rank] = adapter.a
        b[index].reshape(rank, -1)[:own_rank] = adapter.b
        scales[index] = adapter.scale
    return Adapter(a, b), scales


def write_adapters(
    folder: Path,
    model_config: ModelConfig,
    adapters: PeftAdapters,
    letters: Mapping[str, str],
    *,
    rank_stabilized: bool,
    dtype: str,
) -> None:
    """Export adapters, atomically.

    Args:
      folder: must be empty or not exist.
      model_config: the base model's config.
      adapters: the adapters, whose factors may be JAX arrays.
      letters: letters of all the model's weights, by path.
      rank_stabilized: whether to write alpha for a scale of alpha / sqrt(rank).
      dtype: float32, bfloat16 or float16.

    Raises:
      UserError: no layout fits the model, or PEFT has no name for a weight with an adapter.
    """
    dims = {**model_config.dims, 'V': model_config.vocab_size}
    modules = list(list_modules(model_config, letters, dims))
    exportable = {path for module in modules for path in module.matrix.paths}
    for path in adapters.pairs.keys() - exportable:
        raise UserError(f'{path}: PEFT cannot represent its adapter; merge it into the weight')
    flat_adapters = {
        module: adapter
        for module in modules
        if (adapter := _combine_module(module, adapters, letters, dims)) is not None
    }
    config = peft_config.make_adapter_config(
        {
            module.name: (adapter.a.shape[1], adapter.scale)
            for module, adapter in flat_adapters.items()
        },
        select_target_modules(
            {module.name for module in flat_adapters}, [module.name for module in modules]
        ),
        base=adapters.base,
        is_conv1d=huggingface.select_layout(model_config) in ('gpt2', 'openai-gpt'),
        rank_stabilized=rank_stabilized,
        dropout=adapters.dropout,
        tied=model_config.tied_head and EMBEDDING_PATH in adapters.pairs,
    )
    with safetensors_files.atomic_folder(folder) as unfinished:
        tensors = [
            tensor
            for module, adapter in flat_adapters.items()
            for tensor in _make_tensors(module, adapter, dtype)
        ]
        safetensors_files.write_tensors(unfinished / ADAPTER_FILE, tensors)
        files.write_json(unfinished / ADAPTER_CONFIG_FILE, config)


def _make_tensors(module: AdapterModule, adapter: FlatAdapter, dtype: str) -> Iterator[LazyTensor]:
    """Yield PEFT's two tensors of an adapter."""
    a, b = adapter.a, adapter.b
    values = (b, a) if module.is_transposed else (a.T, b.T)
    for name, value in zip(module.tensors, values, strict=True):
        cast = huggingface.cast_finite(value, name, dtype)
        format_dtype = huggingface.EXPORT_DTYPES[dtype][0]
        yield LazyTensor(name, format_dtype, cast.shape, functools.partial(np.asarray, cast))


def _combine_module(
    module: AdapterModule,
    adapters: PeftAdapters,
    letters: Mapping[str, str],
    dims: Mapping[str, int],
) -> FlatAdapter | None:
    """Combine the adapters of a module's weights; None if there are none or all are zero."""
    paths = module.matrix.paths
    outputs = [factor_sizes(letters[path], dims)[1] for path in paths]
    columns = list_output_columns(module.matrix, outputs, dims)
    parts = [
        (n, _drop_zeros(path, module, adapters, dims))
        for n, path in enumerate(paths)
        if path in adapters.pairs
    ]
    parts = [(n, adapter) for n, adapter in parts if adapter.a.shape[1]]
    if not parts:
        return None
    scale = parts[0][1].scale
    # Weights with the same a share it; each one's b fills the columns of its own outputs.
    blocks: list[tuple[np.ndarray, np.ndarray]] = []
    for n, adapter in parts:
        wide_b = next((b for a, b in blocks if np.array_equal(a, adapter.a)), None)
        if wide_b is None:
            wide_b = np.zeros((adapter.a.shape[1], sum(outputs)), np.float32)
            blocks.append((adapter.a, wide_b))
        b = adapter.b
        if adapter.scale != scale:
            b = b * np.float64(adapter.scale / scale)
        wide_b[:, columns[n]] = b
    return FlatAdapter(
        np.concatenate([a for a, _ in blocks], axis=1),
        np.concatenate([b for _, b in blocks]),
        scale,
    )


def _drop_zeros(
    path: str, module: AdapterModule, adapters: PeftAdapters, dims: Mapping[str, int]
) -> FlatAdapter:
    """Return a weight's adapter without the ranks that are zero in both factors."""
    pair, index = adapters.pairs[path], module.matrix.element
    a, b = (np.asarray(factor)[index].astype(np.float32) for factor in (pair.a, pair.b))
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
    if path in (EMBEDDING_PATH, HEAD_PATH):
        a = a[: dims['V']]  # without vocabulary padding
    is_used = a.any(axis=0) | b.any(axis=1)
    scales = np.asarray(adapters.scales[path])
    scale = float(scales[index] if scales.ndim else scales)
    return FlatAdapter(a[:, is_used], b[is_used], scale)
