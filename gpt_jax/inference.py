"""How is a model set up that is read and not trained? Its config, and where its weights and its texts live."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax import assemble, schema
from gpt_jax.model import weights
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.gpt import check_choices
from gpt_jax.parallel import place
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.parallel.place import Placement
from gpt_jax.parallel.rules import STRATEGIES

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


class Home(NamedTuple):
    """The devices of a model.

    place: of its activations and weights while it computes. weights: the shardings they are stored in. rows: the
    sharding of an array with a row per text; ways: the devices that share these. shared: of what is the same for all.
    """

    place: Placement
    weights: Any
    rows: NamedSharding
    shared: NamedSharding
    ways: int


def home(model: ModelConfig, *, data: int, fsdp: int) -> Home:
    """Spreads texts over `data` x `fsdp` devices, and weights over the `fsdp`.

    Raises:
      UserError: there are not so many devices.
    """
    strategy = 'fsdp' if fsdp > 1 else 'replicated'
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, strategy=strategy, cpu_devices=0), {})
    rules, boxed = STRATEGIES[strategy], assemble.declarations(model)
    return Home(
        place=place.placement(rules, mesh, frozenset()),
        weights=place.weight_shardings(weights.unbox(boxed), weights.letters(boxed), rules, mesh),
        rows=NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))),
        shared=NamedSharding(mesh, PartitionSpec()),
        ways=mesh.size,
    )
