"""Import and export of Hugging Face folders, local or from the hub."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gpt_jax.core import config_fields, files
from gpt_jax.core.config import ModelConfig
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import LogFn
from gpt_jax.interop import safetensors_files, tokenizer_files
from gpt_jax.interop.hf_config import ConfigReader, list_mismatches
from gpt_jax.interop.layouts import BUFFERS, FUSED_EXPERTS, LAYOUTS, WeightLayout
from gpt_jax.interop.safetensors_files import READABLE_DTYPES, LazyTensor, TensorIndex
from gpt_jax.interop.weight_mapping import (
    ExternalTensor,
    export_weight,
    import_weight,
    list_tensors,
    tensor_shape,
)

# Files to download: none that can run code.
HUB_FILES = (
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'model.safetensors.index.json',
    'model-*-of-*.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'vocab.json',
    'merges.txt',
    'chat_template.jinja',
)
# Downloaded only if there is no safetensors file; read without running code (torch_files.py).
HUB_TORCH_FILES = ('pytorch_model.bin', 'pytorch_model.bin.index.json', 'pytorch_model-*-of-*.bin')
HUB_NAME = re.compile(r'([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(@[\w./-]+)?', re.ASCII)
CONFIG_FILE = 'config.json'
STRUCTURAL_FIELDS = ('block', 'norm:', 'position', 'feedforward')  # where layouts differ most
CACHED_WEIGHTS = 3  # during an export, where a weight's layers and experts are consecutive
# Dtypes of an export: the format's name and the type.
EXPORT_DTYPES: Mapping[str, tuple[str, Any]] = {
    'float32': ('F32', np.float32),
    'bfloat16': ('BF16', ml_dtypes.bfloat16),
    'float16': ('F16', np.float16),
}


def is_hub_name(source: str) -> bool:
    """Return whether this can be a name on the hub rather than a local path, existing or new."""
    path = files.check_path(source, 'SOURCE')
    is_local = path.exists() or ('/' in source and path.parent.exists())
    return not is_local and HUB_NAME.fullmatch(source) is not None


def resolve_folder(source: str, argument: str = 'SOURCE') -> Path:
    """Return the local folder of a path or of a hub name, which is downloaded if needed.

    Args:
      source: a path, 'gpt2', 'org/name' or 'org/name@revision'.
      argument: name of the user's argument whose value `source` is, for error messages.

    Raises:
      UserError: `source` is neither a local folder nor a name, or the hub is unreachable or lacks
        it.
    """
    path = files.check_path(source, argument)
    if source and path.is_dir():
        return files.find_snapshot(path, argument)
    if source and path.exists():
        raise UserError(f'{argument}={source}: is a file; give its folder')
    if not HUB_NAME.fullmatch(source):
        raise UserError(f'{argument}={source}: neither a folder nor a name on the Hugging Face hub')
    return _download(source, argument)


def _download(source: str, argument: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{argument}={source}: no such folder; to use the hub, pip install -e '.[hf]'"
        ) from None
    name, _, revision = source.partition('@')

    def download(patterns: Sequence[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=list(patterns)
            )
        )

    try:
        folder = download(HUB_FILES)
        if not any(folder.glob('*.safetensors')):
            folder = download((*HUB_FILES, *HUB_TORCH_FILES))
    except Exception as error:  # raised by the network, the hub or its client
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f'{argument}={source}: no such folder, and the download from the hub failed '
            f'({reason}); download it elsewhere and give its folder'
        ) from None
    return folder


def find_commit(name: str) -> str:
    """Return the commit of NAME[@REVISION] on the hub; '' if it does not answer."""
    repository, _, revision = name.partition('@')
    try:
        import huggingface_hub

        info = huggingface_hub.HfApi().model_info(repository, revision=revision or None, timeout=10)
    except Exception:  # raised by the network, the hub or its client, which may be missing
        return ''
    return info.sha or ''


class HuggingFaceFolder(NamedTuple):
    """A folder of which config.json and the headers of the tensors were read.

    Attributes:
      model_type: the field of config.json.
      model_section: a config's model section, except for how the model is computed and trained.
      generation_fields: special token ids ('eos_token_id': 50256) and generation options in
        config.json, which newer folders have in generation_config.json.
      tensors: the tensors by full name.
      unknown_fields: fields of config.json that this kind of model does not have.
    """

    folder: Path
    model_type: str
    model_section: dict[str, Any]
    generation_fields: dict[str, Any]
    tensors: TensorIndex
    unknown_fields: tuple[str, ...]

    def log_unknown_fields(self, log: LogFn) -> None:
        """Name the fields of config.json that change nothing, in one line."""
        if self.unknown_fields:
            fields = ', '.join(self.unknown_fields)
            log(f'{self.folder / CONFIG_FILE}: ignored, since {self.model_type} has no {fields}')


def read_folder(source: str, argument: str = 'SOURCE') -> HuggingFaceFolder:
    """Read the config.json and the tensors' headers of a folder or of a name on the hub.

    Args:
      source: see `resolve_folder`.
      argument: name of the user's argument whose value `source` is, for error messages.

    Raises:
      UserError: there is no such folder, or the model cannot compute what config.json describes.
    """
    folder = resolve_folder(source, argument)
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f'{folder}: holds no {CONFIG_FILE}')
    values = safetensors_files.read_json(folder, CONFIG_FILE)
    reader = ConfigReader(folder / CONFIG_FILE, values)
    model_type = _find_model_type(reader)
    if model_type is None and values.get('architectures'):
        known = ', '.join(layout.architecture for layout in LAYOUTS.values())
        raise reader.make_error(
            'architectures', f'{values["architectures"]!r} is not supported; supported are {known}'
        )
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        raise reader.make_error(
            'model_type', f'{model_type!r} is not supported; supported are {", ".join(LAYOUTS)}'
        )
    layout = LAYOUTS[model_type]
    architectures = [layout.architecture], [layout.headless_architecture]
    reader.require('architectures', None, [], *architectures)
    model_section = layout.config_format.read_model_section(reader)
    tensors = _complete_names(safetensors_files.index_folder(folder), layout)
    if model_section['layers'] > len(tensors.entries):
        raise UserError(
            f'{folder}: {CONFIG_FILE} has {model_section["layers"]} layers, but there are only '
            f'{len(tensors.entries)} tensors'
        )
    fields = tokenizer_files.GENERATION_FIELDS
    generation_fields = {key: values[key] for key in fields if values.get(key) is not None}
    return HuggingFaceFolder(
        folder, model_type, model_section, generation_fields, tensors, tuple(reader.unknown)
    )


def _find_model_type(reader: ConfigReader) -> Any:
    """Return the model type, which a missing one takes from the class in `architectures`."""
    model_type, classes = reader.get('model_type'), reader.get('architectures')
    for name, layout in LAYOUTS.items():
        if model_type is None and classes in (
            [layout.architecture],
            [layout.headless_architecture],
        ):
            return name
    return model_type


def _complete_names(tensors: TensorIndex, layout: WeightLayout) -> TensorIndex:
    """Return the tensors under their full names, without unused buffers."""
    has_prefix = any(name.startswith(layout.prefix) for name in tensors.entries)
    entries = {
        name if has_prefix or name == layout.head else f'{layout.prefix}{name}': entry
        for name, entry in tensors.entries.items()
    }
    return TensorIndex(
        {name: entry for name, entry in entries.items() if not BUFFERS.fullmatch(name)}
    )


def make_weight_reader(
    source: HuggingFaceFolder, letters: Mapping[str, str], dims: Mapping[str, int]
) -> Callable[[str], np.ndarray]:
    """Check that a folder's tensors are the model's and return a function that reads a weight.

    Args:
      source: the folder.
      letters: letters of all the model's weights, by path ('blocks/attention/query': 'NDHK').
      dims: sizes by letter, the vocabulary without padding.

    Returns:
      path -> the weight, float32, read when called.

    Raises:
      UserError: a missing or extra tensor, or one of the wrong shape or dtype; a head that should
        be tied to the embedding but differs. When a weight is read: NaN or infinite values.
    """
    layout, tensors = LAYOUTS[source.model_type], source.tensors
    is_fused = any(name.endswith(FUSED_EXPERTS) for name in tensors.entries)
    mappings = (is_fused and layout.fused_mappings) or layout.mappings
    expected = {tensor.name: tensor for tensor in list_tensors(mappings, letters, dims)}
    for name, tensor in expected.items():
        if name not in tensors.entries:
            nearest = config_fields.nearest(name, tensors.entries)
            raise UserError(f'{source.folder}: {name!r} is missing{nearest}')
        path, entry = tensors.entries[name]
        shape = tensor_shape(tensor, dims)
        if entry.shape != shape:
            raise UserError(
                f'{path}: {name!r} must have the shape {list(shape)} of {CONFIG_FILE}, '
                f'got {list(entry.shape)}'
            )
        if entry.dtype not in READABLE_DTYPES:
            raise UserError(
                f'{path}: {name!r} must be one of {", ".join(READABLE_DTYPES)}, got {entry.dtype}'
            )
    _check_extra_tensors(source, expected)
    by_path: dict[str, list[ExternalTensor]] = {}
    for tensor in expected.values():
        for our_path in tensor.paths:
            by_path.setdefault(our_path, []).append(tensor)

    def read_weight(path: str) -> np.ndarray:
        weight = np.empty([dims[letter] for letter in letters[path]], np.float32)
        for tensor in by_path[path]:
            element_letters = letters[path][len(tensor.element) :]
            value = tensors.read_weight(tensor.name)
            weight[tensor.element] = import_weight(value, tensor, path, element_letters, dims)
        return weight

    return read_weight


def _check_extra_tensors(source: HuggingFaceFolder, expected: Mapping[str, ExternalTensor]) -> None:
    for name, (path, entry) in source.tensors.entries.items():
        if name in expected:
            continue
        if name != LAYOUTS[source.model_type].head:
            raise UserError(
                f'{path}: {name!r} {list(entry.shape)} is not a weight of this '
                f'{source.model_type} model'
            )
        _check_tied_head(source, expected)


def _check_tied_head(source: HuggingFaceFolder, expected: Mapping[str, ExternalTensor]) -> None:
    """Check that a head that is stored although it is tied equals the embedding."""
    tensors, head = source.tensors, LAYOUTS[source.model_type].head
    embedding = next(
        name for name, tensor in expected.items() if tensor.paths == ('embedding/table_VD',)
    )
    head_entry, embedding_entry = tensors.entries[head][1], tensors.entries[embedding][1]
    # Dtypes and shapes first: the head's shape is unchecked and may be too large to be mapped.
    are_equal = (head_entry.dtype, head_entry.shape) == (
        embedding_entry.dtype,
        embedding_entry.shape,
    ) and np.array_equal(tensors.map(head), tensors.map(embedding))
    if not are_equal:
        raise UserError(
            f'{source.folder}: {CONFIG_FILE} ties the head to the embedding, but {head!r} '
            f'differs from {embedding!r}'
        )


def select_layout(model_config: ModelConfig) -> str:
    """Return the `model_type` under which a model is exported.

    Of several layouts that fit, it is the first one with the model's activation as the usual one
    (gelu: GPT-2, relu: OPT), or else the first one.

    Raises:
      UserError: no layout fits; names the fields that rule out the nearest one.
    """
    mismatches = {
        model_type: list_mismatches(layout.config_format, model_config)
        for model_type, layout in LAYOUTS.items()
    }

    def distance(model_type: str) -> tuple[int, int, bool]:
        fields = mismatches[model_type]
        usual_activation = LAYOUTS[model_type].config_format.fixed['activation'][0]
        return (
            sum(field.startswith(STRUCTURAL_FIELDS) for field in fields),
            len(fields),
            model_config.activation != usual_activation,
        )

    nearest = min(mismatches, key=distance)
    if not mismatches[nearest]:
        return nearest
    fields = '; config.model.'.join(mismatches[nearest])
    raise UserError(
        f'config.model.{fields}: no supported Hugging Face model has this; the nearest is {nearest}'
    )


def make_config_json(
    model_config: ModelConfig, model_type: str, dtype: str, special_ids: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config.json of a model.

    Args:
      model_type: as `select_layout` returns it.
      dtype: a key of EXPORT_DTYPES.
      special_ids: bos_token_id, eos_token_id and pad_token_id, as far as they exist.
    """
    layout = LAYOUTS[model_type]
    return {
        'model_type': model_type,
        'architectures': [layout.architecture],
        'torch_dtype': dtype,
        'dtype': dtype,
        'bos_token_id': special_ids.get('bos_token_id'),
        'eos_token_id': special_ids.get('eos_token_id'),
        'pad_token_id': special_ids.get('pad_token_id'),
        'use_cache': True,
        **layout.config_format.write(model_config),
    }


def write_model_folder(
    folder: Path,
    model_config: ModelConfig,
    read_weight: Callable[[str], np.ndarray],
    letters: Mapping[str, str],
    *,
    special_ids: Mapping[str, Any],
    dtype: str,
    extra: Mapping[str, bytes],
    shard_bytes: int = safetensors_files.SHARD_BYTES,
) -> None:
    """Export a model, atomically.

    Args:
      folder: must be empty or not exist.
      model_config: the model's config.
      read_weight: path -> the weight as float32; called for one weight at a time.
      letters: letters of all the weights, by path.
      special_ids: bos_token_id, eos_token_id and pad_token_id, as far as they exist.
      dtype: a key of EXPORT_DTYPES.
      extra: contents of further files by name, for example the tokenizer's.
      shard_bytes: maximum size of one file of weights.

    Raises:
      UserError: no layout fits the model, the folder is not empty, or a weight is too large for the
        dtype.
    """
    model_type = select_layout(model_config)
    with safetensors_files.atomic_folder(folder) as unfinished:
        tensors = list_export_tensors(model_config, model_type, read_weight, letters, dtype)
        safetensors_files.write_shards(unfinished, tensors, shard_bytes)
        config = make_config_json(model_config, model_type, dtype, special_ids)
        files.write_json(unfinished / CONFIG_FILE, config)
        for name, content in extra.items():
            files.write_bytes(unfinished / name, content)


def list_export_tensors(
    model_config: ModelConfig,
    model_type: str,
    read_weight: Callable[[str], np.ndarray],
    letters: Mapping[str, str],
    dtype: str,
) -> list[LazyTensor]:
    """List the tensors of an export, computed when they are written, without vocabulary padding."""
    dims = {**model_config.dims, 'V': model_config.vocab_size}
    cached_weight = functools.lru_cache(CACHED_WEIGHTS)(read_weight)

    def make_tensor(tensor: ExternalTensor) -> LazyTensor:
        return LazyTensor(
            tensor.name,
            EXPORT_DTYPES[dtype][0],
            tensor_shape(tensor, dims),
            lambda: _export_tensor(tensor, cached_weight, letters, dims, dtype),
        )

    return [
        make_tensor(tensor) for tensor in list_tensors(LAYOUTS[model_type].mappings, letters, dims)
    ]


def _export_tensor(
    tensor: ExternalTensor,
    read_weight: Callable[[str], np.ndarray],
    letters: Mapping[str, str],
    dims: Mapping[str, int],
    dtype: str,
) -> np.ndarray:
    element_letters = [letters[path][len(tensor.element) :] for path in tensor.paths]
    parts = [read_weight(path)[tensor.element] for path in tensor.paths]
    if element_letters[0][0] == 'V':
        parts = [part[: dims['V']] for part in parts]
    return cast_finite(export_weight(parts, tensor, element_letters, dims), tensor.name, dtype)


def cast_finite(value: np.ndarray, name: str, dtype: str) -> np.ndarray:
    """Cast a tensor to one of EXPORT_DTYPES.

    Raises:
      UserError: a value is too large for the dtype.
    """
    with np.errstate(over='ignore'):
        cast: np.ndarray = value.astype(EXPORT_DTYPES[dtype][1])
    if not np.isfinite(cast.astype(np.float32)).all():
        largest = math.inf if not np.isfinite(value).all() else float(np.abs(value).max())
        raise UserError(f'{name}: must be finite in {dtype}, got {largest:.3g}')
    return cast
