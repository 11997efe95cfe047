"""What happens in one update? A pure function (state, batch) -> (state, metrics)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from gpt_jax import trees
from gpt_jax.optim.updates import clip
from gpt_jax.parallel.team import Team
from gpt_jax.train.guard import keep_if_finite
from gpt_jax.train.state import State, Weights

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
# (params in the loss's form, batch, dropout key) -> (summed objective, sums by name: 'weight' of the targets, 'loss' in
# nats, and whatever else is to be known as a mean over the targets)
Loss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Metrics]]


class Form(NamedTuple):
    """The form in which a loss wants the params, trained or kept: `enter` makes it once a step, `leave` takes gradients
    out of it."""

    enter: Callable[[Any], Any]
    leave: Callable[[Any], Any]


AS_STORED = Form(enter=lambda params: params, leave=lambda gradients: gradients)


class Layout(NamedTuple):
    """How a step lies on a mesh.

    specs: of the stored weights. batch: of every array of a batch. whole: (stored shares, in a device's program) -> the
    weights as the loss wants them. scattered: (gradients of what is trained) -> each share's sum over the devices that
    took it for theirs. tokens: the devices that have different targets. everyone: all devices.
    """

    mesh: Mesh
    specs: Weights
    batch: PartitionSpec
    whole: Callable[[Weights], Weights]
    scattered: Callable[[Any], Any]
    tokens: Team
    everyone: Team


def make_step(
    loss: Loss, transformation: optax.GradientTransformation, rate: optax.Schedule, *,
    layout: Layout | None, microbatches: int, clip_norm: float, seed: int | jax.Array, form: Form,
    whole: Callable[[Weights], Any],
) -> Callable[[State, Batch], tuple[State, Metrics]]:  # fmt: skip
    """The step, to be jitted with the state donated.

    `whole` puts together, in the loss's form, what is trained and what is kept.

    Every device has one program (`layout`; None: there is one device), which cuts its share of the batch into
    `microbatches` and sums their gradients: so gradients cross between devices once a step.
    """
    gradients_of: Callable[..., Any] = functools.partial(_summed_gradients, loss, whole, microbatches, form)
    if layout is not None:
        gradients_of = _on_every_device(gradients_of, layout)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        sums, gradients = gradients_of(state.weights, batch, key)
        count = sums['weight']
        gradients = jax.tree.map(lambda g: g / count, gradients)
        norm = trees.global_norm(gradients)
        updates, optimizer = transformation.update(clip(gradients, norm, clip_norm), state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: total / count for name, total in sums.items() if name != 'weight'} | {
            'gradient_norm': norm,
            'parameter_norm': trees.global_norm(params),
            'learning_rate': jnp.asarray(rate(state.step - state.skipped), jnp.float32),  # skipped steps do not count
        }
        updated = state.replace(step=state.step + 1, params=params, optimizer=optimizer)
        state = keep_if_finite(updated, state, jnp.isfinite(metrics['loss']) & jnp.isfinite(norm))
        return state, metrics | {'skipped_steps': state.skipped, 'skipped_in_row': state.in_row}

    return step


def make_evaluation(loss: Loss, *, layout: Layout | None) -> Callable[[Any, Batch], tuple[jax.Array, jax.Array]]:
    """(params, batch) -> (summed loss in nats, summed weight of the targets)."""

    def sums_of(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        _, sums = loss(params, batch, jax.random.key(0))
        return sums['loss'], sums['weight']

    if layout is None:
        return sums_of

    def local(shares: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return layout.tokens.sum(sums_of(layout.whole(Weights(shares, None)).trained, batch))

    specs, everywhere = layout.specs.trained, PartitionSpec()
    return jax.shard_map(local, mesh=layout.mesh, in_specs=(specs, layout.batch), out_specs=everywhere, check_vma=False)


def make_reading(read: Callable[[Any, Batch], Any], *, layout: Layout | None) -> Callable[[Any, Batch], Any]:
    """(params, batch) -> what `read` finds at every place of the batch: [B, L, ...], one array or several."""
    if layout is None:
        return read
    return jax.shard_map(
        lambda shares, batch: read(layout.whole(Weights(shares, None)).trained, batch),
        mesh=layout.mesh, in_specs=(layout.specs.trained, layout.batch), out_specs=layout.batch, check_vma=False,
    )  # fmt: skip


def _summed_gradients(
    loss: Loss, whole: Callable[[Weights], Any], microbatches: int, form: Form, weights: Weights, batch: Batch,
    key: jax.Array,
) -> tuple[Metrics, Any]:  # fmt: skip
    """Sums over microbatches: (the loss's sums, gradients of the summed objective by what is trained)."""
    trained, kept = form.enter(weights.trained), form.enter(weights.kept)

    def of_trained(trained: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return loss(whole(Weights(trained, kept)), batch, key)

    value_and_grad = jax.value_and_grad(of_trained, has_aux=True)
    if microbatches == 1:
        (_, sums), gradients = value_and_grad(trained, batch, key)
        return sums, form.leave(gradients)
    parts = jax.tree.map(lambda a: a.reshape(microbatches, -1, *a.shape[1:]), batch)

    def add(totals: Any, inputs: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, part = inputs
        (_, sums), gradients = value_and_grad(trained, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, totals, (sums, gradients)), None

    (_, sums), _ = jax.eval_shape(value_and_grad, trained, jax.tree.map(lambda a: a[0], parts), key)
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (sums, trained))
    (sums, gradients), _ = jax.lax.scan(add, start, (jnp.arange(microbatches), parts))
    return sums, form.leave(gradients)


def _on_every_device(gradients_of: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """Runs `gradients_of` on each device's share of the batch, and sums what comes out over the devices."""

    def local(shares: Weights, batch: Batch, key: jax.Array) -> Any:
        key = jax.random.fold_in(key, layout.everyone.index())
        sums, gradients = gradients_of(layout.whole(shares), batch, key)
        return layout.tokens.sum(sums), layout.scattered(gradients)

    everywhere = PartitionSpec()
    return jax.shard_map(
        local, mesh=layout.mesh, in_specs=(layout.specs, layout.batch, everywhere),
        out_specs=(everywhere, layout.specs.trained), check_vma=False,
    )  # fmt: skip
