"""Where does each tensor live, and how does it get to where it is used? From its letters and the tables of rules.py.

A step of training is one program per device (`manual`): each has its shares, and says itself when they are gathered,
exchanged or summed. Reading and writing texts is one program that XLA cuts (`constrained`).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.parallel.rules import AXES, CUT, SPREAD_DIMS, Strategy
from gpt_jax.parallel.team import ALONE, Team

GATHERED = 'gathered'  # names the weights that came from other devices, which the backward pass asks for again


class Placement(NamedTuple):
    """How a model places its tensors without naming a mesh axis.

    activation: (tensor, its letters) -> the tensor, placed.
    weight: (its stored share, its letters, the shape of the whole, the type it is wanted in) -> the part that this
      device computes with.
    apart: makes of a function (a tensor [B, ...], weights) -> (a tensor [B, ...], scalars) one that each device runs
      on its own rows of the batch; the scalars are averaged.
    team: letters -> the devices over which any of these dims is cut.
    keeps: what the backward pass may keep, as a policy of jax.checkpoint: not the weights that came from other
      devices, of which it would keep all layers'. None: all.
    long: how attention goes over the devices that share a text: a word of model/long.py.
    rows: of the batch that a stage of the pipeline takes at a time.
    """

    activation: Callable[[jax.Array, str], jax.Array]
    weight: Callable[[jax.Array, str, tuple[int, ...], Any], jax.Array]
    apart: Callable[[Callable[..., Any]], Callable[..., Any]]
    team: Callable[[str], Team]
    keeps: Callable[..., bool] | None
    long: str
    rows: int


def _stays(tensor: jax.Array, *_: Any) -> jax.Array:
    return tensor


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


ANYWHERE = Placement(_stays, _stays, _same, lambda _: ALONE, keeps=None, long='', rows=0)


def team(letters: str, mesh: Mesh) -> Team:
    """The devices over which any of the dims is cut."""
    named = {axis for letter in letters for axis in CUT.get(letter, ())}
    axes = tuple(axis for axis in AXES if axis in named and mesh.shape[axis] > 1)
    return Team(axes, ways(axes, mesh))


def ways(axes: Sequence[str], mesh: Mesh) -> int:
    """The devices along these axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def axes_of(letters: str, shape: Sequence[int], strategy: Strategy, mesh: Mesh) -> tuple[tuple[str, ...], ...]:
    """For each dim of a stored weight the mesh axes that cut it, the slowest first."""
    cut = [_dividing(_of_weights(letter), size, mesh) for letter, size in zip(letters, shape, strict=True)]
    spread = tuple(axis for axis in strategy.spread if mesh.shape[axis] > 1)
    if spread and len(set(letters) - {'N', 'K'}) > 1:
        for letter in SPREAD_DIMS:
            n = letters.find(letter)
            if n >= 0 and shape[n] % ways((*cut[n], *spread), mesh) == 0:
                cut[n] = (*cut[n], *spread)
                break
    return tuple(cut)


def _of_weights(letter: str) -> tuple[str, ...]:
    return () if letter == 'L' else CUT.get(letter, ())  # a table of positions is whole: everyone may want any of them


def _dividing(axes: tuple[str, ...], size: int, mesh: Mesh) -> tuple[str, ...]:
    axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
    return axes if size % ways(axes, mesh) == 0 else ()


def spec(cut: Sequence[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(axes or None for axes in cut))


def weight_specs(abstract: Any, letters: Any, strategy: Strategy, mesh: Mesh) -> Any:
    """The tree of how weights (and anything of their shape) are stored between steps."""
    return jax.tree.map(lambda a, l: spec(axes_of(l, a.shape, strategy, mesh)), abstract, letters)


def weight_shardings(abstract: Any, letters: Any, strategy: Strategy, mesh: Mesh) -> Any:
    """The same as shardings."""
    specs = weight_specs(abstract, letters, strategy, mesh)
    return jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, PartitionSpec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gathered(share: jax.Array, team: Team, dim: int, dtype: Any) -> jax.Array:
    """The whole of a weight in `dtype`, of shares along `dim`. Gradients are summed in float32."""
    return team.gather(share.astype(dtype), dim)


def _gathered_backward(team: Team, dim: int, dtype: Any, empty: jax.Array, dw: jax.Array) -> tuple[jax.Array]:
    del dtype
    return (team.scatter(dw.astype(jnp.float32), dim).astype(empty.dtype),)


def _gathered_forward(share: jax.Array, team: Team, dim: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    # Not `gathered` itself: a rematerialization policy does not look into a function with a gradient of its own.
    return team.gather(share.astype(dtype), dim), jnp.zeros(0, share.dtype)


gathered.defvjp(_gathered_forward, _gathered_backward)


def whole(share: jax.Array, letters: str, shape: Sequence[int], dtype: Any, strategy: Strategy, mesh: Mesh) -> Any:
    """A stored share with what the strategy spreads gathered; what CUT cuts stays cut."""
    for dim, axes in enumerate(axes_of(letters, shape, strategy, mesh)):
        spread = tuple(axis for axis in axes if axis in strategy.spread)
        if spread:
            return checkpoint_name(gathered(share, Team(spread, ways(spread, mesh)), dim, dtype), GATHERED)
    return share


def manual(strategy: Strategy, mesh: Mesh, long: str, rows: int) -> Placement:
    """For a program of one device, inside shard_map over the whole mesh. `long` and `rows` as in Placement."""
    if mesh.size == 1:
        return ANYWHERE
    spread = tuple(axis for axis in strategy.spread if mesh.shape[axis] > 1)
    gathers = strategy.by_layer and spread

    def keeps(primitive: Any, *_: Any, **parameters: Any) -> bool:
        came = primitive.name == 'all_gather' and parameters['axis_name'] == spread
        return not came and parameters.get('name') != GATHERED

    def weight(share: jax.Array, letters: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return whole(share, letters, shape, dtype, strategy, mesh)

    return ANYWHERE._replace(
        weight=weight if gathers else _stays,
        keeps=keeps if gathers else None,
        team=lambda letters: team(letters, mesh),
        long=long,
        rows=rows,
    )


def constrained(mesh: Mesh) -> Placement:
    """For a program that XLA cuts: constraints, so that nothing is left to guess."""
    if mesh.size == 1:
        return ANYWHERE

    def constrain(tensor: jax.Array, letters: str, shape: Sequence[int]) -> jax.Array:
        cut = [_dividing(_of_weights(letter), size, mesh) for letter, size in zip(letters, shape, strict=True)]
        return jax.lax.with_sharding_constraint(tensor, NamedSharding(mesh, spec(cut)))

    def apart(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(rows: jax.Array, weights: Any) -> Any:
            rows_team = team('B', mesh)
            if rows.shape[0] % rows_team.size or not rows_team.axes:
                return function(rows, weights)

            def local(rows: jax.Array, weights: Any) -> Any:
                activations, scalars = function(rows, weights)
                return activations, rows_team.mean(scalars)

            cut, everywhere = PartitionSpec(rows_team.axes), PartitionSpec()
            return jax.shard_map(
                local, mesh=mesh, in_specs=(cut, everywhere), out_specs=(cut, everywhere),
                axis_names=set(rows_team.axes), check_vma=False,
            )(rows, weights)  # fmt: skip

        return run

    return ANYWHERE._replace(
        activation=lambda tensor, letters: constrain(tensor, letters, tensor.shape),
        weight=lambda tensor, letters, shape, _: constrain(tensor, letters, shape),
        apart=apart,
    )
