"""Windows of a corpus, recall of continuations, and planted canaries."""

import collections

import numpy as np
import pytest

from gpt_jax.evaluation import memorization
from gpt_jax.evaluation.memorization import TextWindow, plant_canaries

LENGTHS = [3, 40, 0, 5, 200, 9, 10]


def test_windows_are_even_different_and_seeded():
    size, count = 10, 50
    windows = memorization.sample_windows(LENGTHS, count, size, seed=1)
    assert windows == memorization.sample_windows(LENGTHS, count, size, seed=1)
    assert windows != memorization.sample_windows(LENGTHS, count, size, seed=2)
    assert len(set(windows)) == count
    starts = [
        (sequence, start)
        for sequence, length in enumerate(LENGTHS)
        for start in range(length - size + 1)
    ]
    positions = [starts.index(tuple(window)) for window in windows]
    part = len(starts) / count
    assert all(
        abs(position - (number + 0.5) * part) <= part / 2 + 1
        for number, position in enumerate(positions)
    )


def test_all_windows_of_a_corpus():
    windows = memorization.sample_windows([4, 2, 3], 3, 3, seed=0)
    assert windows == [TextWindow(0, 0), TextWindow(0, 1), TextWindow(2, 0)]
    for count in (0, 4):
        message = f'between 1 and the 3 windows of 3 tokens in the corpus, got {count}'
        with pytest.raises(ValueError, match=message):
            memorization.sample_windows([4, 2, 3], count, 3, seed=0)


def test_every_window_is_equally_likely():
    """Each of nine windows is drawn with a probability of one third."""
    counts = collections.Counter(
        window for seed in range(2000) for window in memorization.sample_windows([6, 7], 3, 3, seed)
    )
    assert len(counts) == 9
    for count in counts.values():
        assert abs(count - 2000 / 3) < 5 * np.sqrt(2000 * (1 / 3) * (2 / 3))


def test_split_windows():
    sequences = [np.arange(10), list(range(100, 130))]
    windows = [TextWindow(1, 4), TextWindow(0, 5)]
    prefixes, continuations = memorization.split_windows(
        sequences, windows, prefix=2, continuation=3
    )
    assert prefixes.tolist() == [[104, 105], [5, 6]]
    assert continuations.tolist() == [[106, 107, 108], [7, 8, 9]]
    with pytest.raises(ValueError, match='sequence 0 must have 5 tokens from 6 on, got 4'):
        memorization.split_windows(sequences, [TextWindow(0, 6)], prefix=2, continuation=3)


def test_recall():
    references = [[1, 2, 3]] * 5
    generated = [[1, 2, 3, 9], [1, 2, 4], [1, 2], [], [9, 2, 3]]
    report = memorization.score_recall(generated, references, groups=[4, 1, 1, 0, 4])
    total = report['all']
    assert total['windows'] == 5
    assert total['exact'] == 1 / 5
    assert total['matched'] == pytest.approx((3 + 2 + 2 + 0 + 0) / 5)
    assert total['matched_median'] == 2
    assert 0 < total['low'] < 0.2 < total['high'] < 1
    by_group = {
        group: (numbers['windows'], numbers['exact'], numbers['matched'])
        for group, numbers in report['groups'].items()
    }
    assert by_group == {4: (2, 0.5, 1.5), 1: (2, 0, 2), 0: (1, 0, 0)}
    assert memorization.score_recall(generated, references)['groups'] == {}
    arrays = memorization.score_recall(np.array([[1, 2, 3]]), np.array([[1, 2, 3]]))
    assert arrays['all']['exact'] == 1


DOCUMENTS = ['one\ntwo\nthree', 'no line ends here', '', 'a\n', 'b\r\nc\r\n']


def test_canaries_occur_as_often_as_planned():
    counts = (0, 1, 2, 4, 12)
    planted, canaries = plant_canaries(DOCUMENTS, counts, each=3, words=6, seed=7)
    assert (planted, canaries) == plant_canaries(DOCUMENTS, counts, each=3, words=6, seed=7)
    other = plant_canaries(DOCUMENTS, (1,), each=1, words=6, seed=8)
    assert other != plant_canaries(DOCUMENTS, (1,), each=1, words=6, seed=9)
    texts = {canary.text for canary in canaries}
    assert len(texts) == 15
    lines = collections.Counter(line for text in planted for line in text.splitlines())
    for text, count in canaries:
        assert len(text.split()) == 6
        assert lines[text] == sum(document.count(text) for document in planted) == count
        assert sum(text in document for document in planted) == min(count, len(DOCUMENTS))
    for before, after in zip(DOCUMENTS, planted, strict=True):
        assert [line for line in after.splitlines() if line not in texts] == before.splitlines()


def test_canaries_are_at_different_positions():
    documents = ['\n'.join(f'line {n}' for n in range(50))] * 2
    planted, canaries = plant_canaries(documents, (2,) * 20, each=1, words=3, seed=0)
    positions = {text.splitlines().index(canary.text) for canary in canaries for text in planted}
    assert len(positions) > 25
    with pytest.raises(ValueError, match='documents: must not be empty'):
        plant_canaries([], (1,), 1, 3, 0)
