"""Is repetition counted as it is defined?"""

import random

import pytest

from gpt_jax.evaluate import degeneration


def test_repeated():
    text = list('ababac')  # 3 different words of 6; ab ba ab ba ac: 3 of 5; aba bab aba bac: 3 of 4
    assert degeneration.repeated([text], 1) == pytest.approx(1 - 3 / 6)
    assert degeneration.repeated([text], 2) == pytest.approx(1 - 3 / 5)
    assert degeneration.repeated([text], 3) == pytest.approx(1 - 3 / 4)
    assert degeneration.repeated([text, ['x', 'y']], 2) == pytest.approx((1 - 3 / 5) / 2)  # of texts, not of runs
    assert degeneration.repeated([text, ['x']], 2) == pytest.approx(1 - 3 / 5)  # a text without runs says nothing
    assert degeneration.repeated([['x'], []], 2) is None


def test_distinct_is_over_all_texts():
    assert degeneration.distinct([[1, 2, 3], [1, 2, 4], [5]], 2) == pytest.approx(3 / 4)
    assert degeneration.distinct([[1, 2, 3], [1, 2, 4], [5]], 1) == pytest.approx(5 / 7)
    assert degeneration.distinct([[5]], 2) is None


@pytest.mark.parametrize(
    ('text', 'period'),
    [('x a a a', 1), ('a a a x', 0), ('a a', 0), ('q a b a b a b', 2), ('a b a b', 0), ('a b a b a', 0),
     ('no no yes no no yes no no yes', 3), ('', 0), ('a a b a a b a a a', 1)],
)  # fmt: skip
def test_loop(text, period):
    assert degeneration.loop(text.split()) == period


def test_loop_is_a_text_that_ends_in_its_end_three_times():
    draw = random.Random(0)
    for _ in range(300):
        text = ''.join(draw.choice('ab') for _ in range(draw.randrange(12)))
        expected = next((n for n in range(1, len(text) + 1) if text.endswith(text[-n:] * 3)), 0)
        assert degeneration.loop(text) == expected


def test_report():
    found = degeneration.report(['it is is is', ''], ['it is so', 'so it is then'])
    assert set(found) == {'written', 'reference'}
    assert found['written'] | {'repeated_1': 0.5, 'looping': 0.5, 'words': 2.0, 'empty': 0.5} == found['written']
    assert found['reference'] | {'repeated_1': 0, 'looping': 0, 'words': 3.5, 'texts': 2} == found['reference']
    assert found['reference']['distinct_1'] == pytest.approx(4 / 7)
    assert set(degeneration.report(['x'])) == {'written'}
    assert degeneration.report([])['written']['looping'] is None
