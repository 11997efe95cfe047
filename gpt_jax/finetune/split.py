"""What of a model is trained, and what is kept as it is? Two trees that together are the model.

Full training, frozen parts and adapters are one thing here: `trained` is what the optimizer sees, `kept` what it does
not, and `whole` puts them together into what the model takes. Where all is trained, `trained` is the params and `kept`
is None. A weight stands in one of them; a stack of layers of which some are trained in both, each with its `Layers`; a
weight with an adapter as `Adapter` in the one and as `Base` in the other.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax import schema
from gpt_jax.finetune import head, lora
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.finetune.names import Chosen, chosen, without
from gpt_jax.model.lowrank import Adapted, Adapter, Base, factors


class Layers(struct.PyTreeNode):
    """Some layers of a stack. layers: their numbers, ascending."""

    value: Any
    layers: tuple[int, ...] = struct.field(pytree_node=False)


class Split(NamedTuple):
    """trained: what is trained itself. adapted: what has adapters. All else is kept.

    letters: of all weights, by path. layers: of the model. rank, scale: of the adapters.
    """

    trained: Chosen
    adapted: Chosen
    letters: Mapping[str, str]
    layers: int
    rank: int
    scale: float

    def parts(self, path: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Of a stack that is trained in part, the numbers of its layers that are, and of those that are not."""
        numbers = self.trained.get(path)
        if numbers is None or len(numbers) == self.layers:
            return None
        return numbers, tuple(n for n in range(self.layers) if n not in numbers)

    @property
    def in_part(self) -> list[str]:
        """The stacks that are trained in part."""
        return [path for path in self.trained if self.parts(path)]


def plan(config: TuneConfig, letters: Mapping[str, str], layers: int) -> Split:
    """What the config says of a model with these weights; one that has an adapter is not trained itself.

    Args:
      letters: by path ('blocks/attention/query': 'NDHK').

    Raises:
      UserError: a name means nothing, or nothing would be trained.
    """
    adapted = lora.targets(letters, config.targets, layers) if config.rank else {}
    # A task's head has learned nothing yet: it is trained whatever else is.
    heads = [head.NAME] if any(path.startswith(f'{head.NAME}/') for path in letters) else []
    wanted = [*config.train, *heads] if config.train or config.rank else ['*']
    frozen = chosen(letters, config.freeze, layers, 'tune.freeze')
    trained = without(chosen(letters, wanted, layers, 'tune.train'), frozen)
    trained = {path: numbers for path, numbers in trained.items() if path not in adapted}
    schema.require(bool(trained or adapted), 'tune.freeze', 'leaves nothing that is trained')
    scale = lora.scale(config.rank, config.alpha, config.rank_stabilized) if config.rank else 0.0
    return Split(trained, adapted, letters, layers, config.rank, scale)


def divide(params: Any, split: Split, key: jax.Array) -> tuple[Any, Any]:
    """(trained, kept), with new adapters drawn by `key`."""
    flat = flatten_dict(params, sep='/')
    adapters = lora.create(params, split.letters, split.adapted, split.rank, key)
    return _divided(
        split, flat.__getitem__, adapters.__getitem__,
        lambda path: lora.based(flat[path], split.letters[path], split.scale),
        lambda stack, numbers: jnp.stack([stack[n] for n in numbers]),
    )  # fmt: skip


def letters_of(split: Split) -> tuple[Any, Any]:
    """(trained, kept) of letters, which say how they lie on devices."""
    words = split.letters
    return _divided(
        split, words.__getitem__, lambda path: Adapter(*factors(words[path])),
        lambda path: Base(words[path], 'N' if words[path].startswith('N') else ''), lambda word, _: word,
    )  # fmt: skip


def numbers_of(split: Split, values: Mapping[str, Any], adapters: Mapping[str, Any]) -> Any:
    """A tree like `trained` of what an optimizer has for each weight: a number, or one for each layer of a stack.

    Args:
      values: by path, of what is trained itself. adapters: by path, of both factors of an adapter.
    """

    def spread(value: Any, ndim: int) -> Any:
        return value if jnp.ndim(value) == 0 else value.reshape(-1, *[1] * (ndim - 1))

    def adapter(path: str) -> Adapter:
        return Adapter(*(spread(adapters[path], len(word)) for word in factors(split.letters[path])))

    return _divided(
        split, lambda path: spread(values[path], len(split.letters[path])), adapter, lambda _: None,
        lambda value, layers: value if jnp.ndim(value) == 0 else value[list(layers)],
    )[0]  # fmt: skip


def _divided(
    split: Split, value: Callable[[str], Any], adapter: Callable[[str], Any], base: Callable[[str], Any],
    some: Callable[[Any, tuple[int, ...]], Any],
) -> tuple[Any, Any]:  # fmt: skip
    """(trained, kept), of what each function has for a path; `some` takes layers of a stack's value."""
    trained, kept = {}, {}
    for path in split.letters:
        if path in split.adapted:
            trained[path], kept[path] = adapter(path), base(path)
        elif (parts := split.parts(path)) is not None:
            trained[path], kept[path] = (Layers(some(value(path), numbers), numbers) for numbers in parts)
        else:
            (trained if path in split.trained else kept)[path] = value(path)
    return unflatten_dict(trained, sep='/'), unflatten_dict(kept, sep='/') if kept else None


def whole(trained: Any, kept: Any, rate: float = 0.0, weave: Callable[[Layers, Layers], Any] | None = None) -> Any:
    """The params as the model takes them, stacked or with the layers apart as the two trees are.

    Args:
      rate: of the adapters' dropout; above 0 the model wants an rng named 'dropout'.
      weave: what makes a stack of both parts of it; None: their layers in order.
    """
    if trained is None or kept is None:
        return kept if trained is None else trained
    if isinstance(trained, Adapter):
        return Adapted(kept.w, trained.a, trained.b, kept.scale, key=None, rate=rate)
    if isinstance(trained, Layers):
        return (weave or _woven)(trained, kept)
    names = {**trained, **kept}
    return {name: whole(trained.get(name), kept.get(name), rate, weave) for name in names}


def _woven(one: Layers, other: Layers) -> jax.Array:
    """The stack whose layers lie in two, put together from as few pieces as possible."""
    pieces = []
    for mine, numbers in groupby(range(len(one.layers) + len(other.layers)), lambda n: n in one.layers):
        run, source = list(numbers), one if mine else other
        begin = source.layers.index(run[0])
        pieces.append(source.value[begin : begin + len(run)])
    return jnp.concatenate(pieces)


def apart(tree: Any, layers: int) -> Any:
    """`trained` or `kept` with a tree for each layer instead of the stacks (model/gpt.py's `unstack`)."""
    if tree is None or 'blocks' not in tree:
        return tree
    rest = {name: part for name, part in tree.items() if name != 'blocks'}
    each = {f'block_{n}': _layer(tree['blocks'], n) for n in range(layers)}
    return rest | {name: block for name, block in each.items() if block is not None}


def _layer(node: Any, n: int) -> Any:
    """Layer `n` of every stack below; None where none of them has it."""
    if isinstance(node, Layers):
        return node.value[node.layers.index(n)] if n in node.layers else None
    if isinstance(node, dict):
        parts = {name: _layer(part, n) for name, part in node.items()}
        return {name: part for name, part in parts.items() if part is not None} or None
    return jax.tree.map(lambda a: a[n], node)


def together(tree: Any, layers: int, like: Any) -> Any:
    """The inverse of `apart`, for what was a tree of the structure of `like`; None: of the params'."""
    like = {'blocks': tree['block_0']} if like is None else like
    if 'blocks' not in like:
        return tree
    rest = {name: part for name, part in tree.items() if not name.startswith('block_')}
    return rest | {'blocks': _stacked(like['blocks'], [tree.get(f'block_{n}') for n in range(layers)])}


def _stacked(like: Any, parts: list[Any]) -> Any:
    if isinstance(like, Layers):
        return Layers(jnp.stack([parts[n] for n in like.layers]), like.layers)
    if isinstance(like, dict):
        return {name: _stacked(one, [part and part.get(name) for part in parts]) for name, one in like.items()}
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
