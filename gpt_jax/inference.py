"""How is a model set up that is read and not trained? Its config, and where its weights and its texts live."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax import assemble, layout, schema
from gpt_jax.assemble import Program, Settings
from gpt_jax.errors import UserError
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.gpt import check_choices
from gpt_jax.model.quantized import SUMMED, quantize
from gpt_jax.model.turned import Turned, turnable, turned
from gpt_jax.parallel import place
from gpt_jax.parallel.mesh import Demands, MeshConfig, make_mesh
from gpt_jax.parallel.place import Placement
from gpt_jax.parallel.rules import AXES, STRATEGIES
from gpt_jax.train.step import make_evaluation

# What computes on any device, and leaves out what training alone needs.
PLAIN = {'attention_kernel': 'chunked', 'scan_layers': False, 'remat': 'none', 'dropout': 0.0}


def model_config(section: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The config of the model that a run's model section describes, for reading.

    Raises:
      UserError: names the field.
    """
    model = schema.from_dict(ModelConfig, resolve({**section, **PLAIN}, vocab_size), 'model')
    check_choices(model)
    return model


IN_ORDER = 'all_to_all'  # of the words of mesh.long, one that leaves a text in its order
# How matrices are kept; vectors, positions and routers are as they were.
WEIGHTS: Mapping[str, Callable[[jax.Array, str], Any]] = {
    'float32': lambda weight, _: weight,
    'bfloat16': lambda weight, _: weight.astype(jnp.bfloat16),
    'int8': lambda weight, letters: quantize(weight, letters, 8),
    'int4': lambda weight, letters: quantize(weight, letters, 4),
}


def for_writing(params: Any, config: ModelConfig, kind: str) -> Any:
    """The weights as generation reads them: `kept_as`, and on a single CPU device with their outputs as rows.

    Raises:
      UserError: no such kind.
    """
    return kept_as(params, config, kind, turn=jax.default_backend() == 'cpu' and jax.device_count() == 1)


def kept_as(params: Any, config: ModelConfig, kind: str, turn: bool = False) -> Any:
    """The weights with a tree per layer instead of the stack, and their matrices kept as WEIGHTS says.

    The stack's arrays are given up one after the other, so that it and its parts are never both there whole.

    Args:
      turn: whether the layers' matrices are `Turned`.

    Raises:
      UserError: no such kind.
    """
    check_kind(kind)
    letters = weights.letters(assemble.declarations(config))

    def keep(leaf: jax.Array, letters: str) -> Any:
        if turn and turnable(letters):
            return Turned(WEIGHTS[kind](turned(leaf, letters), 'VD'), leaf.shape)
        return WEIGHTS[kind](leaf, letters) if letters in SUMMED else leaf

    made = {name: jax.tree.map(keep, part, letters[name]) for name, part in params.items() if name != 'blocks'}
    stack, structure = jax.tree.flatten(params['blocks'])
    layers: list[list[Any]] = [[] for _ in range(config.layers)]
    for leaf, word in zip(stack, jax.tree.leaves(letters['blocks']), strict=True):
        for n, layer in enumerate(layers):
            layer.append(keep(leaf[n], word.replace('N', '')))
        leaf.delete()
    return made | {f'block_{n}': jax.tree.unflatten(structure, layer) for n, layer in enumerate(layers)}


def reading(settings: Settings, program: Program) -> Program:
    """The run's program with evaluations of weights that are `kept_as` no step of training stores them."""
    placement = place.constrained(program.mesh)
    loss = assemble.summed_loss(settings.model, placement, train=False)
    return program._replace(
        evaluate=jax.jit(make_evaluation(loss, layout=None)),
        score=jax.jit(assemble.scoring(settings.model, placement)),
        on_devices=lambda batches: layout.on_devices(batches, program.mesh, IN_ORDER),
    )


def check_kind(kind: Any) -> None:
    """Raises UserError unless it is one of WEIGHTS."""
    if not isinstance(kind, str) or kind not in WEIGHTS:
        raise UserError(f'weights: no {kind!r}; one of {", ".join(WEIGHTS)}{schema.nearest(str(kind), WEIGHTS)}')


class Home(NamedTuple):
    """The devices of a model.

    place: of its activations and weights while it computes. weights: the shardings they are stored in. rows: the
    sharding of an array with a row per text; ways: how many devices have rows of their own. shared: of what is the same
    for all. axes: the sizes that `home` was asked for.
    """

    place: Placement
    weights: Any
    rows: NamedSharding
    shared: NamedSharding
    ways: int
    axes: Mapping[str, int]


def home(model: ModelConfig, *, data: int, fsdp: int, tensor: int = 1) -> Home:
    """Spreads texts over `data` x `fsdp` devices, weights over the `fsdp`, and heads and widths over the `tensor`.

    Raises:
      UserError: there are not so many devices, or they do not divide the heads.
    """
    strategy = 'fsdp' if fsdp > 1 else 'replicated'
    axes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
    config = MeshConfig(**dict.fromkeys(AXES, 1) | axes, strategy=strategy, long='ring', cpu_devices=0)
    mesh = make_mesh(config, Demands(batches={}, dims={'H': model.heads, 'G': model.kv_heads}))
    rules, boxed = STRATEGIES[strategy], assemble.declarations(model)
    return Home(
        place=place.constrained(mesh),
        weights=place.weight_shardings(weights.unbox(boxed), weights.letters(boxed), rules, mesh),
        rows=NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))),
        shared=NamedSharding(mesh, PartitionSpec()),
        ways=data * fsdp,
        axes=axes,
    )
