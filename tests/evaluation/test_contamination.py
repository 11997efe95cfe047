"""N-gram overlap against a search in plain text, and the training text of runs."""

import io
import random
import re
import weakref

import numpy as np
import pytest

from gpt_jax.core.config import default_config, parse_section
from gpt_jax.core.errors import UserError
from gpt_jax.core.progress import Progress
from gpt_jax.evaluation import contamination
from gpt_jax.evaluation.contamination import measure_overlap
from gpt_jax.tasks.row_sources import Row

WORDS = [f'w{number}' for number in range(12)]


def search_plain_text(example, documents, n):
    """The share of n-grams that occur in the documents, written with single spaces."""
    plain = [
        f' {" ".join(re.sub(r"[^a-z0-9 ]", "", text.lower().replace(chr(10), " ")).split())} '
        for text in (example, *documents)
    ]
    words, texts = plain[0].split(), plain[1:]
    if not words:
        return 0.0
    size = min(n, len(words))
    ngrams = [
        f' {" ".join(words[start : start + size])} ' for start in range(len(words) - size + 1)
    ]
    return sum(any(ngram in text for text in texts) for ngram in ngrams) / len(ngrams)


@pytest.mark.parametrize('n', [1, 2, 3, 5])
def test_overlap_is_what_a_plain_search_finds(n):
    rng = random.Random(n)

    def make_text(length):
        return ' '.join(rng.choice(WORDS) for _ in range(rng.randrange(length)))

    documents = [make_text(40) for _ in range(30)]
    examples = [make_text(9) for _ in range(60)]
    overlap = measure_overlap(examples, documents, n)
    expected = [search_plain_text(example, documents, n) for example in examples]
    np.testing.assert_allclose(overlap.share, expected)
    assert n < 3 or 0 < np.mean(overlap.clean_mask()) < 1
    assert overlap.short.tolist() == [len(example.split()) < n for example in examples]


LONG = 'the quick brown fox jumps over the lazy dog and runs into the deep dark wood at night'


def test_thirteen_words_match():
    words = LONG.split()
    twelve, thirteen = ' '.join(words[:12]), ' '.join(words[2:15])
    assert measure_overlap([LONG], [f'so {twelve} so']).share == [0]
    assert measure_overlap([LONG], [f'so {thirteen} so']).share == [1 / (len(words) - 12)]
    middle = len(thirteen) // 2
    assert measure_overlap([LONG], [thirteen[:middle], thirteen[middle:]]).share == [0]


def test_case_punctuation_and_spaces_do_not_matter():
    changed = LONG.upper().replace(' ', ',\n ', 5).replace('DOG', '"dog!"')
    assert measure_overlap([changed], [LONG]).share == [1]
    assert measure_overlap(["It isn't_so"], ['so it isntso is']).share == [1]
    # Letters are not folded.
    assert measure_overlap(['Größe über alles'], ['grösse über alles']).share == [0]


def test_short_examples_match_as_a_whole():
    examples = ['a red fox', 'red fox a', 'fox', '', '?!']
    overlap = measure_overlap(examples, ['There was a red, fox.'])
    assert overlap.share.tolist() == [1, 0, 1, 0, 0]
    assert overlap.short.all()


def test_report():
    examples = [LONG, 'short and seen', 'short and new', LONG[4:] + ' new']
    overlap = measure_overlap(examples, iter([LONG, 'short and seen']))
    assert overlap.clean_mask().tolist() == [False, False, True, False]
    assert overlap.clean_mask(0.9).tolist() == [False, False, True, True]
    ngrams = len(LONG.split()) - 12
    assert contamination.report_contamination(overlap) == {
        'words_in_a_run': 13,
        'documents': 2,
        'examples': 4,
        'clean': 1,
        'contaminated': 3,
        'fraction_contaminated': 0.75,
        'mean_share_found': pytest.approx((1 + 1 + 0 + (ngrams - 1) / ngrams) / 4),
        'short': 2,
        'short_contaminated': 1,
    }
    empty = contamination.report_contamination(measure_overlap([], ['x']))
    assert empty['fraction_contaminated'] == 0


class Text(str):
    """A string that can be weakly referenced."""


def test_documents_are_not_held():
    references = []

    def make_documents():
        for number in range(4):
            document = Text(f'{LONG} {number}')
            references.append(weakref.ref(document))
            yield document
            del document
            assert [reference() for reference in references[:-1]] == [None] * number

    assert measure_overlap([f'{LONG} 2'], make_documents()).documents == 4


def test_an_ngram_of_no_words_is_refused():
    with pytest.raises(ValueError, match='ngram: must be 1 or more, got 0'):
        measure_overlap(['x'], ['x'], 0)


PROGRESS = Progress(io.StringIO(), trial=None, name='', steps=1)
SENTENCE = 'the quick brown fox jumps over the lazy dog while all of us look on'
QUESTIONS = [
    (SENTENCE,),
    ('of this there is nothing in any of the files that the model has ever read',),
    ('a', SENTENCE),
]


@pytest.fixture
def data(tmp_path):
    """Many documents, two of them with the sentence: at least one is in the train split."""
    for number in range(40):
        sentence = SENTENCE if number in (3, 4) else 'no'
        (tmp_path / f'{number}.txt').write_text(f'{number} before, {sentence}; after\n')
    return contamination.make_data_config(f'files:{tmp_path}/*.txt', str(tmp_path / 'cache'))


def find(questions, training_data, ngram, log=print, **options):
    return contamination.find_contamination(
        questions, training_data, ngram, PROGRESS, log, **options
    )


def test_a_question_is_contaminated_by_any_of_its_texts(data):
    result = find(QUESTIONS, [data], 5, all_splits=True)
    assert result.clean_mask().tolist() == [False, True, False]
    assert result.short.tolist() == [False, False, False]
    assert result.documents == 40


def test_the_training_text_is_read_once(data, monkeypatch):
    reads = []
    documents = contamination.iterate_documents
    monkeypatch.setattr(
        contamination, 'iterate_documents', lambda *which: reads.append(which) or documents(*which)
    )
    first = find(QUESTIONS, [data], 5)
    again = find(QUESTIONS, [data], 5)
    assert len(reads) == 1
    np.testing.assert_array_equal(again.share, first.share)
    find(QUESTIONS, [data], 6)
    find(QUESTIONS[:1], [data], 5)
    assert len(reads) == 3


def test_missing_training_text_is_logged(data):
    lines = []
    missing = contamination.make_data_config('files:/gone/*.txt')
    assert find(QUESTIONS, [missing], 5, lines.append) is None
    assert 'not checked against files:/gone/*.txt' in lines[0]
    assert find(QUESTIONS, [missing, data], 5, lines.append).documents < 40
    with pytest.raises(UserError, match='matches no file'):
        find(QUESTIONS, [missing], 5, lines.append, all_splits=True)
    assert find(QUESTIONS, [], 5, lines.append) is None
    assert find(QUESTIONS, [data], 0, lines.append) is None


def test_training_examples_are_found():
    result = contamination.find_contamination_in_examples(
        QUESTIONS, [('x', SENTENCE), ('other',)], 5
    )
    assert result.clean_mask().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ('task', 'columns', 'texts'),
    [
        (
            {'kind': 'completion', 'prompt': 'Say: {text}', 'answer': '{said}'},
            {'text': 'hi', 'said': 'ho'},
            ('hi',),
        ),
        (
            {
                'kind': 'classification',
                'prompt': '{a}',
                'text_pair': '{b}',
                'label': 'l',
                'labels': ('n', 'y'),
            },
            {'a': 'x', 'b': ' ', 'l': 0},
            ('x',),
        ),
        (
            {
                'kind': 'token_classification',
                'tokens_column': 'w',
                'tags_column': 't',
                'labels': ('O', 'B'),
            },
            {'w': ['a', 'b'], 't': [0, 1]},
            ('a b',),
        ),
    ],
)
def test_question_texts_have_none_of_the_words_of_templates(task, columns, texts):
    raw_config = default_config()
    raw_config['task'] |= {'source': 'files:x'} | task
    task_config = parse_section(raw_config, 'task')
    assert contamination.question_texts(task_config, Row('row', columns)) == texts
