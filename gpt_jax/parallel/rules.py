"""Which mesh axis takes which dim? Two tables: what is cut while it is computed with, and how weights are kept."""

from collections.abc import Mapping
from typing import NamedTuple

# The order of the mesh: the slowest first. Neighbours along the last axis talk the most.
AXES = ('slice', 'data', 'fsdp', 'expert', 'pipeline', 'context', 'tensor')

# The axes over which each letter is cut while the model computes; a letter that is absent is whole on every device.
# Every axis but context and tensor has its own rows of the batch: what is not the experts' or a stage's of the pipeline
# is computed on an equal share of the rows everywhere.
CUT: Mapping[str, tuple[str, ...]] = {
    'B': ('slice', 'data', 'fsdp', 'expert', 'pipeline'),
    'L': ('context',),
    'T': ('slice', 'data', 'fsdp', 'expert', 'context'),  # what is at the same layer at the same time
    'H': ('tensor',),
    'G': ('tensor',),
    'F': ('tensor',),
    'U': ('tensor',),
    'V': ('tensor',),
    'E': ('expert',),
    'N': ('pipeline',),
}

# The dims of a weight that a strategy may cut besides, in this order: the first that can be divided.
SPREAD_DIMS = 'DFV'


class Strategy(NamedTuple):
    """How weights and optimizer state are kept between steps.

    spread: axes over which every matrix is cut, besides CUT; vectors are small, and stay whole. by_layer: whether a
      layer's matrices are gathered when it is its turn, and their gradients scattered then; else all at once, at the
      beginning and the end of the step.
    """

    spread: tuple[str, ...]
    by_layer: bool


STRATEGIES: Mapping[str, Strategy] = {
    # Every device holds all that CUT leaves it.
    'replicated': Strategy(spread=(), by_layer=False),
    # ZeRO-1 (Rajbhandari et al. 2020): the optimizer works on a share, gradients are scattered and weights gathered
    # once a step. The weights too are kept cut between steps: the same traffic, less memory.
    'zero1': Strategy(spread=('data', 'fsdp'), by_layer=False),
    # ZeRO-3, fully sharded data parallelism: nowhere are more than a layer's weights whole.
    'fsdp': Strategy(spread=('fsdp',), by_layer=True),
}
