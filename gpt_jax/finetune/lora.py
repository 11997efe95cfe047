"""How are adapters made, put onto weights and merged into them? Algebra of trees; the model knows nothing of it.

Trees are nested dicts as the model's params, flat where paths are told apart: {'blocks/attention/query': Adapter}. What
an adapter computes is in model/lowrank.py.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from gpt_jax.errors import UserError
from gpt_jax.finetune import names as weight_names
from gpt_jax.finetune.names import Chosen
from gpt_jax.model.lowrank import RANK, Adapted, Adapter, Base, adaptable, change, factors

ALL = 'all-linear'  # every matrix inside the layers, as PEFT calls it


def targets(letters: Mapping[str, str], names: Sequence[str], layers: int) -> Chosen:
    """The matrices that the names mean (names.py), or 'all-linear'; what else a name means with them is left out.

    Args:
      letters: of all the model's weights, by path.

    Raises:
      UserError: a name means no weight, or none that has adapters.
    """
    matrices = {path: word for path, word in letters.items() if adaptable(word)}
    for name in names:
        meant = {} if name == ALL else weight_names.chosen(letters, [name], layers, 'tune.targets')
        if name != ALL and not meant.keys() & matrices.keys():
            raise UserError(f'config.tune.targets: {name!r} is {", ".join(meant)}, and adapters are for matrices alone')
    wanted = ['blocks' if name == ALL else name for name in names]
    return weight_names.chosen(matrices, wanted, layers, 'tune.targets')


def scale(rank: int, alpha: float, stabilized: bool) -> float:
    """What a b is multiplied with: alpha / rank, or alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA)."""
    return alpha / math.sqrt(rank) if stabilized else alpha / rank


def create(abstract: Any, letters: Mapping[str, str], chosen: Chosen, rank: int, key: jax.Array) -> dict[str, Any]:
    """New adapters that change nothing yet; flat.

    The factor towards the outputs is zero. The other is drawn as PEFT draws it: evenly from +-1/sqrt(inputs), of an
    embedding normal. Of a stack's layers that are not chosen both are zero, and stay so, for then neither has a
    gradient.

    Args:
      abstract: the params or their shapes, a tree.
      chosen: of `targets`.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract, sep='/').items()}
    made = {}
    for path, numbers in chosen.items():
        sizes = dict(zip(letters[path], shapes[path], strict=True)) | {RANK: rank}
        a, b = (tuple(sizes[letter] for letter in word) for word in factors(letters[path]))
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        if letters[path] == 'VD':  # the table is looked up through a, the head goes through b first: b is the inner one
            drawn = jax.random.normal(own, b) if path.startswith('embedding') else _even(own, b, b[-1])
            made[path] = Adapter(a=jnp.zeros(a), b=drawn)
            continue
        inputs = math.prod(sizes[letter] for letter in factors(letters[path])[0] if letter not in f'NE{RANK}')
        drawn = _even(own, a, inputs)
        if numbers is not None:
            here = jnp.isin(jnp.arange(a[0]), jnp.array(numbers)).reshape(-1, *[1] * (len(a) - 1))
            drawn = jnp.where(here, drawn, 0)
        made[path] = Adapter(a=drawn, b=jnp.zeros(b))
    return made


def _even(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -1, 1) / math.sqrt(inputs)


def based(w: Any, letters: str, scale: Any) -> Base:
    """A weight to be adapted. scale: one number, or one for each layer of a stack."""
    shape = w.shape[:1] if letters.startswith('N') else ()
    return Base(w, jnp.broadcast_to(jnp.asarray(scale, jnp.float32), shape))


def adapt(params: Any, adapters: Mapping[str, Adapter], scales: Mapping[str, Any], *, rate: float = 0.0) -> Any:
    """The params with an `Adapted` in place of each weight that has an adapter.

    Args:
      adapters: flat. scales: by path, as in `Base`.
      rate: of dropout; above 0 the model wants an rng named 'dropout'.
    """
    flat = dict(flatten_dict(params, sep='/'))
    for path, adapter in adapters.items():
        base = based(flat[path], 'N' if path.startswith('blocks/') else '', scales[path])
        flat[path] = Adapted(base.w, adapter.a, adapter.b, base.scale, key=None, rate=rate)
    return unflatten_dict(flat, sep='/')


def merge(params: Any, adapters: Mapping[str, Adapter], scales: Mapping[str, Any]) -> Any:
    """The params with the adapters added to their weights, in the weights' own types; the tree has its old form."""
    flat = dict(flatten_dict(params, sep='/'))
    for path, adapter in adapters.items():
        w = flat[path]
        flat[path] = (w + change(adapter.a, adapter.b, scales[path], w.ndim)).astype(w.dtype)
    return unflatten_dict(flat, sep='/')
