"""How does a run lie on its devices? From a mesh's config and a model to shardings, collectives and each one's rows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax import schema
from gpt_jax.model.config import ModelConfig
from gpt_jax.model.long import order
from gpt_jax.parallel import mesh as meshes
from gpt_jax.parallel import place
from gpt_jax.parallel.mesh import AUTO, Demands, MeshConfig, Needs
from gpt_jax.parallel.place import Placement
from gpt_jax.parallel.rules import AXES, CUT, STRATEGIES, Strategy
from gpt_jax.parallel.team import Team
from gpt_jax.train.config import TrainConfig
from gpt_jax.train.state import Weights
from gpt_jax.train.step import Layout

STATE_BYTES = 16  # of a parameter in training: itself, its gradient and two moments, float32 each


class Lie(NamedTuple):
    """A mesh, and how the run uses it.

    why: of a mesh that was chosen here, in a sentence; '' where the config gives it. rows: the number of devices that
    have their own rows of the batch. microbatches: that a device takes its rows in, outside the model.
    """

    mesh: Mesh
    strategy: Strategy
    why: str
    long: str
    rows: int
    microbatches: int
    stage_rows: int


def demands(model: ModelConfig, train: TrainConfig) -> Demands:
    """What a mesh must divide. The vocabulary only where it is known: more than one token."""
    letters = {
        'H': model.heads, 'G': model.kv_heads, 'F': model.mlp_width, 'U': model.dims['U'], 'E': model.experts,
        'N': model.layers, 'L': model.context,
        'V': model.dims['V'] if model.vocab_size > 1 else 0,
    }  # fmt: skip
    batches = {'train.batch': train.batch, 'train.evaluate_batch': train.evaluation_batch}
    return Demands(batches=batches, dims={letter: size for letter, size in letters.items() if size})


def lie(
    config: MeshConfig, model: ModelConfig, train: TrainConfig, parameters: int, given: Sequence[Any] | None = None
) -> Lie:
    """Finds the mesh.

    Args:
      parameters: of the model; what 'auto' goes by.
      given: the devices to be used; None: all there are.

    Raises:
      UserError: names the field, and the nearest mesh that works.
    """
    wanted, why = demands(model, train), ''
    if config.strategy == AUTO:
        devices = jax.devices() if given is None else given
        needs = Needs(state=STATE_BYTES * parameters, memory=_memory(devices[0]))
        config, why = meshes.automatic(config, wanted, needs, len(devices))
    mesh = meshes.make_mesh(config, wanted, given)
    rows, pipeline = place.ways(CUT['B'], mesh), mesh.shape['pipeline']
    if config.long == 'ring' and mesh.shape['context'] > 1:
        schema.require(
            model.attention_kernel == 'chunked',
            'mesh.long',
            f'ring attends with a kernel of its own, and would leave model.attention_kernel={model.attention_kernel} '
            'out; all_to_all uses it, or take chunked',
        )
    if config.long == 'all_to_all':
        context = mesh.shape['context']
        heads = model.heads // mesh.shape['tensor']
        groups = max(1, model.kv_heads // mesh.shape['tensor'])
        schema.require(
            heads % context == 0 and (groups % context == 0 or context % groups == 0),
            'mesh.long',
            f'all_to_all gives each of the {context} devices of mesh.context some of {heads} heads and {groups} groups '
            'of them, which does not come out even; ring does not ask for it',
        )
    return Lie(
        mesh, STRATEGIES[config.strategy], why, config.long, rows,
        microbatches=1 if pipeline > 1 else train.microbatches(rows),
        stage_rows=_stage_rows(train, rows, pipeline),
    )  # fmt: skip


def _stage_rows(train: TrainConfig, rows: int, pipeline: int) -> int:
    """Rows of a microbatch of the pipeline; where the config leaves it open, four microbatches for each stage."""
    together = train.batch // rows * pipeline
    wanted = train.microbatch or max(1, together // (4 * pipeline))
    return max(n for n in range(1, min(wanted, together) + 1) if together % n == 0)


def _memory(device: Any) -> int:
    if device.platform == 'cpu':
        return 0  # it is the machine's, and not this device's alone
    return int((device.memory_stats() or {}).get('bytes_limit', 0))


def placement(lie: Lie) -> Placement:
    """Of the model in a step."""
    return place.manual(lie.strategy, lie.mesh, lie.long, lie.stage_rows)


def of_step(lie: Lie, abstract: Weights, letters: Weights) -> Layout | None:
    """How the step lies there; None where there is one device."""
    mesh, strategy = lie.mesh, lie.strategy
    if mesh.size == 1:
        return None
    shapes = jax.tree.map(lambda a: a.shape, abstract, is_leaf=lambda a: hasattr(a, 'shape'))
    stored = jax.tree.map(
        lambda word, shape: place.axes_of(word, shape, strategy, mesh), letters, shapes,
        is_leaf=lambda node: isinstance(node, str),
    )  # fmt: skip
    is_cut = lambda node: isinstance(node, tuple)  # noqa: E731
    everywhere = tuple(axis for axis in AXES if mesh.shape[axis] > 1)
    at_once = strategy.spread and not strategy.by_layer

    def whole(shares: Weights) -> Weights:
        if not at_once:
            return shares
        gather = lambda share, cut: _over(share, cut, strategy, mesh, lambda t, a, dim: t.gather(a, dim))  # noqa: E731
        return jax.tree.map(gather, shares, stored)

    def scattered(gradients: Any) -> Any:
        if at_once:
            scatter = lambda g, cut: _over(g, cut, strategy, mesh, lambda t, a, dim: t.scatter(a, dim))  # noqa: E731
            gradients = jax.tree.map(scatter, gradients, stored.trained)
        leaves, structure = jax.tree.flatten(gradients)
        cuts: Any = structure.flatten_up_to(stored.trained)  # type: ignore[attr-defined]
        rest = [tuple(axis for axis in everywhere if axis not in sum(cut, ())) for cut in cuts]
        for axes in dict.fromkeys(rest):  # one collective for all that are summed over the same devices
            chosen = [n for n, other in enumerate(rest) if other == axes]
            sums = Team(axes, place.ways(axes, mesh)).sum([leaves[n] for n in chosen])
            for n, total in zip(chosen, sums, strict=True):
                leaves[n] = total
        return jax.tree.unflatten(structure, leaves)

    return Layout(
        mesh=mesh, specs=jax.tree.map(place.spec, stored, is_leaf=is_cut), batch=batch_spec(mesh),
        whole=whole, scattered=scattered, tokens=place.team('BL', mesh), everyone=Team(everywhere, mesh.size),
    )  # fmt: skip


def _over(a: jax.Array, cut: Any, strategy: Strategy, mesh: Mesh, move: Any) -> jax.Array:
    for dim, axes in enumerate(cut):
        spread = tuple(axis for axis in axes if axis in strategy.spread)
        if spread:
            return jnp.asarray(move(Team(spread, place.ways(spread, mesh)), a, dim))
    return a


def batch_spec(mesh: Mesh) -> PartitionSpec:
    """Of tokens [B, L]."""
    return PartitionSpec(place.team('B', mesh).axes or None, place.team('L', mesh).axes or None)


def share(mesh: Mesh) -> tuple[int, int]:
    """(which part of the batch's rows this process's devices take, of how many parts)."""
    return part_of(mesh, jax.process_index())


def part_of(mesh: Mesh, process: int) -> tuple[int, int]:
    """The same of any process. Several processes may take the same rows, where other axes lie between them."""
    axes = [AXES.index(axis) for axis in CUT['B']]
    others = [n for n in range(len(AXES)) if n not in axes]
    devices = np.transpose(mesh.devices, (*axes, *others)).reshape(place.ways(CUT['B'], mesh), -1)
    mine = [n for n, row in enumerate(devices) if any(device.process_index == process for device in row)]
    parts = len(devices) // len(mine)
    first = mine[0] // len(mine)
    schema.require(
        len(devices) % len(mine) == 0 and mine == list(range(first * len(mine), (first + 1) * len(mine))),
        'mesh',
        'the devices of one process do not hold rows of the batch that lie together; put the axes that share rows last',
    )
    return first, parts


ASKED = ('places', 'asked')  # of a batch that is scored: places of the text, and what is asked there


def on_devices(batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, long: str) -> Iterator[dict[str, jax.Array]]:
    """This process's rows -> global arrays, each text in the order in which the devices hold it."""
    sharding, context = NamedSharding(mesh, batch_spec(mesh)), mesh.shape['context']
    parts = share(mesh)[1]
    for batch in batches:
        count, length = batch['inputs'].shape
        if context > 1:
            ordered = order(length, context, long)
            positions = np.broadcast_to(np.arange(length, dtype=np.int32), batch['inputs'].shape)
            batch = {'positions': positions} | batch
            batch = {name: rows if name in ASKED else rows[:, ordered] for name, rows in batch.items()}
            if 'places' in batch:
                batch['places'] = np.argsort(ordered).astype(np.int32)[batch['places']]
        yield {
            name: jax.make_array_from_process_local_data(sharding, rows, (count * parts, rows.shape[1]))
            for name, rows in batch.items()
        }
