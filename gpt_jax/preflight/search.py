"""Which mesh, rematerialization and microbatch are worth compiling? Closed forms prune and order them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from gpt_jax import assemble
from gpt_jax.assemble import Settings
from gpt_jax.errors import UserError
from gpt_jax.model import memory, weights
from gpt_jax.model.config import REMAT
from gpt_jax.preflight import flops
from gpt_jax.preflight.estimate import MATMUL
from gpt_jax.preflight.topology import Machine

ROOM = 0.95  # of a device's memory that the closed form may fill; it knows nothing of work in progress
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
            parts = changed.train.microbatches(one.chips)
        except UserError:
            pruned += 1
            continue
        rows = changed.train.batch // one.chips // parts
        key = (changed.model.remat, rows)
        if key not in kept:
            kept[key] = memory.activation_bytes(changed.model, rows)
        count = _bytes(changed, stored, kept[key], rows)
        if count > ROOM * one.chip.memory:
            pruned += 1
            continue
        found.append(Candidate(changes, changed, count, _seconds(changed, one, stored, parts)))
    return sorted(found, key=lambda each: each.seconds), pruned


def _all(settings: Settings, chips: int) -> Iterator[dict[str, Any]]:
    share = settings.train.batch // chips
    sizes = [size for size in range(1, share + 1) if share % size == 0 and size & (size - 1) == 0]
    for mesh in _meshes(chips):
        for remat in REMAT:
            for size in sizes[-4:]:
                yield mesh | {'model.remat': remat, 'train.microbatch': size}


def _meshes(chips: int) -> Iterator[dict[str, Any]]:
    """Every way to share the batch; the axis of the weights in powers of two."""
    yield {'mesh.strategy': 'replicated', 'mesh.data': chips, 'mesh.fsdp': 1}
    size = 2
    while size <= chips:
        if chips % size == 0:
            yield {'mesh.strategy': 'fsdp', 'mesh.data': chips // size, 'mesh.fsdp': size, 'mesh.tensor': 1}
        size *= 2


def apply(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with fields replaced by their dotted names; raises UserError where they do not go together."""
    for name, value in changes.items():
        section, field = name.split('.')
        part = dataclasses.replace(getattr(settings, section), **{field: value})
        settings = dataclasses.replace(settings, **{section: part})
    return settings


def _stored(settings: Settings) -> int:
    """Bytes of all weights, float32."""
    tree = weights.unbox(assemble.declarations(settings.model))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes(settings: Settings, stored: int, kept: int, rows: int) -> float:
    """Weights, moments and gradients as the mesh cuts them, what the backward pass keeps, and one chunk's logits."""
    cut = max(1, settings.mesh.fsdp)
    chunk = settings.model.loss_chunk or settings.model.context
    logits = 2 * 4 * rows * chunk * settings.model.dims['V']
    gathered = 0 if cut == 1 else stored / settings.model.layers / 2
    return (MOMENTS + 1) * stored / cut + kept + logits + gathered


def _seconds(settings: Settings, one: Machine, stored: int, parts: int) -> float:
    chip, cut = one.chip, max(1, settings.mesh.fsdp)
    products = sum(flops.explained(settings.model).values()) * settings.tokens_per_step
    rate = (chip.link * 2 * chip.dims) if chip.dims else (chip.link if one.chips <= chip.host else chip.beyond)
    # Weights in 16 bits there and back in every part, and gradients in 32 bits once a part where they are cut.
    sent = 0.0 if cut == 1 else parts * stored * (2 * 0.5 + 1)
    sent += 2 * stored / cut if one.chips > cut else 0
    return products / (MATMUL * chip.peak * one.chips) + sent / rate
