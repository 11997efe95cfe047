"""Search space of mesh, rematerialization and microbatch, pruned and ordered by closed forms."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from gpt_jax.core.config import MESH_AXES, REMAT_POLICIES, Config
from gpt_jax.core.errors import UserError
from gpt_jax.model import weights
from gpt_jax.parallel import mesh as meshes
from gpt_jax.preflight import model_cost
from gpt_jax.preflight.estimate import MATMUL_EFFICIENCY
from gpt_jax.preflight.topology import Machine
from gpt_jax.train import build, mesh_layout

# Share of a device's memory that the closed form may fill; it leaves out the working memory.
MEMORY_FRACTION = 0.95
# Maximum size of the tensor axis: beyond it, communication outweighs the savings.
MAX_TENSOR = 16
# Measured constants of the TPU compiler (experiments/preflight/): the share of the memory bandwidth
# that it assumes for copies, the share of the time of gathering weights that other work hides, and
# the slowdown of products that are sharded over heads and feed-forward width.
COPY_BANDWIDTH = 0.3
GATHER_OVERLAP = 0.9
TENSOR_SLOWDOWN = 1.15
STATE_COPIES = 3  # parameters and both Adam moments, float32


class SearchCandidate(NamedTuple):
    """One point of the search space.

    Attributes:
      changes: new values of config fields, by dotted name.
      config: the config with these changes.
      bytes: memory of one device, from closed forms.
      seconds: time of one step, from closed forms: products at a typical share of the peak, plus
        exposed communication.
    """

    changes: dict[str, Any]
    config: Config
    bytes: float
    seconds: float


def rank_candidates(config: Config, machine: Machine) -> tuple[list[SearchCandidate], int]:
    """Return the candidates that may fit, the fastest first, and the number of pruned ones."""
    candidates, pruned, param_bytes = [], 0, _count_param_bytes(config)
    activation_bytes: dict[tuple[str, int], int] = {}
    for changes in _list_changes(config, machine.chips):
        try:
            changed = apply_changes(config, changes)
            constraints = mesh_layout.make_divisibility_constraints(changed.model, changed.train)
            meshes.resolve_axis_sizes(changed.mesh, constraints, machine.chips)
        except UserError:
            pruned += 1
            continue
        sequences = changed.train.microbatch_size
        key = (changed.model.remat, sequences)
        if key not in activation_bytes:
            activation_bytes[key] = model_cost.count_activation_bytes(changed.model, sequences)
        activations = activation_bytes[key]
        microbatches = changed.train.microbatches(machine.chips // changed.mesh.tensor)
        size = _estimate_bytes(changed, param_bytes, activations, sequences, microbatches)
        if size > MEMORY_FRACTION * machine.chip.memory_bytes:
            pruned += 1
            continue
        seconds = _estimate_seconds(changed, machine, param_bytes, activations)
        candidates.append(SearchCandidate(changes, changed, size, seconds))
    return sorted(candidates, key=lambda candidate: candidate.seconds), pruned


def _list_changes(config: Config, chips: int) -> Iterator[dict[str, Any]]:
    for mesh in _list_meshes(chips):
        sequences = config.train.batch_size // (chips // mesh['mesh.tensor'])
        divisors = [size for size in range(1, sequences + 1) if sequences % size == 0]
        for remat in REMAT_POLICIES:
            for microbatch_size in divisors[-4:]:
                yield mesh | {'model.remat': remat, 'train.microbatch_size': microbatch_size}


def _list_meshes(chips: int) -> Iterator[dict[str, Any]]:
    """Yield meshes of every strategy; the fsdp and tensor axes are powers of two."""
    for tensor in _powers_of_two(1, min(MAX_TENSOR, chips)):
        if chips % tensor:
            continue
        replicas = chips // tensor
        for strategy in ('replicated', 'zero1') if replicas > 1 else ('replicated',):
            yield _make_mesh(strategy, replicas, 1, tensor)
        for fsdp in _powers_of_two(2, replicas):
            if replicas % fsdp == 0:
                yield _make_mesh('fsdp', replicas // fsdp, fsdp, tensor)


def _powers_of_two(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def _make_mesh(strategy: str, data: int, fsdp: int, tensor: int) -> dict[str, Any]:
    unused = {f'mesh.{axis}': 1 for axis in MESH_AXES}
    return unused | {
        'mesh.strategy': strategy,
        'mesh.data': data,
        'mesh.fsdp': fsdp,
        'mesh.tensor': tensor,
    }


def apply_changes(config: Config, changes: dict[str, Any]) -> Config:
    """Replace fields by their dotted names.

    Raises:
      UserError: the fields are inconsistent.
    """
    for name, value in changes.items():
        section_name, field = name.split('.')
        section = dataclasses.replace(getattr(config, section_name), **{field: value})
        config = dataclasses.replace(config, **{section_name: section})
    return config


def find_changed_fields(config: Config, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the changes whose value differs from that of the config."""

    def current_value(name: str) -> Any:
        section, field = name.split('.')
        return getattr(getattr(config, section), field)

    return {name: value for name, value in changes.items() if current_value(name) != value}


def _count_param_bytes(config: Config) -> int:
    """Count the bytes of all parameters in float32."""
    tree = weights.unbox(build.declare_params(config.model))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _estimate_bytes(
    config: Config, param_bytes: int, activation_bytes: int, sequences: int, microbatches: int
) -> float:
    """Estimate the memory of one device in bytes.

    It holds sharded parameters, moments and gradients, saved activations, and the logits of one
    chunk.
    """
    mesh = config.mesh
    tensor_bytes = param_bytes / mesh.tensor  # of one model replica on one device
    shards = {'replicated': 1, 'zero1': mesh.data * mesh.fsdp, 'fsdp': mesh.fsdp}[mesh.strategy]
    # Unsharded while in use: weights and gradients under ZeRO-1, those of one layer under FSDP.
    working = {
        'replicated': tensor_bytes,
        'zero1': 2 * tensor_bytes,
        'fsdp': tensor_bytes / shards + tensor_bytes / config.model.layers,
    }[mesh.strategy]
    cast = 0 if mesh.strategy == 'fsdp' else tensor_bytes / 2  # 16-bit copy of the weights
    # With several microbatches there are two gradients: the sum so far, and the next addend.
    accumulated = working if microbatches > 1 else 0
    chunk = config.model.loss_chunk or config.model.context
    logits = 2 * 4 * sequences * chunk * config.model.dims['V']
    state = STATE_COPIES * tensor_bytes / shards
    return state + working + cast + accumulated + (activation_bytes + logits) / mesh.tensor


def _estimate_seconds(
    config: Config, machine: Machine, param_bytes: int, activation_bytes: int
) -> float:
    """Estimate the seconds of one step: products, copies of scanned layers, communication.

    A scan copies saved activations into and out of its stacked buffers.
    """
    chip, mesh, model_config = machine.chip, config.mesh, config.model
    flops = sum(model_cost.explain_flops(model_config).values()) * config.tokens_per_step
    flops *= TENSOR_SLOWDOWN if mesh.tensor > 1 else 1
    replicas = machine.chips // mesh.tensor
    tensor_bytes, microbatches = param_bytes / mesh.tensor, config.train.microbatches(replicas)
    copied = 2 * microbatches * activation_bytes / mesh.tensor if model_config.scan_layers else 0
    communication = _weight_seconds(
        config, machine, tensor_bytes, microbatches
    ) + _activation_seconds(config, machine, replicas)
    return (
        flops / (MATMUL_EFFICIENCY * chip.bfloat16_peak * machine.chips)
        + copied / (COPY_BANDWIDTH * chip.memory_bandwidth)
        + communication
    )


def _weight_seconds(
    config: Config, machine: Machine, tensor_bytes: float, microbatches: int
) -> float:
    """Estimate the exposed seconds of communicating weights and gradients."""
    mesh = config.mesh
    if mesh.strategy != 'fsdp':
        replicas = mesh.data * mesh.fsdp
        return 2 * tensor_bytes / _group_bandwidth(machine, replicas) if replicas > 1 else 0
    # Each microbatch gathers 16-bit weights twice, hidden behind products, and reduces 32-bit
    # gradients. These are reduce-scattered if the group spans whole sides of a TPU's torus;
    # otherwise, the compiler uses an all-reduce and a slice, which sends twice as much.
    sides = {
        math.prod(dims)
        for count in range(1, len(machine.size))
        for dims in itertools.combinations(machine.size, count)
    }
    reduce_factor = 1 if not machine.is_tpu or mesh.fsdp in sides else 2
    microbatch_bytes = tensor_bytes * ((1 - GATHER_OVERLAP) * 2 * 0.5 + reduce_factor)
    replica_seconds = 0.0
    if mesh.data > 1:
        replica_seconds = 2 * tensor_bytes / mesh.fsdp / _group_bandwidth(machine, mesh.data)
    fsdp_seconds = microbatches * microbatch_bytes / _group_bandwidth(machine, mesh.fsdp)
    return fsdp_seconds + replica_seconds


def _activation_seconds(config: Config, machine: Machine, replicas: int) -> float:
    """Estimate the seconds of tensor parallelism.

    Both halves of a layer gather their input and scatter their output, in the forward pass, the
    backward pass and, with rematerialization of blocks, once more.
    """
    model_config, tensor = config.model, config.mesh.tensor
    passes = 3 if model_config.remat == 'block' else 2
    tokens = config.tokens_per_step / replicas
    sent = 2 * model_config.layers * 2 * passes * tokens * model_config.width * 2
    return sent / _group_bandwidth(machine, tensor) if tensor > 1 else 0


def _group_bandwidth(machine: Machine, group_size: int) -> float:
    """Return the bytes/s that a chip sends within a group.

    On a torus, it sends to both neighbors along as many sides as the group spans.
    """
    chip = machine.chip
    if machine.is_tpu:
        needed = math.ceil(math.log(group_size, max(machine.size)) - 1e-9)
        return chip.link_bandwidth * 2 * min(chip.torus_dims, max(1, needed))
    within_host = group_size <= chip.devices_per_host
    return chip.link_bandwidth if within_host else chip.network_bandwidth
