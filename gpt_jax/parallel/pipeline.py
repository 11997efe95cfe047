"""How do devices that each hold some of the layers work at once? On different microbatches (Huang et al. 2019)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpt_jax.parallel.team import Team

Stage = Callable[[Any, jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def piped(
    stage: Stage, params: Any, x: jax.Array, beside: Any, *, team: Team, rows: int
) -> tuple[jax.Array, Any]:  # fmt: skip
    """All stages one after the other, device i of the team being stage i.

    Each device comes with its own rows of the batch and leaves with the same rows. In between all rows go through in m
    microbatches: at tick t, stage i works on microbatch t - i. So of m + stages - 1 ticks, stages - 1 are idle for each
    device: the bubble is (stages - 1) / (m + stages - 1). The backward pass runs the ticks the other way round.

    Args:
      stage: (its params, x of a microbatch, what is beside it, the microbatch's number) -> (x, what is known of it).
      params: of this device's stage.
      x: [rows of this device, ...]; every stage leaves the shape as it is.
      beside: a tree of what each microbatch needs at every stage, [rows of this device, ...]; not differentiated.
      rows: of a microbatch; divides the team's rows together.

    Returns:
      x after the last stage, and the mean over the microbatches of what this device's stage knows.
    """
    cut = lambda a: team.gather(a, 0).reshape(-1, rows, *a.shape[1:])  # noqa: E731
    parts, beside = cut(x), jax.tree.map(cut, beside)
    count, index = len(parts), team.index()

    def tick(received: jax.Array, now: jax.Array) -> tuple[jax.Array, Any]:
        number = now - index
        safe = jnp.clip(number, 0, count - 1)
        taken = jnp.where(index == 0, parts[safe], received)
        y, known = stage(params, taken, jax.tree.map(lambda a: a[safe], beside), safe)
        works = (number >= 0) & (number < count)
        return team.rotate(y), (y, jax.tree.map(lambda a: jnp.where(works, a, 0) / count, known))

    ticks = jnp.arange(count + team.size - 1)
    _, (each, known) = jax.lax.scan(tick, jnp.zeros_like(parts[0]), ticks)
    last = jnp.where(index == team.size - 1, each[team.size - 1 :], 0)
    y = team.scatter(last.reshape(-1, *x.shape[1:]), 0)
    return y, jax.tree.map(lambda a: jnp.sum(a, axis=0), known)
