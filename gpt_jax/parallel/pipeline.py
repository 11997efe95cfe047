"""Pipeline parallelism: each device holds some of the layers (GPipe; Huang et al. 2019)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.parallel.axis_group import AxisGroup

# (params of the stage, x of a microbatch, its side inputs, its index) -> (x, statistics)
StageFn = Callable[[Any, jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def run_pipeline(
    stage: StageFn,
    params: Any,
    x: jax.Array,
    side_inputs: Any,
    *,
    group: AxisGroup,
    microbatch_rows: int,
) -> tuple[jax.Array, Any]:
    """Run all stages in sequence, device i of the group being stage i.

    Each device starts and ends with its own rows of the batch. In between, all rows pass through
    every stage in m microbatches: at tick t, stage i processes microbatch t - i. Each device is
    idle for stages - 1 of the m + stages - 1 ticks, so the bubble is (stages - 1) /
    (m + stages - 1). The backward pass runs the ticks in reverse.

    Args:
      stage: one stage; must not change the shape of x.
      params: the parameters of this device's stage.
      x: [rows of this device, ...].
      side_inputs: a tree of further inputs of each microbatch at every stage, [rows of this device,
        ...]; not differentiated.
      group: the devices of the pipeline.
      microbatch_rows: must divide the group's total rows.

    Returns:
      x after the last stage, and the mean over microbatches of this device's statistics.
    """
    split = lambda a: group.all_gather(a, 0).reshape(-1, microbatch_rows, *a.shape[1:])
    microbatches, side_inputs = split(x), jax.tree.map(split, side_inputs)
    count, index = len(microbatches), group.index()

    def run_tick(received: jax.Array, tick: jax.Array) -> tuple[jax.Array, Any]:
        number = tick - index
        in_range = jnp.clip(number, 0, count - 1)
        x = jnp.where(index == 0, microbatches[in_range], received)
        y, statistics = stage(params, x, jax.tree.map(lambda a: a[in_range], side_inputs), in_range)
        is_active = (number >= 0) & (number < count)
        statistics = jax.tree.map(lambda a: jnp.where(is_active, a, 0) / count, statistics)
        return group.ppermute(y), (y, statistics)

    ticks = jnp.arange(count + group.size - 1)
    _, (outputs, statistics) = jax.lax.scan(run_tick, jnp.zeros_like(microbatches[0]), ticks)
    last_stage = jnp.where(index == group.size - 1, outputs[group.size - 1 :], 0)
    y = group.reduce_scatter(last_stage.reshape(-1, *x.shape[1:]), 0)
    return y, jax.tree.map(lambda a: jnp.sum(a, axis=0), statistics)
