"""Wilson intervals and calibration, against formulas, exact fractions and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest

from gpt_jax.evaluation.statistics import (
    Proportion,
    bin_by_confidence,
    expected_calibration_error,
    wilson_interval,
)


@pytest.mark.parametrize(('hits', 'count'), [(0, 7), (3, 7), (7, 7), (500, 1000)])
def test_wilson_interval_is_the_formula(hits, count):
    z, p = 1.959963984540054, hits / count
    centre = p + z * z / (2 * count)
    radius = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    low, high = ((centre + sign * radius) / (1 + z * z / count) for sign in (-1, 1))
    assert wilson_interval(hits, count) == pytest.approx((p, low, high), abs=1e-12)


def test_wilson_interval_without_cases():
    assert wilson_interval(0, 0) == Proportion(0.5, 0.0, 1.0)


def calibration_error_by_hand(confidences, hits, bins):
    """Guo et al. 2017, equations 1 to 3, bin m being ((m - 1)/M, m/M]."""
    total = Fraction(0)
    for m in range(1, bins + 1):
        members = [
            n for n, p in enumerate(confidences) if m - 1 < p * bins <= m or (m == 1 and p == 0)
        ]
        if members:
            accuracy = Fraction(sum(hits[n] for n in members), len(members))
            confidence = sum(confidences[n] for n in members) / len(members)
            total += Fraction(len(members), len(confidences)) * abs(accuracy - confidence)
    return float(total)


@pytest.mark.parametrize('bins', [1, 4, 15])
def test_expected_calibration_error(bins):
    """Confidences are fractions of a prime, so that only 0 and 1 are on an edge."""
    rng = np.random.default_rng(bins)
    numerators = rng.integers(0, 1010, 200)
    hits = rng.random(200) < numerators / 1200
    binned = bin_by_confidence(numerators / 1009, hits, bins)
    fractions = [Fraction(int(numerator), 1009) for numerator in numerators]
    expected = calibration_error_by_hand(fractions, [int(hit) for hit in hits], bins)
    assert expected_calibration_error(binned) == pytest.approx(expected, rel=1e-9)
    assert binned.answers.sum() == 200


def test_edges_of_bins():
    binned = bin_by_confidence(np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0, 1, 1, 1, 1]), 4)
    assert binned.answers.tolist() == [2, 1, 1, 1]
    np.testing.assert_allclose(binned.confidence, [0.125, 0.5, 0.75, 1])
    np.testing.assert_allclose(binned.accuracy, [0.5, 1, 1, 1])


def test_empty_bins_and_perfect_calibration():
    confidences = np.repeat([0.2, 0.9], 10)
    binned = bin_by_confidence(confidences, np.arange(20) % 10 < np.repeat([2, 9], 10))
    assert expected_calibration_error(binned) == pytest.approx(0, abs=1e-12)
    assert math.isnan(binned.accuracy[0])
    all_wrong = bin_by_confidence(confidences, np.zeros(20))
    assert expected_calibration_error(all_wrong) == pytest.approx(0.55)


def test_invalid_probabilities():
    for confidences, hits in (([0.5], [1, 0]), ([], []), ([1.1], [1]), ([math.nan], [1])):
        with pytest.raises(ValueError, match=r'confidences'):
            bin_by_confidence(np.array(confidences), np.array(hits))
