"""Logical axis rules: which mesh axes shard each dim, and how weights are stored.

The mesh axes, slowest first, are `MESH_AXES` of core/config.py; neighbors along the last one
communicate the most. The letters of dims are listed in model/weights.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

# The mesh axes that shard each dim while the model computes; other dims are not sharded.
# Every axis except context and tensor has its own rows of the batch: outside the
# experts and the pipeline stages, every device computes on an equal share of the rows.
LOGICAL_AXIS_RULES: Mapping[str, tuple[str, ...]] = {
    'B': ('dcn', 'data', 'fsdp', 'expert', 'pipeline'),
    'L': ('context',),
    # Devices that run the same layer at the same time, so not the stages of a pipeline.
    'T': ('dcn', 'data', 'fsdp', 'expert', 'context'),
    'H': ('tensor',),
    'G': ('tensor',),
    'F': ('tensor',),
    'U': ('tensor',),
    'V': ('tensor',),
    'E': ('expert',),
    'N': ('pipeline',),
}

# The dims of a weight that a strategy may shard in addition, in order of preference: it shards the
# first one that divides evenly.
SHARDED_DIMS = 'DFV'


class Strategy(NamedTuple):
    """How weights and optimizer state are stored between steps.

    shard_axes: mesh axes that shard every matrix in addition to LOGICAL_AXIS_RULES; vectors are
      small and stay whole.
    gather_per_layer: whether a layer's matrices are gathered right before it runs and their
      gradients scattered right after; else all are, at the start and the end of the step.
    """

    shard_axes: tuple[str, ...]
    gather_per_layer: bool


STRATEGIES: Mapping[str, Strategy] = {
    # Every device stores everything that LOGICAL_AXIS_RULES assign to it.
    'replicated': Strategy(shard_axes=(), gather_per_layer=False),
    # ZeRO-1 (Rajbhandari et al. 2020): the optimizer updates a shard; gradients are scattered and
    # weights gathered once a step. The weights are sharded between steps too: the same traffic,
    # less memory.
    'zero1': Strategy(shard_axes=('data', 'fsdp'), gather_per_layer=False),
    # ZeRO-3, fully sharded data parallelism: no device holds more than one layer's whole weights.
    'fsdp': Strategy(shard_axes=('fsdp',), gather_per_layer=True),
}
