"""How long does a collective take on the interconnect, if nothing else goes on? Closed forms for tori and hosts."""

import math
from collections.abc import Sequence

from gpt_jax.compiled.collectives import Collective
from gpt_jax.preflight.chips import Chip

HOP = 1e-6  # seconds that a message takes from a chip to the next at least
Coordinates = Sequence[tuple[int, ...]]


def seconds(one: Collective, chip: Chip, places: Coordinates) -> float:
    """Of one run: bytes over the links that its groups can use, and the hops to the farthest member.

    Args:
      places: where each device of the mesh stands in the torus, in the mesh's order; empty for GPUs.
    """
    if one.group <= 1 or not one.wire_bytes:
        return 0.0
    if not chip.dims:
        return _hosts(one, chip)
    if one.kind == 'collective-permute':
        hops = max((_distance(places[a], places[b], places) for a, b in one.groups), default=1)
        return one.bytes * max(1, hops) / chip.link + hops * HOP
    group = [places[member] for member in one.groups[0]]
    links, hops = _links(group, places)
    share = one.wire_bytes / (links * chip.link)
    if one.kind in ('all-to-all', 'ragged-all-to-all'):
        # What is sent passes through others: a ring of n carries n / 4 of it (a line twice that) over each link.
        share *= max(1.0, max(_extent(group)) / 4)
    return share + hops * HOP


def _hosts(one: Collective, chip: Chip) -> float:
    inside = all(len({member // chip.host for member in group}) == 1 for group in one.groups)
    return one.wire_bytes / (chip.link if inside else chip.beyond) + HOP * math.log2(max(2, one.group))


def _extent(group: Coordinates) -> list[int]:
    """How many places the group takes in each dim of the torus."""
    return [len(set(column)) for column in zip(*group, strict=True)]


def wraps(size: Sequence[int]) -> list[bool]:
    """Whether each dim of a slice closes to a ring: in a 3D torus where all are whole cubes of 4, in 2D at 16."""
    if len([one for one in size if one > 1]) > 2 or (len(size) == 3 and size[2] > 1):
        return [all(one % 4 == 0 for one in size)] * len(size)
    return [one == 16 for one in size]


def _links(group: Coordinates, places: Coordinates) -> tuple[int, int]:
    """The links by which each member can send to the rest of its group at one time, and the hops to the farthest."""
    whole, part = _extent(places), _extent(group)
    links = hops = 0
    for size, taken, closed in zip(whole, part, wraps(whole), strict=True):
        if taken > 1:
            ring = closed and taken == size
            links += 2 if ring else 1
            hops += taken // 2 if ring else taken - 1
    return max(1, links), max(1, hops)


def _distance(a: tuple[int, ...], b: tuple[int, ...], places: Coordinates) -> int:
    whole = _extent(places)
    total = 0
    for x, y, size, closed in zip(a, b, whole, wraps(whole), strict=True):
        direct = abs(x - y)
        total += min(direct, size - direct) if closed else direct
    return total
