"""Statistics of scores: Wilson intervals, reliability bins, calibration error."""

from typing import NamedTuple

import numpy as np

DEFAULT_BINS = 15  # as in Guo et al. 2017


class Proportion(NamedTuple):
    """A proportion with its 95% interval."""

    share: float
    low: float
    high: float


def wilson_interval(hits: int, count: int) -> Proportion:
    """Return a proportion with its 95% interval (Wilson 1927).

    Without cases, the share is 0.5 and the interval 0 to 1.
    """
    import scipy.stats

    if count == 0:
        return Proportion(0.5, 0.0, 1.0)
    test = scipy.stats.binomtest(hits, count)
    interval = test.proportion_ci(confidence_level=0.95, method='wilson')
    return Proportion(hits / count, float(interval.low), float(interval.high))


class ReliabilityBins(NamedTuple):
    """N bins of equal width from 0 to 1, for a reliability diagram.

    answers: int [N], number of answers. confidence, accuracy: float64 [N], means over the answers;
    NaN in an empty bin.
    """

    answers: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def bin_by_confidence(
    confidences: np.ndarray, hits: np.ndarray, bins: int = DEFAULT_BINS
) -> ReliabilityBins:
    """Sort answers into bins by confidence.

    A bin contains its upper edge but not its lower one; the first also contains 0.

    Args:
      confidences: [Q], probability of the chosen answer, 0 to 1.
      hits: [Q], whether that answer is right.

    Raises:
      ValueError: no answers, different shapes, or a probability outside [0, 1].
    """
    p_Q, hits_Q = np.asarray(confidences, np.float64), np.asarray(hits, np.float64)
    if p_Q.shape != hits_Q.shape or p_Q.ndim != 1 or not p_Q.size:
        raise ValueError(
            'confidences, hits: must both have shape [Q] with Q > 0, '
            f'got {p_Q.shape} and {hits_Q.shape}'
        )
    if not ((p_Q >= 0) & (p_Q <= 1)).all():
        raise ValueError('confidences: must be between 0 and 1')
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, p_Q, side='left') - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid='ignore'):
        confidence = np.bincount(index, weights=p_Q, minlength=bins) / count
        accuracy = np.bincount(index, weights=hits_Q, minlength=bins) / count
    return ReliabilityBins(count, confidence, accuracy)


def expected_calibration_error(bins: ReliabilityBins) -> float:
    """Return the mean distance between confidence and accuracy (Guo et al. 2017, equation 3).

    It is between 0 (best) and 1, depends on the number of bins, and is above 0 by chance where
    there are few answers.
    """
    filled = bins.answers > 0
    distance = np.abs(bins.confidence[filled] - bins.accuracy[filled])
    return float(np.average(distance, weights=bins.answers[filled]))
