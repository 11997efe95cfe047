"""Is what stands in the corpus found, and nothing else? Against a search in plain text."""

import random
import re
import weakref

import numpy as np
import pytest

from gpt_jax.evaluate import contamination

WORDS = [f'w{number}' for number in range(12)]


def searched(example, documents, n):
    """The share of runs found, by looking for each in the documents written with single spaces."""
    plain = [f' {" ".join(re.sub(r"[^a-z0-9 ]", "", text.lower().replace(chr(10), " ")).split())} '
             for text in (example, *documents)]  # fmt: skip
    words, texts = plain[0].split(), plain[1:]
    if not words:
        return 0.0
    size = min(n, len(words))
    runs = [f' {" ".join(words[at : at + size])} ' for at in range(len(words) - size + 1)]
    return sum(any(run in text for text in texts) for run in runs) / len(runs)


@pytest.mark.parametrize('n', [1, 2, 3, 5])
def test_it_is_what_a_search_finds(n):
    draw = random.Random(n)

    def text(most):
        return ' '.join(draw.choice(WORDS) for _ in range(draw.randrange(most)))

    documents, examples = [text(40) for _ in range(30)], [text(9) for _ in range(60)]
    found = contamination.find(examples, documents, n)
    expected = [searched(example, documents, n) for example in examples]
    np.testing.assert_allclose(found.share, expected)
    assert n < 3 or 0 < np.mean(found.clean()) < 1
    assert found.short.tolist() == [len(example.split()) < n for example in examples]


LONG = 'the quick brown fox jumps over the lazy dog and runs into the deep dark wood at night'


def test_thirteen_words_in_a_row():
    words = LONG.split()
    twelve, thirteen = ' '.join(words[:12]), ' '.join(words[2:15])
    assert contamination.find([LONG], [f'so {twelve} so']).share == [0]
    assert contamination.find([LONG], [f'so {thirteen} so']).share == [1 / (len(words) - 12)]
    assert contamination.find([LONG], [thirteen[: len(thirteen) // 2], thirteen[len(thirteen) // 2 :]]).share == [0]


def test_case_punctuation_and_spaces_do_not_matter():
    changed = LONG.upper().replace(' ', ',\n ', 5).replace('DOG', '"dog!"')
    assert contamination.find([changed], [LONG]).share == [1]
    assert contamination.find(["It isn't_so"], ['so it isntso is']).share == [1]
    assert contamination.find(['Größe über alles'], ['GRÖSSE über alles'.lower()]).share == [0]  # letters are letters


def test_short_ones_as_a_whole():
    found = contamination.find(['a red fox', 'red fox a', 'fox', '', '?!'], ['There was a red, fox.'])
    assert found.share.tolist() == [1, 0, 1, 0, 0]
    assert found.short.all()


def test_report():
    found = contamination.find(
        [LONG, 'short and seen', 'short and new', LONG[4:] + ' new'], iter([LONG, 'short and seen'])
    )
    assert found.clean().tolist() == [False, False, True, False]
    assert found.clean(0.9).tolist() == [False, False, True, True]
    runs = len(LONG.split()) - 12
    assert contamination.report(found) == {
        'words_in_a_run': 13, 'documents': 2, 'examples': 4, 'clean': 1, 'contaminated': 3,
        'fraction_contaminated': 0.75, 'mean_share_found': pytest.approx((1 + 1 + 0 + (runs - 1) / runs) / 4),
        'short': 2, 'short_contaminated': 1,
    }  # fmt: skip
    assert contamination.report(contamination.find([], ['x']))['fraction_contaminated'] == 0


class Text(str):
    """One that can be asked whether it is still there."""


def test_the_corpus_is_not_held():
    gone = []

    def documents():
        for number in range(4):
            document = Text(f'{LONG} {number}')
            gone.append(weakref.ref(document))
            yield document
            del document
            assert [one() for one in gone[:-1]] == [None] * number

    assert contamination.find([f'{LONG} 2'], documents()).documents == 4


def test_runs_of_no_words():
    with pytest.raises(ValueError, match='runs of 0 words'):
        contamination.find(['x'], ['x'], 0)
