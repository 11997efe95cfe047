"""When a model says 80%, is it right in 80 of 100 cases? Of decided questions."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as Guo et al. 2017


class Bins(NamedTuple):
    """Of each of N bins of the same width, from 0 to 1, for a reliability plot.

    answers: int [N], how many fell into the bin. confidence, accuracy: float64 [N], their means; NaN where none did.
    """

    answers: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidences: np.ndarray, hits: np.ndarray, bins: int = BINS) -> Bins:
    """Sorts answers by confidence; a bin holds its upper edge and not its lower one, but the first holds 0.

    Args:
      confidences: [Q], the probability of the answer that was given, 0 to 1.
      hits: [Q], whether it was right.

    Raises:
      ValueError: no answers, as many of the one as not of the other, a probability outside 0 to 1.
    """
    said, right = np.asarray(confidences, np.float64), np.asarray(hits, np.float64)
    if said.shape != right.shape or said.ndim != 1 or not said.size:
        raise ValueError(f'confidences of shape {said.shape} and hits of shape {right.shape}; wants both [Q], Q > 0')
    if not ((said >= 0) & (said <= 1)).all():
        raise ValueError('a confidence is not between 0 and 1')
    number = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), said, side='left') - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    with np.errstate(invalid='ignore'):
        means = [np.bincount(number, weights=values, minlength=bins) / count for values in (said, right)]
    return Bins(count, means[0], means[1])


def expected_calibration_error(found: Bins) -> float:
    """How far confidence is from accuracy, the mean over all answers of their bin's distance (Guo et al. 2017,
    equation 3); 0..1, 0 is best. It depends on the number of bins, and is above 0 by chance where answers are few."""
    there = found.answers > 0
    distance = np.abs(found.confidence[there] - found.accuracy[there])
    return float(np.average(distance, weights=found.answers[there]))


def brier(probabilities_QY: np.ndarray, answers_Q: np.ndarray) -> float:
    """The mean squared distance of the probabilities of all candidates from the truth (Brier 1950): 0..2, 0 is best.

    Args:
      probabilities_QY: [Q, Y], each row adding up to 1; 0 for a candidate that a question does not have.
      answers_Q: int [Q], the right candidate.

    Raises:
      ValueError: a row that does not add up to 1.
    """
    said_QY = np.asarray(probabilities_QY, np.float64)
    if not np.allclose(said_QY.sum(axis=1), 1, atol=1e-4):
        raise ValueError('the probabilities of a question do not add up to 1')
    truth_QY = np.arange(said_QY.shape[1]) == np.asarray(answers_Q)[:, None]
    return float(np.mean(np.sum((said_QY - truth_QY) ** 2, axis=1)))
