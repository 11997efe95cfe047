"""Pairs of our weights and Hugging Face tensors: names, letters, and conversion both ways.

A `WeightMapping` pairs one of our weights, whose letters are known ('DHK'), with the name and the
letters of their tensor: 'HK D' has H x K rows and D columns. PyTorch's Linear has its outputs
first ('F D'), GPT-2's Conv1D its inputs ('D F'). {n} and {e} in a name are a layer and an expert:
our weights are stacked, theirs are separate tensors.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class WeightMapping(NamedTuple):
    """A kind of Hugging Face tensor, and our weights in it.

    Attributes:
      paths: paths of our weights; several are concatenated.
      name: the tensor's name, with {n} and {e}.
      letters: letters of each of our weights in the tensor.
      axis: the dim along which several weights are concatenated.
      per_head: whether they are concatenated head by head, and the first two dims of the result
        are one dim of the tensor.
      unused_rows: number of rows before the first one that the model reads.
    """

    paths: tuple[str, ...]
    name: str
    letters: tuple[str, ...]
    axis: int = -1
    per_head: bool = False
    unused_rows: int = 0


class ExternalTensor(NamedTuple):
    """One Hugging Face tensor.

    Attributes:
      name: the tensor's name.
      element: indices into each of our weights: (layer,), (layer, expert), or () for all of it.
      mapping: our weights in it, and how they are arranged.
    """

    name: str
    element: tuple[int, ...]
    mapping: WeightMapping

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of our weights that are concatenated in it."""
        return self.mapping.paths


def list_tensors(
    mappings: Sequence[WeightMapping], letters: Mapping[str, str], dims: Mapping[str, int]
) -> Iterator[ExternalTensor]:
    """Yield every Hugging Face tensor that contains our weights, in the order of the mappings.

    Args:
      mappings: the mappings of the folder's layout.
      letters: letters of all our weights, by path ('blocks/attention/query': 'NDHK').
      dims: sizes by letter.

    Raises:
      KeyError: one of our weights has no mapping.
    """
    mappings = [mapping for mapping in mappings if mapping.paths[0] in letters]
    for path in letters.keys() - {path for mapping in mappings for path in mapping.paths}:
        raise KeyError(path)
    for mapping in mappings:
        has_layers, has_experts = '{n}' in mapping.name, '{e}' in mapping.name
        for layer in range(dims['N']) if has_layers else (0,):
            for expert in range(dims['E']) if has_experts else (0,):
                element = (layer,) * has_layers + (expert,) * has_experts
                yield ExternalTensor(mapping.name.format(n=layer, e=expert), element, mapping)


def _group_sizes(letters: str, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return the size of each group of letters: that of 'HK D' is (H x K, D)."""
    return tuple(math.prod(dims[letter] for letter in group) for group in letters.split())


def tensor_shape(tensor: ExternalTensor, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a Hugging Face tensor."""
    mapping = tensor.mapping
    parts = [_group_sizes(letters, dims) for letters in mapping.letters]
    shape = list(parts[0])
    shape[mapping.axis] = sum(sizes[mapping.axis] for sizes in parts)
    if mapping.per_head:
        shape[:2] = [shape[0] * shape[1]]
    shape[0] += mapping.unused_rows
    return tuple(shape)


def import_weight(
    value: np.ndarray, tensor: ExternalTensor, path: str, ours: str, dims: Mapping[str, int]
) -> np.ndarray:
    """Return the part of their tensor that belongs to one of our weights, in our layout.

    Args:
      value: their tensor.
      tensor: its description.
      path: path of our weight.
      ours: the letters of the element of our weight, for example 'DHK'.
      dims: sizes by letter.
    """
    mapping = tensor.mapping
    value = value[mapping.unused_rows :]
    if mapping.per_head:
        value = value.reshape(dims['H'], -1, *value.shape[1:])
    position = mapping.paths.index(path)
    ends = np.cumsum([_group_sizes(letters, dims)[mapping.axis] for letters in mapping.letters])
    part = np.split(value, ends[:-1], axis=mapping.axis)[position]
    theirs = mapping.letters[position].replace(' ', '')
    unflattened = part.reshape([dims[letter] for letter in theirs])
    return unflattened.transpose([theirs.index(letter) for letter in ours])


def export_weight(
    parts: Sequence[np.ndarray],
    tensor: ExternalTensor,
    ours: Sequence[str],
    dims: Mapping[str, int],
) -> np.ndarray:
    """Return their tensor, the inverse of `import_weight`; unused rows are 0.

    Args:
      parts: the elements of our weights in it.
      tensor: its description.
      ours: the letters of each part.
      dims: sizes by letter.
    """
    mapping, flattened = tensor.mapping, []
    for part, our_letters, their_letters in zip(parts, ours, mapping.letters, strict=True):
        order = [our_letters.index(letter) for letter in their_letters.replace(' ', '')]
        flattened.append(part.transpose(order).reshape(_group_sizes(their_letters, dims)))
    value = np.concatenate(flattened, axis=mapping.axis)
    shape = tensor_shape(tensor, dims)
    used = value.reshape(shape[0] - mapping.unused_rows, *shape[1:])
    if not mapping.unused_rows:
        return used
    return np.pad(used, [(mapping.unused_rows, 0)] + [(0, 0)] * (used.ndim - 1))


def list_output_columns(
    tensor: ExternalTensor, outputs: Sequence[int], dims: Mapping[str, int]
) -> list[np.ndarray]:
    """Return which outputs of a matrix belong to each of our weights in it.

    Args:
      tensor: the matrix.
      outputs: number of outputs of each of our weights.
      dims: sizes by letter.
    """
    columns = np.arange(sum(outputs))
    if tensor.mapping.per_head:
        by_head = columns.reshape(dims['H'], len(outputs), -1)
        return [by_head[:, n].ravel() for n in range(len(outputs))]
    return np.split(columns, np.cumsum(outputs)[:-1])
