"""Are questions found in what a model has read, its base's texts too, and is that text read once alone?"""

import io

import numpy as np
import pytest

from gpt_jax import overrides
from gpt_jax.data.rows import Row
from gpt_jax.errors import UserError
from gpt_jax.modes import contaminated, training_text
from gpt_jax.observe.progress import Progress

LINE = Progress(io.StringIO(), trial=None, name='', steps=1)
SENTENCE = 'the quick brown fox jumps over the lazy dog while all of us look on'
QUESTIONS = [
    (SENTENCE,),
    ('of this there is nothing in any of the files that the model has ever read',),
    ('a', SENTENCE),
]


@pytest.fixture
def text(tmp_path):
    """Many documents, of which two hold the sentence: so one is in the train split, if not both."""
    for number in range(40):
        (tmp_path / f'{number}.txt').write_text(f'{number} before, {SENTENCE if number in (3, 4) else "no"}; after\n')
    return training_text.named(f'files:{tmp_path}/*.txt', str(tmp_path / 'cache'))


def test_a_question_is_found_by_any_of_its_texts(text):
    found = contaminated.look(QUESTIONS, [text], 5, LINE, print, whole=True)
    assert found.clean().tolist() == [False, True, False]
    assert found.short.tolist() == [False, False, False]
    assert found.documents == 40


def test_the_text_is_read_once(text, monkeypatch):
    read = []
    documents = training_text.documents
    monkeypatch.setattr(training_text, 'documents', lambda *which: read.append(which) or documents(*which))
    first = contaminated.look(QUESTIONS, [text], 5, LINE, print)
    again = contaminated.look(QUESTIONS, [text], 5, LINE, print)
    assert len(read) == 1
    np.testing.assert_array_equal(again.share, first.share)
    contaminated.look(QUESTIONS, [text], 6, LINE, print)
    contaminated.look(QUESTIONS[:1], [text], 5, LINE, print)
    assert len(read) == 3


def test_what_cannot_be_looked_at_is_said(text):
    said = []
    gone = training_text.named('files:/gone/*.txt')
    assert contaminated.look(QUESTIONS, [gone], 5, LINE, said.append) is None
    assert 'not looked for in files:/gone/*.txt' in said[0]
    assert contaminated.look(QUESTIONS, [gone, text], 5, LINE, said.append).documents < 40
    with pytest.raises(UserError, match='matches no file'):
        contaminated.look(QUESTIONS, [gone], 5, LINE, said.append, whole=True)
    assert contaminated.look(QUESTIONS, [], 5, LINE, said.append) is None
    assert contaminated.look(QUESTIONS, [text], 0, LINE, said.append) is None


def test_examples_that_are_trained_on_too_are_found():
    found = contaminated.among(QUESTIONS, [('x', SENTENCE), ('other',)], 5)
    assert found.clean().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ('task', 'columns', 'texts'),
    [
        ({'kind': 'answer', 'prompt': 'Say: {text}', 'answer': '{said}'}, {'text': 'hi', 'said': 'ho'}, ('hi',)),
        (
            {'kind': 'classify', 'prompt': '{a}', 'second': '{b}', 'label': 'l', 'labels': ('n', 'y')},
            {'a': 'x', 'b': ' ', 'l': 0},
            ('x',),
        ),
        ({'kind': 'label', 'words': 'w', 'tags': 't', 'labels': ('O', 'B')}, {'w': ['a', 'b'], 't': [0, 1]}, ('a b',)),
    ],
)
def test_what_is_looked_for_has_none_of_the_templates_words(task, columns, texts):
    from gpt_jax import assemble

    config = overrides.defaults()
    config['task'] |= {'source': 'files:x'} | task
    assert contaminated.texts(assemble.task_config(config), Row('row', columns)) == texts
