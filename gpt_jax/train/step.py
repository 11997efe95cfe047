"""One update of the parameters as a pure function: step(state, batch) -> (state, metrics).

`make_step` takes its ingredients as functions: the loss (objective.py), the optimizer (optim/) and
the sharding (mesh_layout.py). build.py chooses them from the config; loop.py calls the result.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from gpt_jax.core import trees
from gpt_jax.finetune.partition import PartitionedParams
from gpt_jax.optim.transforms import clip_by_norm
from gpt_jax.parallel.axis_group import AxisGroup

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# (params, batch, dropout key) -> (summed objective, sums by name). The sums are scalars: 'weight',
# the number of targets; 'loss', in nats; and others, reported as means over the targets.
LossFn = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]


class State(struct.PyTreeNode):
    """Everything a run carries from step to step. `step` is also the number of the
    next batch, which the checkpoint's meta repeats as `next_batch`.

    step: int32, the number of updates attempted.
    params: the trainable parameters, which are all that the optimizer sees.
    opt_state: the optimizer's state.
    skipped_steps: int32, the number of updates skipped because they were not finite.
    skipped_in_row: int32, the number of consecutive skipped updates up to now.
    frozen: the parameters that no step changes; None if all are trainable.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped_steps: Any
    skipped_in_row: Any
    frozen: Any = None

    @property
    def partitioned(self) -> PartitionedParams:
        """Both parts of the model's parameters."""
        return PartitionedParams(self.params, self.frozen)


def create_state(params: PartitionedParams, optimizer: optax.GradientTransformation) -> State:
    """Create the state before the first update."""
    zero = lambda: jnp.zeros((), jnp.int32)  # one array for each field, since the state is donated
    return State(
        step=zero(),
        params=params.trainable,
        opt_state=optimizer.init(params.trainable),
        skipped_steps=zero(),
        skipped_in_row=zero(),
        frozen=params.frozen,
    )


class ParamLayout(NamedTuple):
    """Conversion between stored parameters and the form that the loss takes.

    Parameters are stored with the layers stacked along a leading dimension. A model whose layers
    are not in a `lax.scan` reads them faster as one tree per layer.

    unstack: stored parameters (trainable or frozen) -> the loss's form.
    stack: gradients in the loss's form -> the stored form.
    """

    unstack: Callable[[Any], Any]
    stack: Callable[[Any], Any]


STACKED = ParamLayout(unstack=lambda params: params, stack=lambda gradients: gradients)


class StepSharding(NamedTuple):
    """The sharding of a step over a mesh whose devices all run the same program.

    param_specs: PartitionSpecs of the stored parameters.
    batch_spec: PartitionSpec of every array of a batch.
    gather_params: a device's stored shards -> the parameters as the loss takes them.
    reduce_gradients: a device's gradients of the trainable parameters -> its shards of their sum
      over all devices.
    token_group: the devices that have different targets.
    device_group: all devices.
    """

    mesh: Mesh
    param_specs: PartitionedParams
    batch_spec: PartitionSpec
    gather_params: Callable[[PartitionedParams], PartitionedParams]
    reduce_gradients: Callable[[Any], Any]
    token_group: AxisGroup
    device_group: AxisGroup


def make_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    sharding: StepSharding | None,
    microbatches: int,
    clip_norm: float,
    seed: int | jax.Array,
    param_layout: ParamLayout,
    combine: Callable[[PartitionedParams], Any],
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Make the step, to be jitted with the state donated.

    Args:
      loss: its objective is differentiated with respect to the trainable parameters.
      optimizer: includes the learning rate.
      schedule: the learning rate by number of updates made; only reported here.
      sharding: None on a single device.
      microbatches: parts into which a device splits its share of the batch. Their gradients are
        summed on the device, so devices exchange gradients once per step.
      clip_norm: maximum global norm of the gradient; 0 disables clipping.
      seed: dropout at step k draws from fold_in(key(seed), k).
      param_layout: converts both parts of the parameters to the loss's form.
      combine: both parts in the loss's form -> the parameters that the loss takes.
    """
    sum_gradients: Callable[..., tuple[Metrics, Any]]
    sum_gradients = functools.partial(_sum_gradients, loss, combine, microbatches, param_layout)
    if sharding is not None:
        sum_gradients = _shard_over_mesh(sum_gradients, sharding)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        sums, gradients = sum_gradients(state.partitioned, batch, dropout_key)

        # Sums over the whole batch become means over its targets.
        target_count = sums.pop('weight')
        gradients = jax.tree.map(lambda g: g / target_count, gradients)
        metrics = {name: total / target_count for name, total in sums.items()}

        gradient_norm = trees.global_norm(gradients)
        gradients = clip_by_norm(gradients, gradient_norm, clip_norm)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        metrics['gradient_norm'] = gradient_norm
        metrics['parameter_norm'] = trees.global_norm(params)
        updates_made = state.step - state.skipped_steps
        metrics['learning_rate'] = jnp.asarray(schedule(updates_made), jnp.float32)

        updated = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(gradient_norm)
        state = skip_nonfinite_update(updated, state, finite)
        metrics['skipped_steps'] = state.skipped_steps
        metrics['skipped_in_row'] = state.skipped_in_row
        return state, metrics

    return step


def skip_nonfinite_update(updated: State, previous: State, finite: jax.Array) -> State:
    """Return `updated` if `finite`, else `previous` with the step counted as skipped.

    It selects instead of multiplying by 0, since 0 x NaN is NaN. The optimizer's state is selected
    as well.
    """
    state: State = jax.tree.map(
        lambda new, old: new if new is old else jnp.where(finite, new, old), updated, previous
    )
    skipped = jnp.where(finite, 0, 1).astype(jnp.int32)
    return state.replace(
        step=updated.step,
        skipped_steps=previous.skipped_steps + skipped,
        skipped_in_row=(previous.skipped_in_row + skipped) * skipped,
    )


def _sum_gradients(
    loss: LossFn,
    combine: Callable[[PartitionedParams], Any],
    microbatches: int,
    param_layout: ParamLayout,
    params: PartitionedParams,
    batch: Batch,
    dropout_key: jax.Array,
) -> tuple[Metrics, Any]:
    """Return (the loss's sums, gradients of the summed objective), added up over microbatches."""
    trainable = param_layout.unstack(params.trainable)
    frozen = param_layout.unstack(params.frozen)

    def loss_of_trainable(trainable: Any, batch: Batch, key: jax.Array) -> Any:
        return loss(combine(PartitionedParams(trainable, frozen)), batch, key)

    value_and_grad = jax.value_and_grad(loss_of_trainable, has_aux=True)
    if microbatches == 1:
        (_, sums), gradients = value_and_grad(trainable, batch, dropout_key)
        return sums, param_layout.stack(gradients)

    # [batch, ...] -> [microbatches, batch / microbatches, ...]
    split = jax.tree.map(lambda a: a.reshape(microbatches, -1, *a.shape[1:]), batch)

    def add_microbatch(totals: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, microbatch = inputs
        key = jax.random.fold_in(dropout_key, index)
        (_, sums), gradients = value_and_grad(trainable, microbatch, key)
        return jax.tree.map(jnp.add, totals, (sums, gradients)), None

    first = jax.tree.map(lambda a: a[0], split)
    (_, sums), _ = jax.eval_shape(value_and_grad, trainable, first, dropout_key)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (sums, trainable))
    (sums, gradients), _ = jax.lax.scan(add_microbatch, zeros, (jnp.arange(microbatches), split))
    return sums, param_layout.stack(gradients)


def _shard_over_mesh(
    sum_gradients: Callable[..., Any], sharding: StepSharding
) -> Callable[..., Any]:
    """Run `sum_gradients` on each device's share of the batch and add up the results."""

    def run_on_device(shards: PartitionedParams, batch: Batch, dropout_key: jax.Array) -> Any:
        key = jax.random.fold_in(dropout_key, sharding.device_group.index())
        sums, gradients = sum_gradients(sharding.gather_params(shards), batch, key)
        return sharding.token_group.sum(sums), sharding.reduce_gradients(gradients)

    replicated = PartitionSpec()
    return jax.shard_map(
        run_on_device,
        mesh=sharding.mesh,
        in_specs=(sharding.param_specs, sharding.batch_spec, replicated),
        out_specs=(replicated, sharding.param_specs.trainable),
        check_vma=False,
    )


def make_eval_step(
    loss: LossFn, *, sharding: StepSharding | None
) -> Callable[[Any, Batch], tuple[jax.Array, jax.Array]]:
    """Make (params, batch) -> (summed loss in nats, summed weight of the targets)."""

    def sum_loss(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        no_dropout = jax.random.key(0)
        _, sums = loss(params, batch, no_dropout)
        return sums['loss'], sums['weight']

    if sharding is None:
        return sum_loss
    token_group = sharding.token_group
    return _shard_function(
        lambda params, batch: token_group.sum(sum_loss(params, batch)), sharding, PartitionSpec()
    )


def make_score_step(
    score: Callable[[Any, Batch], Any], *, sharding: StepSharding | None
) -> Callable[[Any, Batch], Any]:
    """Make (params, batch) -> the scores of each position: one or several arrays [B, L, ...]."""
    return score if sharding is None else _shard_function(score, sharding, sharding.batch_spec)


def _shard_function(
    function: Callable[[Any, Batch], Any], sharding: StepSharding, out_specs: PartitionSpec
) -> Callable[[Any, Batch], Any]:
    """Run a function of params and batch on each device; its params have no frozen part."""

    def run_on_device(shards: Any, batch: Batch) -> Any:
        params = sharding.gather_params(PartitionedParams(shards, None)).trainable
        return function(params, batch)

    return jax.shard_map(
        run_on_device,
        mesh=sharding.mesh,
        in_specs=(sharding.param_specs.trainable, sharding.batch_spec),
        out_specs=out_specs,
        check_vma=False,
    )
