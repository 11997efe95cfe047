"""Which mesh axis takes which dim? One table per strategy.

A table has three parts: where weights are stored between steps, how they lie while a layer uses them, and how
activations lie. A letter maps to the axes it is spread over; a letter that is absent is replicated.
"""

from collections.abc import Mapping
from typing import NamedTuple

AXES = ('data', 'fsdp')  # order of the mesh: the slowest first. Later axes: tensor, context, expert, pipeline

Table = Mapping[str, tuple[str, ...]]


class Rules(NamedTuple):
    stored: Table
    used: Table
    activations: Table


BATCH: Table = {'B': ('data', 'fsdp')}

STRATEGIES: Mapping[str, Rules] = {
    # Every device holds all weights.
    'replicated': Rules(stored={}, used={}, activations=BATCH),
    # ZeRO-3: weights and optimizer state are cut along the axis fsdp and gathered layer by layer for use.
    'fsdp': Rules(
        stored={'D': ('fsdp',), 'F': ('fsdp',), 'V': ('fsdp',)},
        used={},
        activations=BATCH,
    ),
}
