"""Assembly of a run: from a checked config to the jitted functions that train and evaluate.

It connects objective.py (loss), optim/ (optimizer), finetune/ (trainable parameters),
mesh_layout.py (devices) and step.py, none of which takes the whole config.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core import config_fields, model_counts, trees
from gpt_jax.core.config import AUTO, Config, ModelConfig, TaskConfig
from gpt_jax.finetune import heads, partition
from gpt_jax.finetune.partition import PartitionedParams, Partitioner
from gpt_jax.model import weights
from gpt_jax.model.gpt import GPT
from gpt_jax.parallel.sharding import UNSHARDED, ShardingPolicy, param_shardings
from gpt_jax.train import mesh_layout
from gpt_jax.train.mesh_layout import MeshLayout
from gpt_jax.train.objective import make_loss, make_position_scores, make_token_scores
from gpt_jax.train.step import (
    STACKED,
    Batch,
    Metrics,
    ParamLayout,
    State,
    StepSharding,
    create_state,
    make_eval_step,
    make_score_step,
    make_step,
)


class TrainerParts(NamedTuple):
    """The functions and properties of an assembled run.

    mesh_reason: why this mesh was chosen, if the config left that to the library; else ''.
    batch_shards: number of devices with different rows of the batch.
    microbatches: parts into which a device splits its rows.
    batch_shard: () -> (index of the part of the batch's rows that this process reads, number of
      parts).
    train_step: jitted (state, batch) -> (state, metrics); donates the state.
    eval_step: jitted (params, batch) -> (summed loss in nats, summed weight).
    score_positions: jitted (params, batch) -> scores of each position (objective.py).
    score_tokens: jitted (params, batch) -> (log p of given tokens, whether each is most likely).
    combine_params: state -> the model's parameters, as the functions above take them. If everything
      is trainable, these are the state's own arrays.
    init_state: jitted () -> the state before the first update.
    make_state: jitted params -> the state before their first update; donates the params.
    select_frozen: jitted params -> the frozen part, for a state that was saved without it; donates
      the params.
    abstract_state: shapes, dtypes and shardings of the state.
    abstract_params: the same for the model's parameters.
    shard_batches: iterator of this process's rows -> iterator of global arrays.
    """

    mesh: Mesh
    mesh_reason: str
    batch_shards: int
    microbatches: int
    batch_shard: Callable[[], tuple[int, int]]
    train_step: Any
    eval_step: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    score_positions: Callable[[Any, Any], jax.Array]
    score_tokens: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    combine_params: Callable[[State], Any]
    init_state: Callable[[], State]
    make_state: Callable[[Any], State]
    select_frozen: Callable[[Any], Any]
    abstract_state: State
    abstract_params: Any
    shard_batches: Callable[[Iterable[dict[str, np.ndarray]]], Iterator[dict[str, jax.Array]]]


def make_layout(config: Config, devices: Sequence[Any] | None = None) -> MeshLayout:
    """Lay out the devices (None: all) as the config says; raise UserError if that is impossible."""
    choose = config.mesh.strategy == AUTO  # only then does the size of the model matter
    parameters = model_counts.parameters(config.model)['total'] if choose else 0
    return mesh_layout.make_mesh_layout(
        config.mesh, config.model, config.train, parameters, devices
    )


def build_trainer_parts(config: Config, devices: Sequence[Any] | None = None) -> TrainerParts:
    """Build a run; compiles nothing and allocates nothing.

    Args:
      config: the run's config.
      devices: may be those of a topology that is not attached; None: all devices.
    """
    layout = make_layout(config, devices)
    mesh = layout.mesh
    _check_context_axis(config, mesh)

    boxed = declare_params(config.model, config.task)
    partitioner = Partitioner(config.finetune, config.model, boxed, config.seed)
    partitioner.check_pipeline(mesh.shape['pipeline'])
    _check_counts(config.model)
    optimizer, schedule = partitioner.make_optimizer(config.optimizer, config.steps)

    # Which device stores what between steps: moments are sharded like their parameters.
    replicated = NamedSharding(mesh, PartitionSpec())
    stored = param_shardings(partitioner.abstract, partitioner.logical_axes, layout.strategy, mesh)
    abstract = jax.eval_shape(lambda params: create_state(params, optimizer), partitioner.abstract)
    shardings = _make_state_shardings(abstract, stored, replicated)

    policy = mesh_layout.make_sharding_policy(layout)
    train_step = _make_train_step(config, layout, policy, partitioner, optimizer, schedule)
    eval_sharding = _make_eval_sharding(layout, partitioner)
    eval_loss = make_loss(config.model, policy, train=False, task=config.task)
    position_scores = make_position_scores(config.model, policy, config.task)
    token_scores = make_token_scores(config.model, policy)

    def init_state() -> State:
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        return make_state(weights.unbox(init_params(config.model, key, config.task)))

    def make_state(params: Any) -> State:
        return create_state(partitioner.partition(params), optimizer)

    return TrainerParts(
        mesh=mesh,
        mesh_reason=layout.reason,
        batch_shards=layout.batch_shards,
        microbatches=layout.microbatches,
        batch_shard=functools.partial(mesh_layout.find_batch_shard, mesh),
        train_step=jax.jit(
            train_step,
            donate_argnums=0,
            out_shardings=(shardings, replicated),
            compiler_options=get_compiler_options(mesh.devices.flat[0].device_kind),
        ),
        eval_step=jax.jit(make_eval_step(eval_loss, sharding=eval_sharding)),
        score_positions=jax.jit(make_score_step(position_scores, sharding=eval_sharding)),
        score_tokens=jax.jit(make_score_step(token_scores, sharding=eval_sharding)),
        combine_params=lambda state: partitioner.combine(state.partitioned),
        init_state=jax.jit(init_state, out_shardings=shardings),
        make_state=jax.jit(make_state, donate_argnums=0, out_shardings=shardings),
        select_frozen=jax.jit(
            lambda params: partitioner.partition(params).frozen,
            donate_argnums=0,
            out_shardings=stored.frozen,
        ),
        abstract_state=mesh_layout.add_shardings(abstract, shardings),
        abstract_params=mesh_layout.add_shardings(
            weights.unbox(boxed),
            param_shardings(
                weights.unbox(boxed), weights.logical_axes(boxed), layout.strategy, mesh
            ),
        ),
        shard_batches=functools.partial(
            mesh_layout.shard_batches, mesh=mesh, context_parallel=layout.context_parallel
        ),
    )


def _make_train_step(
    config: Config,
    layout: MeshLayout,
    policy: ShardingPolicy,
    partitioner: Partitioner,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    return make_step(
        make_loss(config.model, policy, train=True, task=config.task),
        optimizer,
        schedule,
        sharding=mesh_layout.make_step_sharding(
            layout, partitioner.abstract, partitioner.logical_axes
        ),
        microbatches=layout.microbatches,
        clip_norm=config.optimizer.grad_clip_norm,
        seed=config.seed,
        param_layout=make_param_layout(config.model, policy, partitioner.abstract.trainable),
        combine=partitioner.combine_with_dropout,
    )


def _make_eval_sharding(layout: MeshLayout, partitioner: Partitioner) -> StepSharding | None:
    """Make the sharding of evaluations, which take combined parameters without a frozen part."""
    return mesh_layout.make_step_sharding(
        layout,
        PartitionedParams(partitioner.combined_abstract, None),
        PartitionedParams(partitioner.combined_axes, None),
    )


def _check_counts(model_config: ModelConfig) -> None:
    """Raise UserError if the parameter count is wrong for parts given as dotted paths."""
    words = (model_config.norm, model_config.attention, model_config.feedforward)
    if not any(':' in word for word in words):
        return
    counted = model_counts.parameters(model_config)['padded_total']
    stored = trees.count_elements(weights.unbox(declare_params(model_config)))
    config_fields.require(
        counted == stored,
        'model',
        f'must count its parameters correctly, got {counted:,} for {stored:,}; give each part that '
        'is a dotted path an attribute count_parameters(config)',
    )


def _check_context_axis(config: Config, mesh: Mesh) -> None:
    context = mesh.shape['context']
    config_fields.require(
        context == 1 or config.task.kind in ('none', 'completion'),
        'mesh.context',
        f'must be 1 with task.kind {config.task.kind}, which reads whole sequences, got {context}; '
        'use another axis',
    )


def _make_state_shardings(abstract: State, stored: PartitionedParams, replicated: Any) -> State:
    """Shard every subtree of the state like the parameters if it has their structure.

    These are the optimizer's moments; everything else, such as counters, is replicated.
    """
    structure: Any = jax.tree.structure(abstract.params)
    is_params = lambda node: jax.tree.structure(node) == structure
    shardings: State = jax.tree.map(
        lambda node: stored.trainable if is_params(node) else replicated,
        abstract,
        is_leaf=is_params,
    )
    return shardings.replace(frozen=stored.frozen)


def init_params(config: ModelConfig, key: jax.Array, task: TaskConfig | None = None) -> Any:
    """Initialize the declared (boxed) parameters in the stored form; with a task, also its head."""
    model = GPT(config, UNSHARDED, train=False)
    # No parameter depends on the length of the input.
    params: Any = model.init(key, jnp.zeros((1, 1), jnp.int32))['params']
    if task is None:
        return params
    return {**params, **heads.declare_head(task, config, jax.random.fold_in(key, 1))}


def declare_params(config: ModelConfig, task: TaskConfig | None = None) -> Any:
    """Declare the parameters: abstract arrays, each boxed with its logical axes and role."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), task))


def make_param_layout(config: ModelConfig, policy: ShardingPolicy, like: Any = None) -> ParamLayout:
    """Choose the form in which the loss takes the parameters.

    Layers stay stacked for a `lax.scan` or a pipeline, and are unstacked for an unrolled loop.

    Args:
      config: the model's config.
      policy: the sharding policy of the loss.
      like: the trainable parameters or their shapes; None: all are trainable.
    """
    if config.scan_layers or policy.group('N').size > 1:
        return STACKED
    return ParamLayout(
        unstack=lambda params: partition.unstack(params, config.layers),
        stack=lambda gradients: partition.stack(gradients, config.layers, like),
    )


def make_abstract_batch(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe the batches that `shard_batches` yields: shapes, dtypes and shardings."""
    from gpt_jax.tasks import encoding  # pre-training does not import the tasks

    text_fields = (
        encoding.TEXT_FIELDS if config.data.packing == 'isolate' else ('inputs', 'targets')
    )
    names = encoding.BATCH_FIELDS.get(config.task.kind, text_fields)
    dtypes = {name: encoding.FIELD_DTYPES.get(name, jnp.int32) for name in names}
    if mesh.shape['context'] > 1:
        dtypes['positions'] = jnp.int32
    shape = config.train.batch_size, config.model.context
    sharding = NamedSharding(mesh, mesh_layout.make_batch_spec(mesh))
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }


# Options of XLA's TPU compiler, measured in experiments/preflight/.
TPU_KINDS = ('TPU v5', 'TPU v5 lite', 'TPU v6 lite')
# More vector memory for matrix products: with larger tiles, the feed-forward layers of a 354M step
# are a fifth faster.
TPU_MEMORY_OPTIONS = {'xla_tpu_scoped_vmem_limit_kib': '65536'}
# All-gathers of parameters during matrix products: a 13B step on 512 chips is a seventh shorter.
TPU_OVERLAP_OPTIONS = dict.fromkeys(
    (
        'xla_enable_async_all_gather',
        'xla_tpu_enable_async_collective_fusion',
        'xla_tpu_enable_async_collective_fusion_fuse_all_gather',
        'xla_tpu_enable_async_collective_fusion_multiple_steps',
        'xla_tpu_overlap_compute_collective_tc',
    ),
    'true',
)


def get_compiler_options(device_kind: str) -> dict[str, str] | None:
    """Return XLA options for a training step on this JAX device kind; None: no options."""
    return TPU_MEMORY_OPTIONS | TPU_OVERLAP_OPTIONS if device_kind in TPU_KINDS else None
