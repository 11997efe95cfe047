"""Is it Wilson's interval, by his formula?"""

import math

import pytest

from gpt_jax.evaluate.interval import Share, wilson


@pytest.mark.parametrize(('hits', 'count'), [(0, 7), (3, 7), (7, 7), (500, 1000)])
def test_formula(hits, count):
    z, p = 1.959963984540054, hits / count
    centre, radius = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    low, high = ((centre + sign * radius) / (1 + z * z / count) for sign in (-1, 1))
    assert wilson(hits, count) == pytest.approx((p, low, high, count), abs=1e-12)


def test_of_nothing():
    assert wilson(0, 0) == Share(0.5, 0.0, 1.0, 0)
