"""How did a run's loss fall, in a few points? The rows of metrics.jsonl, averaged within bins of log tokens."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

POINTS = 40


def curve(rows: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """[tokens, mean training loss in nats/token] of at most POINTS bins, equal in log tokens, with the last row in it.

    Rows without tokens, and losses that are not finite, are passed over.
    """
    seen = [(float(row['tokens']), float(row['loss'])) for row in rows if 'tokens' in row and 'loss' in row]
    seen = [(tokens, loss) for tokens, loss in seen if tokens > 0 and math.isfinite(loss)]
    if not seen:
        return []
    low, high = math.log(seen[0][0]), math.log(seen[-1][0])
    width = (high - low) / (POINTS - 1) or 1.0
    bins: dict[int, list[tuple[float, float]]] = {}
    for tokens, loss in seen:
        bins.setdefault(round((math.log(tokens) - low) / width), []).append((tokens, loss))
    return [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)] for part in bins.values()]
