"""Are confidence and accuracy compared as in the papers? Against loops in exact fractions, and scikit-learn."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from gpt_jax.evaluate import calibration
from gpt_jax.evaluate.calibration import expected_calibration_error, reliability


def by_hand(confidences, hits, bins):
    """Guo et al. 2017, equations 1 to 3, bin m being ((m - 1)/M, m/M]."""
    total = Fraction(0)
    for m in range(1, bins + 1):
        inside = [n for n, said in enumerate(confidences) if m - 1 < said * bins <= m or (m == 1 and said == 0)]
        if inside:
            accuracy = Fraction(sum(hits[n] for n in inside), len(inside))
            confidence = sum(confidences[n] for n in inside) / len(inside)
            total += Fraction(len(inside), len(confidences)) * abs(accuracy - confidence)
    return float(total)


@pytest.mark.parametrize('bins', [1, 4, 15])
def test_expected_calibration_error(bins):
    generator = np.random.default_rng(bins)
    said = generator.integers(0, 1010, 200)  # parts of a prime, so that none but 0 and 1 lies on an edge
    hits = generator.random(200) < said / 1200
    found = reliability(said / 1009, hits, bins)
    expected = by_hand([Fraction(int(one), 1009) for one in said], [int(hit) for hit in hits], bins)
    assert expected_calibration_error(found) == pytest.approx(expected, rel=1e-9)
    assert found.answers.sum() == 200


def test_edges():
    found = reliability(np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0, 1, 1, 1, 1]), 4)
    assert found.answers.tolist() == [2, 1, 1, 1]
    np.testing.assert_allclose(found.confidence, [0.125, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.accuracy, [0.5, 1, 1, 1])


def test_empty_bins_and_perfect_ones():
    said = np.repeat([0.2, 0.9], 10)
    found = reliability(said, np.arange(20) % 10 < np.repeat([2, 9], 10))
    assert expected_calibration_error(found) == pytest.approx(0, abs=1e-12)
    assert math.isnan(found.accuracy[0])
    assert expected_calibration_error(reliability(said, np.zeros(20))) == pytest.approx(0.55)


def test_brier():
    generator = np.random.default_rng(1)
    p_QY = generator.dirichlet([1, 2, 3], 50)
    answers = generator.integers(0, 3, 50)
    one_hot = [[float(answer == n) for n in range(3)] for answer in answers]
    expected = sum(
        (p - t) ** 2 for row, truth in zip(p_QY, one_hot, strict=True) for p, t in zip(row, truth, strict=True)
    )
    assert calibration.brier(p_QY, answers) == pytest.approx(expected / 50)
    two_QY = np.stack([p_QY[:, 0], 1 - p_QY[:, 0]], axis=1)
    binary = brier_score_loss(answers == 0, p_QY[:, 0])  # the square of one class alone
    assert calibration.brier(two_QY, (answers != 0).astype(int)) == pytest.approx(2 * binary)


def test_what_is_no_probability():
    for said, hits in (([0.5], [1, 0]), ([], []), ([1.1], [1]), ([math.nan], [1])):
        with pytest.raises(ValueError, match=r'confidence'):
            reliability(np.array(said), np.array(hits))
    with pytest.raises(ValueError, match='add up to 1'):
        calibration.brier(np.array([[0.5, 0.4]]), np.array([0]))
