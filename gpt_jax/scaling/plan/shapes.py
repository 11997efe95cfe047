"""Which models of whole layers are there near a size? For sweeps: their own head dim, their own depth, small widths."""

import math
from typing import NamedTuple

from gpt_jax.scaling.plan.planner import ASPECT, HEAD_DIMS, Shape, parameters

USUAL = 90  # width over layers of GPT-3's larger models
RATIO = 0.2  # how much of log N an unusual ratio is worth: along a curve only the size should change, not the form
WIDEST = 32_768
FINER = 8  # times the sizes wanted: where those between them are looked for
LONG = 2048  # the width from which on heads are 128 wide


class Frame(NamedTuple):
    """What the shapes of a sweep share.

    counted: which parameters N is. head_dim: None for planner.HEAD_DIMS. layers: None for a depth that goes with the
    width.
    """

    counted: str
    context: int
    vocab: int
    head_dim: int | None
    layers: int | None


def size(shape: Shape, frame: Frame) -> int:
    return parameters(shape)[frame.counted]


def nearest(params: float, frame: Frame) -> Shape:
    """The shape whose size is nearest to `params`, leaning to a usual ratio of width to layers."""

    def penalty(shape: Shape) -> float:
        ratio = shape.width / shape.layers / USUAL
        return abs(math.log(size(shape, frame) / params)) + (0 if frame.layers else RATIO * abs(math.log(ratio)))

    return min((shape for width in _widths(frame) for shape in _of_width(width, params, frame)), key=penalty)


def spread(params: float, span: float, many: int, frame: Frame) -> list[Shape]:
    """Shapes evenly spaced in log N from params / span to params x span, ascending.

    Where two would be one, the shapes in between that are nearest to `params` stand in; fewer where there are none.
    """

    def even(count: int) -> set[Shape]:
        return {nearest(params * span ** (2 * i / (count - 1) - 1), frame) for i in range(count)}

    def away(shape: Shape) -> float:
        return abs(math.log(size(shape, frame) / params))

    found = even(many)
    if len(found) < many:
        others = [one for one in even(FINER * many) - found if away(one) <= math.log(span)]
        found |= set(sorted(others, key=lambda one: (away(one), one))[: many - len(found)])
    return sorted(found, key=lambda shape: size(shape, frame))


def beyond(edge: float, ratio: float, many: int, frame: Frame) -> list[Shape]:
    """Up to `many` shapes at edge x ratio, edge x ratio^2, ..., all on that side of `edge`, ascending."""
    found: list[Shape] = []
    for step in range(1, 4 * many):
        shape = nearest(edge * ratio**step, frame)
        outside = (size(shape, frame) > edge * 1.001) if ratio > 1 else (size(shape, frame) < edge * 0.999)
        if outside and shape not in found and len(found) < many:
            found.append(shape)
    return sorted(found, key=lambda shape: size(shape, frame))


def _widths(frame: Frame) -> list[int]:
    if frame.head_dim:
        return list(range(frame.head_dim, WIDEST + 1, frame.head_dim))
    return [*range(64, 1024, 64), *range(1024, WIDEST + 1, 128)]  # as planner.shape_for


def _of_width(width: int, params: float, frame: Frame) -> list[Shape]:
    """Of this width the depths on both sides of the size, within the usual ratios; or the one depth of the frame."""
    head = frame.head_dim or (HEAD_DIMS[0] if width < LONG else HEAD_DIMS[1])
    none, one = (size(Shape(depth, width, width // head, frame.context, frame.vocab), frame) for depth in (0, 1))
    low, high = max(2, math.ceil(width / ASPECT[1])), max(2, width // ASPECT[0])
    exact = min(max((params - none) / (one - none), low), high)
    depths = {frame.layers} if frame.layers else {math.floor(exact), math.ceil(exact)}
    return [Shape(depth, width, width // head, frame.context, frame.vocab) for depth in sorted(depths)]
