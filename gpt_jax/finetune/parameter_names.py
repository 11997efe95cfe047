"""Selection of parameters by name: 'norm', 'blocks[6:12]', '*bias'.

A parameter has a path: 'blocks/attention/query', 'embedding/table_VD'. A name is one part of a path
or several consecutive parts, with the wildcards * and ? inside a part:

    query               every parameter called query
    attention/*bias     every bias of the attention
    norm                the final norm; those of the layers are norm_1 and norm_2
    *                   all parameters
    blocks/scale        after 'blocks/', a name matches only parameters of the layers
    blocks[0:6]/query   only in layers 0 to 5; layers are numbered and sliced as in Python
    blocks[-1]/up       only in the last layer
    blocks[:6]          all parameters of the first six layers
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gpt_jax.core import config_fields
from gpt_jax.core.errors import UserError

# By path: the numbers of the selected layers for a stack of layers, None for other parameters.
ParameterSelection = dict[str, tuple[int, ...] | None]


def select_parameters(
    logical_axes: Mapping[str, str], names: Iterable[str], layers: int, field: str
) -> ParameterSelection:
    """Select the parameters that match any of the names, in the order of `logical_axes`.

    Args:
      logical_axes: logical axes of the candidates, by path ('blocks/attention/query': 'NDHK').
      names: see the head of this module.
      layers: number of layers of the model.
      field: the config field for error messages ('finetune.train').

    Raises:
      UserError: a name matches no layer or no parameter (suggests the nearest name that does).
    """
    selected: dict[str, set[int] | None] = {}
    for name in names:
        pattern = _parse_name(name, layers, field)
        paths = [path for path in logical_axes if pattern.matches(path)]
        if not paths:
            nearest = config_fields.nearest(name, _list_names(logical_axes))
            raise UserError(f'config.{field}: {name!r} matches no parameter of the model{nearest}')
        for path in paths:
            if logical_axes[path].startswith('N'):
                selected[path] = (selected.get(path) or set()) | set(pattern.layers)
            else:
                selected[path] = None
    return {path: _sorted(selected[path]) for path in logical_axes if path in selected}


def subtract_selection(
    selection: ParameterSelection, excluded: ParameterSelection
) -> ParameterSelection:
    """Return the part of `selection` that is not in `excluded`."""
    difference: ParameterSelection = {}
    for path, layers in selection.items():
        if path not in excluded:
            difference[path] = layers
        elif layers is not None:
            rest = tuple(n for n in layers if n not in (excluded[path] or ()))
            if rest:
                difference[path] = rest
    return difference


class _NamePattern(NamedTuple):
    """A parsed name. blocks_only: whether it matches only parameters of the layers."""

    blocks_only: bool
    parts: list[str]
    layers: range

    def matches(self, path: str) -> bool:
        """Return whether consecutive parts of the path match this name's parts."""
        if self.blocks_only and not path.startswith('blocks/'):
            return False
        path_parts = path.split('/')[1 if self.blocks_only else 0 :]
        length = len(self.parts)
        return any(
            all(map(fnmatch.fnmatchcase, path_parts[begin : begin + length], self.parts))
            for begin in range(len(path_parts) - length + 1)
        )


def _parse_name(name: str, layers: int, field: str) -> _NamePattern:
    match = re.fullmatch(r'blocks(?:\[([^\]]*)\])?(?:/(.+))?', name)
    if match is None:
        return _NamePattern(False, name.split('/'), range(layers))
    selected = range(layers) if match[1] is None else _parse_layers(name, match[1], layers, field)
    return _NamePattern(True, (match[2] or '*').split('/'), selected)


def _parse_layers(name: str, index: str, layers: int, field: str) -> range:
    """Parse the part of a name in brackets: '3', '-1', '0:6', ':6'."""
    match = re.fullmatch(r'(-?\d+)|(-?\d*):(-?\d*)', index)
    if match is None:
        raise UserError(
            f"config.{field}: layers must be written as 'blocks[3]' or 'blocks[0:6]', got {name!r}"
        )
    if match[1] is not None:
        layer = int(match[1])
        in_range = -layers <= layer < layers
        selected = range(layers)[layer : layer + 1 or None] if in_range else range(0)
    else:
        begin, end = (int(bound) if bound else None for bound in (match[2], match[3]))
        selected = range(layers)[begin:end]
    if not selected:
        raise UserError(f'config.{field}: {name!r} matches no layer; there are {layers}')
    return selected


def _list_names(paths: Iterable[str]) -> set[str]:
    """List every path, its prefixes and its parts, as candidates for corrections."""
    names: set[str] = set()
    for path in paths:
        parts = path.split('/')
        names |= {*parts, *('/'.join(parts[:n]) for n in range(1, len(parts) + 1))}
    return names


def _sorted(numbers: set[int] | None) -> tuple[int, ...] | None:
    return None if numbers is None else tuple(sorted(numbers))
