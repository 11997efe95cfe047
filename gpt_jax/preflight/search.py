"""Which mesh, rematerialization and microbatch are worth compiling? Closed forms prune and order them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from gpt_jax import assemble, layout
from gpt_jax.assemble import Settings
from gpt_jax.errors import UserError
from gpt_jax.model import memory, weights
from gpt_jax.model.config import REMAT
from gpt_jax.parallel import mesh as meshes
from gpt_jax.parallel.rules import AXES
from gpt_jax.preflight import flops
from gpt_jax.preflight.estimate import MATMUL
from gpt_jax.preflight.topology import Machine

ROOM = 0.95  # of a device's memory that the closed form may fill; it knows nothing of work in progress
TENSOR = 16  # devices that share tensors, at most: beyond, what they send each other outweighs what they save
COPY = 0.3  # of a chip's bandwidth that the TPU's compiler charges for what only moves (experiments/preflight/)
MOMENTS = 3  # the weights and Adam's two moments, float32


class Candidate(NamedTuple):
    """changes: fields of the config by their dotted names. bytes, seconds: of one device and a step, by closed forms:
    products at a usual share of the peak, and what is sent, not hidden."""

    changes: dict[str, Any]
    settings: Settings
    bytes: float
    seconds: float


def candidates(settings: Settings, one: Machine) -> tuple[list[Candidate], int]:
    """Those that may fit, the fastest first, and how many were pruned."""
    found, pruned, stored = [], 0, _stored(settings)
    kept: dict[tuple[str, int], int] = {}
    for changes in _all(settings, one.chips):
        try:
            changed = apply(settings, changes)
            meshes.sized(changed.mesh, layout.demands(changed.model, changed.train), one.chips)
        except UserError:
            pruned += 1
            continue
        rows = changed.train.microbatch
        key = (changed.model.remat, rows)
        if key not in kept:
            kept[key] = memory.activation_bytes(changed.model, rows)
        count = _bytes(changed, stored, kept[key], rows)
        if count > ROOM * one.chip.memory:
            pruned += 1
            continue
        found.append(Candidate(changes, changed, count, _seconds(changed, one, stored, kept[key])))
    return sorted(found, key=lambda each: each.seconds), pruned


def _all(settings: Settings, chips: int) -> Iterator[dict[str, Any]]:
    for mesh in _meshes(chips):
        share = settings.train.batch // (chips // mesh['mesh.tensor'])
        for remat in REMAT:
            for size in [size for size in range(1, share + 1) if share % size == 0][-4:]:
                yield mesh | {'model.remat': remat, 'train.microbatch': size}


def _meshes(chips: int) -> Iterator[dict[str, Any]]:
    """Every strategy; the axes of weights and tensors in powers of two."""
    for tensor in _powers(1, min(TENSOR, chips)):
        if chips % tensor:
            continue
        left = chips // tensor
        for strategy in ('replicated', 'zero1') if left > 1 else ('replicated',):
            yield _mesh(strategy, left, 1, tensor)
        for fsdp in _powers(2, left):
            if left % fsdp == 0:
                yield _mesh('fsdp', left // fsdp, fsdp, tensor)


def _powers(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def _mesh(strategy: str, data: int, fsdp: int, tensor: int) -> dict[str, Any]:
    alone = {f'mesh.{axis}': 1 for axis in AXES}
    return alone | {'mesh.strategy': strategy, 'mesh.data': data, 'mesh.fsdp': fsdp, 'mesh.tensor': tensor}


def apply(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with fields replaced by their dotted names; raises UserError where they do not go together."""
    for name, value in changes.items():
        section, field = name.split('.')
        part = dataclasses.replace(getattr(settings, section), **{field: value})
        settings = dataclasses.replace(settings, **{section: part})
    return settings


def differing(settings: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    """Those of the changes that are any."""

    def now(name: str) -> Any:
        section, field = name.split('.')
        return getattr(getattr(settings, section), field)

    return {name: value for name, value in changes.items() if now(name) != value}


def _stored(settings: Settings) -> int:
    """Bytes of all weights, float32."""
    tree = weights.unbox(assemble.declarations(settings.model))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes(settings: Settings, stored: int, kept: int, rows: int) -> float:
    """Weights, moments and gradients as the mesh cuts them, what the backward pass keeps, and one chunk's logits."""
    mesh = settings.mesh
    own = stored / mesh.tensor  # all of them, as far as they are not spread
    weights = {
        'replicated': (MOMENTS + 1) * own,
        # whole while they are used, and so are their gradients
        'zero1': MOMENTS * own / (mesh.data * mesh.fsdp) + 2 * own,
        'fsdp': (MOMENTS + 1) * own / mesh.fsdp + own / settings.model.layers,
    }[mesh.strategy]
    chunk = settings.model.loss_chunk or settings.model.context
    logits = 2 * 4 * rows * chunk * settings.model.dims['V']
    return weights + (kept + logits) / mesh.tensor


def _seconds(settings: Settings, one: Machine, stored: int, kept: int) -> float:
    """Products at a usual share of the peak, what a rolled loop copies in and out of what is kept, and what is sent,
    not hidden."""
    chip, mesh, model = one.chip, settings.mesh, settings.model
    products = sum(flops.explained(model).values()) * settings.tokens_per_step
    rate = (chip.link * 2 * chip.dims) if chip.dims else (chip.link if one.chips <= chip.host else chip.beyond)
    ways = one.chips // mesh.tensor
    own, parts = stored / mesh.tensor, settings.train.microbatches(ways)
    if mesh.strategy == 'fsdp':
        # Weights in 16 bits there and back in every part, and gradients in 32 bits.
        sent = parts * own * (2 * 0.5 + 1) + (2 * own / mesh.fsdp if mesh.data > 1 else 0)
    else:
        sent = 2 * own if ways > 1 else 0
    if mesh.tensor > 1:
        # Both halves of a layer gather what they read and scatter what they give, forward, backward and once more.
        passes = 3 if model.remat == 'block' else 2
        sent += 2 * model.layers * 2 * passes * settings.tokens_per_step / ways * model.width * 2
    copied = 2 * parts * kept / mesh.tensor if model.scan_layers else 0
    return products / (MATMUL * chip.peak * one.chips) + copied / (COPY * chip.bandwidth) + sent / rate
