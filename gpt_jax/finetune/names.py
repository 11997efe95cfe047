"""Which weights does a name mean?

A weight's path is 'blocks/attention/query' or 'embedding/table_VD'. A name is one part of it or several that follow
each other, with the wildcards * and ? inside a part: 'query', 'attention/*bias', 'embedding', 'norm' (the last one, for
those of the layers are 'norm_1' and 'norm_2'), '*' (all). After 'blocks/' it means what it means in the layers, and
after 'blocks[0:6]/' in some of them alone, counted from 0 as Python counts: 'blocks[-1]/up' is that of the last one,
'blocks[:6]' all of the first six.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping

from gpt_jax import schema
from gpt_jax.errors import UserError

# By path, of a stack the numbers of the layers that are meant; of any other weight None.
Chosen = dict[str, tuple[int, ...] | None]


def chosen(letters: Mapping[str, str], names: Iterable[str], layers: int, field: str) -> Chosen:
    """The weights that any of the names means, in the order of `letters`.

    Args:
      letters: of the weights to choose from, by path ('blocks/attention/query': 'NDHK').
      field: of the config, for messages ('tune.train').

    Raises:
      UserError: a name means nothing, with the nearest that would; or its layers are none.
    """
    found: dict[str, set[int] | None] = {}
    for name in names:
        inside, parts, numbers = _read(name, layers, field)
        matching = [
            path for path in letters
            if (path.startswith('blocks/') or not inside) and _means(parts, path.split('/')[inside:])
        ]  # fmt: skip
        if not matching:
            raise UserError(
                f'config.{field}: {name!r} is no weight of this model{schema.nearest(name, _known(letters))}'
            )
        for path in matching:
            stacked = letters[path].startswith('N')
            found[path] = (found.get(path) or set()) | set(numbers) if stacked else None
    return {path: _sorted(found[path]) for path in letters if path in found}


def _known(paths: Iterable[str]) -> set[str]:
    """Every path, what it begins with, and its parts."""
    split = [path.split('/') for path in paths]
    return {'/'.join(parts[:n]) for parts in split for n in range(1, len(parts) + 1)} | {
        p for parts in split for p in parts
    }


def without(one: Chosen, other: Chosen) -> Chosen:
    """What the one means and the other does not."""
    left: Chosen = {}
    for path, numbers in one.items():
        if path not in other:
            left[path] = numbers
        elif numbers is not None:
            rest = tuple(n for n in numbers if n not in (other[path] or ()))
            left |= {path: rest} if rest else {}
    return left


def _sorted(numbers: set[int] | None) -> tuple[int, ...] | None:
    return None if numbers is None else tuple(sorted(numbers))


def _read(name: str, layers: int, field: str) -> tuple[bool, list[str], range]:
    """(whether it means layers alone, the parts of what it means, which layers)."""
    match = re.fullmatch(r'blocks(?:\[([^\]]*)\])?(?:/(.+))?', name)
    if match is None:
        return False, name.split('/'), range(layers)
    inside, rest = match[1], (match[2] or '*').split('/')
    if inside is None:
        return True, rest, range(layers)
    numbers = re.fullmatch(r'(-?\d+)|(-?\d*):(-?\d*)', inside)
    if numbers is None:
        raise UserError(f"config.{field}: {name!r}: wants layers as 'blocks[3]' or 'blocks[0:6]'")
    if numbers[1] is not None:
        at = int(numbers[1])
        meant = range(layers)[at : at + 1 or None] if -layers <= at < layers else range(0)
    else:
        meant = range(layers)[slice(*(int(end) if end else None for end in (numbers[2], numbers[3])))]
    if not meant:
        raise UserError(f'config.{field}: {name!r} means none of the {layers} layers')
    return True, rest, meant


def _means(wanted: list[str], path: list[str]) -> bool:
    """Whether some parts of the path that follow each other are the wanted ones."""
    return any(
        all(fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(path[begin:], wanted, strict=False))
        for begin in range(len(path) - len(wanted) + 1)
    )
