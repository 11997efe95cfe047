"""On which modules does PEFT have adapters, and how do their two tensors lie beside our weights'?

A tensor of PEFT's is named after the module that it is on, which layouts.py pairs with our weights: 'lora_A.weight' is
[rank, inputs] and 'lora_B.weight' [outputs, rank], an embedding's 'lora_embedding_A' [rank, V] and 'lora_embedding_B'
[D, rank]. Experts are not among them: PEFT has them under names that change with the version of transformers.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from gpt_jax.interop import huggingface
from gpt_jax.interop.layouts import HEAD, LAYOUTS, Piece, pieces
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.lowrank import RANK, adaptable, factors

PREFIX = 'base_model.model.'
TABLE, OWN_HEAD = 'embedding/table_VD', 'head/weight_VD'


class Module(NamedTuple):
    """name: as in PEFT's tensors. piece: its matrix, and our weights in it. ends: of the names of its two tensors."""

    name: str
    piece: Piece
    ends: tuple[str, str]

    @property
    def tensors(self) -> tuple[str, str]:
        return f'{PREFIX}{self.name}.{self.ends[0]}', f'{PREFIX}{self.name}.{self.ends[1]}'

    @property
    def turned(self) -> bool:
        """Whether its inputs are our last dims: a head takes in the D of its table [V, D]."""
        return self.piece.paths[0] in (TABLE, OWN_HEAD) and self.ends == LINEAR


class Flat(NamedTuple):
    """The adapter of a module, or of one of our weights in it. a: [first dims of ours, rank]; b: [rank, last dims]."""

    a: np.ndarray
    b: np.ndarray
    scale: float


LINEAR, EMBEDDING = ('lora_A.weight', 'lora_B.weight'), ('lora_embedding_A', 'lora_embedding_B')


def modules(model: ModelConfig, letters: Mapping[str, str], dims: Mapping[str, int]) -> Iterator[Module]:
    """Those of this model's layout, in its order; a tied head is one, too.

    Args:
      letters: of all the model's weights, by path. dims: sizes by letter.
    """
    layout = LAYOUTS[huggingface.layout_of(model)]
    for piece in pieces(layout, letters, dims):
        if all(adaptable(letters[path]) and 'E' not in letters[path] for path in piece.paths):
            table = piece.paths == (TABLE,)
            yield Module(piece.name.removesuffix('.weight'), piece, EMBEDDING if table else LINEAR)
            if table and model.tied_head:
                yield Module(HEAD.removesuffix('.weight'), piece, LINEAR)


def sides(letters: str, dims: Mapping[str, int]) -> tuple[int, int]:
    """How many numbers the first dims of one of our weights are, and the last ones; layers apart."""
    a, b = (
        math.prod(dims[letter] for letter in word if letter not in f'N{RANK}') for word in factors(letters)
    )  # fmt: skip
    return a, b


def targets(adapted: Collection[str], names: Collection[str]) -> list[str]:
    """What means the adapted modules and no others: the shortest ends of names that say no layer, or whole names."""
    found: set[str] = set()
    for name in adapted:
        parts = name.split('.')
        ends = ['.'.join(parts[n:]) for n in range(len(parts) - 1, 0, -1) if not any(p.isdigit() for p in parts[n:])]
        meant = {end: [other for other in names if other == end or other.endswith(f'.{end}')] for end in ends}
        found.add(next((end for end in ends if all(other in adapted for other in meant[end])), name))
    return sorted(found)
