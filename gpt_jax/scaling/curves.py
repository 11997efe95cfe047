"""What does a record say of a run's way to its loss? The column `curve`: [[tokens, loss], ...], thinned already.

A curve is for the eye alone: no law is fitted to it. So one that cannot be read is as one that is not there, and a
point of it that is no pair of finite numbers above zero is passed over; neither costs the run its place in a fit.
"""

from typing import Any

BEYOND = 1e300  # more than any count or loss; JSON's whole numbers know no bound, floats do
Curve = list[tuple[float, float]]  # (tokens, loss in nats/token), by tokens


def read(value: Any) -> Curve:
    """The points of a record's `curve`, by tokens; empty where there are none."""
    points = [point for point in value if _is_point(point)] if isinstance(value, list) else []
    return sorted((float(tokens), float(loss)) for tokens, loss in points)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_size(number) for number in value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < BEYOND
