"""Vectorized training: several runs of equal shape in one program, by `vmap` over the step.

A small model leaves a device mostly idle; several at once keep it busy. With several devices, each
trains some of the runs, so the devices do not communicate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.core.config import Config
from gpt_jax.finetune.trainable import Partitioner
from gpt_jax.model import weights
from gpt_jax.parallel.sharding import UNSHARDED
from gpt_jax.train.build import declare_params, init_params, make_param_layout
from gpt_jax.train.objective import make_loss
from gpt_jax.train.step import State, create_state, make_step

RUNS_AXIS = 'runs'  # a mesh axis of this module only; no model or rule refers to it


class VmappedRuns(NamedTuple):
    """Jitted functions on arrays [runs, ...] distributed over `mesh`.

    init: (seeds) -> states.
    step: (states, batches, seeds, learning rates) -> (states, metrics); donates the states.
    """

    mesh: Mesh
    init: Any
    step: Any


def build_vmapped_runs(config: Config, runs: int) -> VmappedRuns:
    """Build `runs` copies of a run that differ in seed and learning rate.

    They use the largest number of local devices that divides `runs`.
    """
    boxed = declare_params(config.model)
    partitioner = Partitioner(config.finetune, config.model, boxed, config.seed)
    param_layout = make_param_layout(config.model, UNSHARDED, partitioner.abstract.trainable)

    def init(seed: jax.Array) -> State:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params = weights.unbox(init_params(config.model, key))
        optimizer, _ = partitioner.make_optimizer(config.optimizer, config.steps)
        return create_state(partitioner.partition(params), optimizer)

    def step(state: State, batch: Any, seed: jax.Array, learning_rate: jax.Array) -> Any:
        optimizer, schedule = partitioner.make_optimizer(
            config.optimizer, config.steps, learning_rate
        )
        run_step = make_step(
            make_loss(config.model, UNSHARDED, train=True),
            optimizer,
            schedule,
            sharding=None,
            microbatches=config.train.microbatches(1),
            clip_norm=config.optimizer.grad_clip_norm,
            seed=seed,
            param_layout=param_layout,
            combine=partitioner.combine_with_dropout,
        )
        return run_step(state, batch)

    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if runs % n == 0)
    mesh = Mesh(devices[:count], (RUNS_AXIS,))
    spec = PartitionSpec(RUNS_AXIS)

    def map_runs(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.shard_map(
            jax.vmap(function), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )

    sharding = NamedSharding(mesh, spec)
    return VmappedRuns(
        mesh=mesh,
        init=jax.jit(map_runs(init), out_shardings=sharding),
        step=jax.jit(map_runs(step), donate_argnums=0, out_shardings=sharding),
    )


def select_run(states: Any, run: int) -> Any:
    """Select the state of one run."""
    return jax.tree.map(lambda a: a[run], states)


def stack_states(states: list[Any], mesh: Mesh) -> Any:
    """Stack the states of all runs and distribute them over `mesh`; inverts `select_run`."""
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack([jax.device_get(leaf) for leaf in leaves]), *states
    )
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(RUNS_AXIS)))
