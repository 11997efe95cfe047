"""How do several runs of one shape share a device? One step over a leading dim of runs; pure, like the step itself.

A small model leaves a device mostly waiting between operations; several at once fill it. On several devices each takes
its own share of the runs, so that nothing crosses between them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'runs'  # the mesh axis; no model or rule knows it


class Many(NamedTuple):
    """Jitted functions over [runs, ...], the runs spread over `mesh`.

    init: (seeds) -> states.
    step: (states, batches, seeds, rates) -> (states, metrics), the states donated.
    """

    mesh: Mesh
    init: Any
    step: Any


def many(init: Callable[..., Any], step: Callable[..., Any], runs: int) -> Many:
    """Makes both of the functions of one run: init(seed) -> state, step(state, batch, seed, rate) -> (state, metrics).

    As many devices are used as divide `runs`.
    """
    devices = jax.local_devices()
    used = max(count for count in range(1, len(devices) + 1) if runs % count == 0)
    mesh = Mesh(devices[:used], (AXIS,))
    spread = PartitionSpec(AXIS)

    def over(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)

    return Many(
        mesh=mesh,
        init=jax.jit(over(init), out_shardings=NamedSharding(mesh, spread)),
        step=jax.jit(over(step), donate_argnums=0, out_shardings=NamedSharding(mesh, spread)),
    )


def pick(states: Any, run: int) -> Any:
    """The state of one run, of several."""
    return jax.tree.map(lambda a: a[run], states)


def many_states(states: list[Any], mesh: Mesh) -> Any:
    """The inverse of `pick`: the states of all runs, spread over `mesh`."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jax.device_get(leaf) for leaf in leaves]), *states)
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(AXIS)))
