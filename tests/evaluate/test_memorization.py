"""Are windows spread evenly, is what comes back counted, and do planted strings stand as often as was said?"""

import collections

import numpy as np
import pytest

from gpt_jax.evaluate import memorization
from gpt_jax.evaluate.memorization import Window

LENGTHS = [3, 40, 0, 5, 200, 9, 10]


def test_windows_are_even_different_and_seeded():
    size, count = 10, 50
    chosen = memorization.windows(LENGTHS, count, size, seed=1)
    assert chosen == memorization.windows(LENGTHS, count, size, seed=1)
    assert chosen != memorization.windows(LENGTHS, count, size, seed=2)
    assert len(set(chosen)) == count
    places = [(number, start) for number, length in enumerate(LENGTHS) for start in range(length - size + 1)]
    at = [places.index(tuple(one)) for one in chosen]  # every window lies within its sequence
    part = len(places) / count
    assert all(abs(place - (number + 0.5) * part) <= part / 2 + 1 for number, place in enumerate(at))


def test_all_places_there_are():
    chosen = memorization.windows([4, 2, 3], 3, 3, seed=0)
    assert chosen == [Window(0, 0), Window(0, 1), Window(2, 0)]
    for count in (0, 4):
        with pytest.raises(ValueError, match=f'{count} windows of 3 tokens from a corpus that has 3 places'):
            memorization.windows([4, 2, 3], count, 3, seed=0)


def test_every_place_is_as_likely():
    drawn = collections.Counter(one for seed in range(2000) for one in memorization.windows([6, 7], 3, 3, seed))
    assert len(drawn) == 9
    for count in drawn.values():  # of 9 places, each has a third of a chance
        assert abs(count - 2000 / 3) < 5 * np.sqrt(2000 * (1 / 3) * (2 / 3))


def test_cut():
    sequences = [np.arange(10), list(range(100, 130))]
    given, right = memorization.cut(sequences, [Window(1, 4), Window(0, 5)], prefix=2, continuation=3)
    assert given.tolist() == [[104, 105], [5, 6]]
    assert right.tolist() == [[106, 107, 108], [7, 8, 9]]
    with pytest.raises(ValueError, match='sequence 0 has 4 tokens from 6 on; wants 5'):
        memorization.cut(sequences, [Window(0, 6)], prefix=2, continuation=3)


def test_recalled():
    right = [[1, 2, 3]] * 5
    written = [[1, 2, 3, 9], [1, 2, 4], [1, 2], [], [9, 2, 3]]
    found = memorization.recalled(written, right, groups=[4, 1, 1, 0, 4])
    assert found['all']['windows'] == 5
    assert found['all']['exact'] == 1 / 5
    assert found['all']['matched'] == pytest.approx((3 + 2 + 2 + 0 + 0) / 5)
    assert found['all']['matched_median'] == 2
    assert 0 < found['all']['low'] < 0.2 < found['all']['high'] < 1
    by_group = {group: (numbers['windows'], numbers['exact'], numbers['matched'])
                for group, numbers in found['groups'].items()}  # fmt: skip
    assert by_group == {4: (2, 0.5, 1.5), 1: (2, 0, 2), 0: (1, 0, 0)}
    assert memorization.recalled(written, right)['groups'] == {}
    arrays = memorization.recalled(np.array([[1, 2, 3]]), np.array([[1, 2, 3]]))
    assert arrays['all']['exact'] == 1


DOCUMENTS = ['one\ntwo\nthree', 'no line ends here', '', 'a\n', 'b\r\nc\r\n']


def test_planted_strings_stand_as_often_as_was_said():
    planted, canaries = memorization.plant(DOCUMENTS, (0, 1, 2, 4, 12), each=3, words=6, seed=7)
    assert (planted, canaries) == memorization.plant(DOCUMENTS, (0, 1, 2, 4, 12), each=3, words=6, seed=7)
    assert memorization.plant(DOCUMENTS, (1,), each=1, words=6, seed=8) != memorization.plant(DOCUMENTS, (1,), 1, 6, 9)
    assert len({one.text for one in canaries}) == 15
    lines = collections.Counter(line for text in planted for line in text.splitlines())
    for text, count in canaries:
        assert len(text.split()) == 6
        assert lines[text] == sum(one.count(text) for one in planted) == count
        holders = sum(text in one for one in planted)
        assert holders == min(count, len(DOCUMENTS))
    texts = {one.text for one in canaries}
    for before, after in zip(DOCUMENTS, planted, strict=True):
        assert [line for line in after.splitlines() if line not in texts] == before.splitlines()


def test_the_places_differ():
    documents = ['\n'.join(f'line {n}' for n in range(50))] * 2
    planted, canaries = memorization.plant(documents, (2,) * 20, each=1, words=3, seed=0)
    at = {text.splitlines().index(one.text) for one in canaries for text in planted}
    assert len(at) > 25
    with pytest.raises(ValueError, match='no documents'):
        memorization.plant([], (1,), 1, 3, 0)
