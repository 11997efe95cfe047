"""How sure is a share of so many cases? Wilson's interval."""

from typing import NamedTuple


class Share(NamedTuple):
    """The part of so many cases that are hits, and the interval that holds the true part in 95 of 100 such samples
    (Wilson 1927)."""

    share: float
    low: float
    high: float
    cases: int


def wilson(hits: int, count: int) -> Share:
    """Of no case at all nothing is known: 0 to 1, and 0.5 for the share."""
    import scipy.stats

    if count == 0:
        return Share(0.5, 0.0, 1.0, 0)
    interval = scipy.stats.binomtest(hits, count).proportion_ci(confidence_level=0.95, method='wilson')
    return Share(hits / count, float(interval.low), float(interval.high), count)
