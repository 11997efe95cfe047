"""Which mesh, rematerialization and microbatch are worth compiling? Closed forms prune and order them."""

import dataclasses
import itertools
import math
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
HIDDEN = 0.9  # of the time in which weights are gathered, other work goes on (ibid.)
NARROWER = 1.15  # so much longer products take on a share of the heads and of the width (ibid.)
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
        parts = changed.train.microbatches(one.chips // changed.mesh.tensor)
        count = _bytes(changed, stored, kept[key], rows, parts)
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


def _bytes(settings: Settings, stored: int, kept: int, rows: int, parts: int) -> float:
    """Weights, moments and gradients as the mesh cuts them, what the backward pass keeps, and one chunk's logits."""
    mesh = settings.mesh
    own = stored / mesh.tensor  # all of them, as far as they are not spread
    ways = {'replicated': 1, 'zero1': mesh.data * mesh.fsdp, 'fsdp': mesh.fsdp}[mesh.strategy]
    # What is whole while it is used: weights and gradients under ZeRO-1, one layer's where they come layer by layer.
    used = {'replicated': own, 'zero1': 2 * own, 'fsdp': own / ways + own / settings.model.layers}[mesh.strategy]
    cast = 0 if mesh.strategy == 'fsdp' else own / 2  # weights in 16 bits
    summed = used if parts > 1 else 0  # of gradients there are the sum so far, and what is to be added
    chunk = settings.model.loss_chunk or settings.model.context
    logits = 2 * 4 * rows * chunk * settings.model.dims['V']
    return MOMENTS * own / ways + used + cast + summed + (kept + logits) / mesh.tensor


def _seconds(settings: Settings, one: Machine, stored: int, kept: int) -> float:
    """Products at a usual share of the peak, what a rolled loop copies in and out of what is kept, and what is sent."""
    chip, mesh, model = one.chip, settings.mesh, settings.model
    products = sum(flops.explained(model).values()) * settings.tokens_per_step
    products *= NARROWER if mesh.tensor > 1 else 1
    ways = one.chips // mesh.tensor
    own, parts = stored / mesh.tensor, settings.train.microbatches(ways)
    copied = 2 * parts * kept / mesh.tensor if model.scan_layers else 0
    return (
        products / (MATMUL * chip.peak * one.chips)
        + copied / (COPY * chip.bandwidth)
        + (_weights_sent(settings, one, own, parts) + _activations_sent(settings, one, ways))
    )


def _weights_sent(settings: Settings, one: Machine, own: float, parts: int) -> float:
    """Seconds in which weights and gradients are sent and nothing else goes on."""
    mesh = settings.mesh
    if mesh.strategy != 'fsdp':
        ways = mesh.data * mesh.fsdp
        return 2 * own / _rate(one, ways) if ways > 1 else 0
    # Weights in 16 bits there and back in every part, while products go on, and gradients in 32 bits: scattered over
    # whole sides of a TPU's torus; over all of them, its compiler sums gradients whole and slices.
    sides = {math.prod(some) for count in range(1, len(one.size)) for some in itertools.combinations(one.size, count)}
    scattered = 1 if not one.tpu or mesh.fsdp in sides else 2
    each = own * ((1 - HIDDEN) * 2 * 0.5 + scattered)
    return parts * each / _rate(one, mesh.fsdp) + (2 * own / mesh.fsdp / _rate(one, mesh.data) if mesh.data > 1 else 0)


def _activations_sent(settings: Settings, one: Machine, ways: int) -> float:
    """Both halves of a layer gather what they read and scatter what they give, forward, backward and once more."""
    model = settings.model
    passes = 3 if model.remat == 'block' else 2
    sent = 2 * model.layers * 2 * passes * settings.tokens_per_step / ways * model.width * 2
    tensor = settings.mesh.tensor
    return sent / _rate(one, tensor) if tensor > 1 else 0


def _rate(one: Machine, group: int) -> float:
    """Bytes/s that a chip sends, to both neighbours along as many sides of the torus as `group` chips need."""
    chip = one.chip
    if one.tpu:
        return chip.link * 2 * min(chip.dims, max(1, math.ceil(math.log(group, max(one.size)) - 1e-9)))
    return chip.link if group <= chip.host else chip.beyond
