"""Inference setup: model config, weight dtypes, placement of weights and texts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax.core import config_fields
from gpt_jax.core.config import MESH_AXES, Config, MeshConfig, ModelConfig, resolve_model
from gpt_jax.core.errors import UserError
from gpt_jax.model import weights
from gpt_jax.model.quantization import (
    CONTRACTED_LETTERS,
    TransposedWeight,
    can_transpose,
    quantize_weight,
    transpose_weight,
)
from gpt_jax.parallel import sharding
from gpt_jax.parallel.mesh import DivisibilityConstraints, make_mesh
from gpt_jax.parallel.rules import STRATEGIES
from gpt_jax.parallel.sharding import ShardingPolicy
from gpt_jax.train import build, mesh_layout, objective
from gpt_jax.train.build import TrainerParts
from gpt_jax.train.step import make_eval_step

# Values of the model section that work on any device and turn off what only training needs.
INFERENCE_OVERRIDES: Mapping[str, Any] = {
    'attention_kernel': 'chunked',
    'scan_layers': False,
    'remat': 'none',
    'dropout': 0.0,
}

# (weight, its letters) -> the stored weight. Vectors, positions and routers stay float32.
WEIGHT_CONVERTERS: Mapping[str, Callable[[jax.Array, str], Any]] = {
    'float32': lambda weight, _: weight,
    'bfloat16': lambda weight, _: weight.astype(jnp.bfloat16),
    'int8': lambda weight, letters: quantize_weight(weight, letters, 8),
    'int4': lambda weight, letters: quantize_weight(weight, letters, 4),
}


def make_inference_config(section: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """Make the inference config of a model from the model section of its run.

    Raises:
      UserError: a field is invalid; the message names it.
    """
    overridden = {**section, **INFERENCE_OVERRIDES}
    return config_fields.from_dict(ModelConfig, resolve_model(overridden, vocab_size), 'model')


def make_inference_parts(config: Config, parts: TrainerParts) -> TrainerParts:
    """Return the parts of a run with evaluation functions that take `quantize_params` weights."""
    policy = sharding.make_constraint_policy(parts.mesh)
    loss = objective.make_loss(config.model, policy, train=False)
    # 'all_to_all' is the context-parallel method that leaves the tokens in their order.
    return parts._replace(
        eval_step=jax.jit(make_eval_step(loss, sharding=None)),
        score_tokens=jax.jit(objective.make_token_scores(config.model, policy)),
        shard_batches=lambda batches: mesh_layout.shard_batches(batches, parts.mesh, 'all_to_all'),
    )


def check_weight_dtype(weight_dtype: Any) -> None:
    """Raise UserError unless the dtype is a key of WEIGHT_CONVERTERS."""
    if not isinstance(weight_dtype, str) or weight_dtype not in WEIGHT_CONVERTERS:
        nearest = config_fields.nearest(str(weight_dtype), WEIGHT_CONVERTERS)
        raise UserError(
            f'weight_dtype: must be one of {", ".join(WEIGHT_CONVERTERS)}, '
            f'got {weight_dtype!r}{nearest}'
        )


def prepare_params(params: Any, model_config: ModelConfig, weight_dtype: str) -> Any:
    """Return the weights for generation: quantized, and transposed on a single CPU device.

    Args:
      params: the weights as stored in a checkpoint; they are deleted.
      model_config: the model's config.
      weight_dtype: a key of WEIGHT_CONVERTERS.

    Raises:
      UserError: no such weight dtype.
    """
    single_cpu = jax.default_backend() == 'cpu' and jax.device_count() == 1
    return quantize_params(params, model_config, weight_dtype, transpose=single_cpu)


def quantize_params(
    params: Any, model_config: ModelConfig, weight_dtype: str, transpose: bool = False
) -> Any:
    """Return the weights as a tree per layer, with matrices stored as `weight_dtype`.

    The stacked arrays are deleted one by one, so that all stacked and all per-layer weights are
    never in memory together.

    Args:
      params: the weights as stored in a checkpoint; the stacked layers are deleted.
      model_config: the model's config.
      weight_dtype: a key of WEIGHT_CONVERTERS.
      transpose: whether to store the matrices of the layers as TransposedWeight.

    Raises:
      UserError: no such weight dtype.
    """
    check_weight_dtype(weight_dtype)
    converter = WEIGHT_CONVERTERS[weight_dtype]
    letters = weights.logical_axes(build.declare_params(model_config))

    def convert(leaf: jax.Array, letters: str) -> Any:
        if transpose and can_transpose(letters):
            return TransposedWeight(converter(transpose_weight(leaf, letters), 'VD'), leaf.shape)
        return converter(leaf, letters) if letters in CONTRACTED_LETTERS else leaf

    converted = {
        name: jax.tree.map(convert, part, letters[name])
        for name, part in params.items()
        if name != 'blocks'
    }
    leaves, structure = jax.tree.flatten(params['blocks'])
    layers: list[list[Any]] = [[] for _ in range(model_config.layers)]
    for leaf, leaf_letters in zip(leaves, jax.tree.leaves(letters['blocks']), strict=True):
        for n, layer in enumerate(layers):
            layer.append(convert(leaf[n], leaf_letters.replace('N', '')))
        leaf.delete()
    for n, layer in enumerate(layers):
        converted[f'block_{n}'] = jax.tree.unflatten(structure, layer)
    return converted


class InferencePlacement(NamedTuple):
    """The devices of a model and the shardings of its arrays.

    Attributes:
      policy: sharding of activations and weights during computation.
      weight_shardings: tree of the shardings in which the weights are stored.
      row_sharding: sharding of arrays with one row per text.
      replicated: sharding of arrays that are equal on all devices.
      row_shards: number of devices among which the rows are divided.
      axes: mesh axis sizes, as given to `make_placement`.
    """

    policy: ShardingPolicy
    weight_shardings: Any
    row_sharding: NamedSharding
    replicated: NamedSharding
    row_shards: int
    axes: Mapping[str, int]


def make_placement(
    model_config: ModelConfig, *, data: int, fsdp: int, tensor: int = 1
) -> InferencePlacement:
    """Place a model on `data` x `fsdp` x `tensor` devices.

    Texts are sharded over `data` and `fsdp`, weights over `fsdp`, heads and widths over `tensor`.

    Raises:
      UserError: there are too few devices, or `tensor` does not divide the number of heads.
    """
    strategy_name = 'fsdp' if fsdp > 1 else 'replicated'
    axes = {'data': data, 'fsdp': fsdp, 'tensor': tensor}
    mesh_config = MeshConfig(
        **dict.fromkeys(MESH_AXES, 1) | axes,
        strategy=strategy_name,
        context_parallel='ring',
        cpu_devices=0,
    )
    heads = {'H': model_config.heads, 'G': model_config.kv_heads}
    mesh = make_mesh(mesh_config, DivisibilityConstraints(batch_sizes={}, dim_sizes=heads))
    boxed = build.declare_params(model_config)
    return InferencePlacement(
        policy=sharding.make_constraint_policy(mesh),
        weight_shardings=sharding.param_shardings(
            weights.unbox(boxed), weights.logical_axes(boxed), STRATEGIES[strategy_name], mesh
        ),
        row_sharding=NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))),
        replicated=NamedSharding(mesh, PartitionSpec()),
        row_shards=data * fsdp,
        axes=axes,
    )
