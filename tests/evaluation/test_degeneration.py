"""Repetition of n-grams and loops, by definition."""

import random

import pytest

from gpt_jax.evaluation.degeneration import (
    distinct_rate,
    find_loop_period,
    repetition_rate,
    report_repetition,
)


def test_repetition_rate_is_a_mean_over_texts():
    text = list('ababac')  # 3 different words of 6; ab ba ab ba ac: 3 of 5; aba bab aba bac: 3 of 4
    assert repetition_rate([text], 1) == pytest.approx(1 - 3 / 6)
    assert repetition_rate([text], 2) == pytest.approx(1 - 3 / 5)
    assert repetition_rate([text], 3) == pytest.approx(1 - 3 / 4)
    assert repetition_rate([text, ['x', 'y']], 2) == pytest.approx((1 - 3 / 5) / 2)
    # Texts without an n-gram are skipped.
    assert repetition_rate([text, ['x']], 2) == pytest.approx(1 - 3 / 5)
    assert repetition_rate([['x'], []], 2) is None


def test_distinct_rate_is_over_all_texts():
    assert distinct_rate([[1, 2, 3], [1, 2, 4], [5]], 2) == pytest.approx(3 / 4)
    assert distinct_rate([[1, 2, 3], [1, 2, 4], [5]], 1) == pytest.approx(5 / 7)
    assert distinct_rate([[5]], 2) is None


@pytest.mark.parametrize(
    ('text', 'period'),
    [
        ('x a a a', 1),
        ('a a a x', 0),
        ('a a', 0),
        ('q a b a b a b', 2),
        ('a b a b', 0),
        ('a b a b a', 0),
        ('no no yes no no yes no no yes', 3),
        ('', 0),
        ('a a b a a b a a a', 1),
    ],
)
def test_loop_period(text, period):
    assert find_loop_period(text.split()) == period


def test_a_loop_ends_in_three_equal_periods():
    rng = random.Random(0)
    for _ in range(300):
        text = ''.join(rng.choice('ab') for _ in range(rng.randrange(12)))
        expected = next((n for n in range(1, len(text) + 1) if text.endswith(text[-n:] * 3)), 0)
        assert find_loop_period(text) == expected


def test_report():
    report = report_repetition(['it is is is', ''], ['it is so', 'so it is then'])
    assert set(report) == {'written', 'reference'}
    written = {'repeated_1': 0.5, 'looping': 0.5, 'words': 2.0, 'empty': 0.5}
    assert written.items() <= report['written'].items()
    reference = {'repeated_1': 0, 'looping': 0, 'words': 3.5, 'texts': 2}
    assert reference.items() <= report['reference'].items()
    assert report['reference']['distinct_1'] == pytest.approx(4 / 7)
    assert set(report_repetition(['x'])) == {'written'}
    assert report_repetition([])['written']['looping'] is None
