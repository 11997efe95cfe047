"""Datasets from docstrings: rows agree with the library, and with the rules of each dataset."""

import re

import pytest

from gpt_jax.tasks import synthetic
from gpt_jax.tasks.synthetic import docstrings, library


def all_rows(splits):
    return [row for rows in splits.values() for row in rows]


def test_summaries_do_not_occur_in_their_source(small_stdlib):
    rows = all_rows(docstrings.make_summaries_rows(small_stdlib))
    assert len(rows) > 300
    assert not [row for row in rows if row['summary'] in row['source']]
    (row,) = [row for row in rows if row['name'] == 'shorten']
    assert row['source'].startswith('def shorten(text, width, **kwargs):\n    w = TextWrapper(')
    assert row['summary'] == 'Collapse and truncate the given text to fit in the given width.'


def test_answers_are_spans_of_the_context(small_stdlib):
    rows = all_rows(docstrings.make_questions_rows(small_stdlib))
    for row in rows:
        texts, starts = row['answers']['text'], row['answers']['answer_start']
        assert texts
        for text, start in zip(texts, starts, strict=True):
            assert row['context'][start : start + len(text)] == text
    answers = {row['question']: row['answers']['text'] for row in rows}
    assert answers['What does stdev return?'] == [
        'the square root of the sample variance',
        'square root of the sample variance',
    ]
    assert answers['What is the default of sigma in NormalDist.__init__?'] == ['1.0']
    # Several rules apply.
    assert len({re.match(r'\w+ \w+', row['question'])[0] for row in rows}) >= 5


def test_one_ending_continues_the_docstring(small_stdlib):
    docs = {}
    for function in library.list_functions(small_stdlib):
        name = f'{function.owner}.{function.name}'.lstrip('.')
        docs.setdefault(name, []).append(' '.join(function.doc.split()))
    rows = all_rows(docstrings.make_choices_rows(small_stdlib))
    for row in rows:
        name, _, sentence = row['context'].partition(': ')
        endings = row['endings']
        right = endings[row['label']]
        assert len(set(endings)) == 4
        (doc, *_) = [doc for doc in docs[name] if f'{sentence} {right}' in doc]
        assert [ending for ending in endings if ending in doc] == [right]
        lengths = [len(f'{row["context"]} {ending}'.encode()) + 3 for ending in endings]
        assert sum(lengths) <= 1024
    labels = [row['label'] for row in rows]
    assert min(labels.count(label) for label in range(4)) > len(rows) / 8


def test_rejected_answers_follow_their_rule(small_stdlib):
    rows = all_rows(docstrings.make_preferences_rows(small_stdlib))
    for row in rows:
        chosen, rejected = row['chosen'], row['rejected']
        follows_rule = {
            'other': rejected != chosen and rejected.endswith('.'),
            'cut': chosen.startswith(rejected) and len(rejected) < len(chosen),
            'twice': rejected == f'{chosen} {chosen}',
            'talk': chosen in rejected and len(rejected) > len(chosen) + 20,
        }
        assert follows_rule[row['rule']]
    assert {row['rule'] for row in rows} == {'other', 'cut', 'twice', 'talk'}


@pytest.mark.parametrize(
    'name', ['choices', 'summaries', 'preferences', 'dialogue', 'questions', 'entities']
)
def test_a_library_without_docstrings_gives_no_rows(stdlib_root, name):
    assert all_rows(synthetic.DATASETS[name](stdlib_root)) == []
