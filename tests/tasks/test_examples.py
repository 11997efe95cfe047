"""Tests of examples: every task kind makes them from rows, and rejects rows that do not fit."""

import pytest

from gpt_jax.core.config import TASK_KINDS, TaskConfig, default_config
from gpt_jax.core.errors import UserError
from gpt_jax.tasks import examples
from gpt_jax.tasks.chat_template import ChatTemplate
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)
from gpt_jax.tasks.row_sources import Row

TEMPLATE = ChatTemplate(
    '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}'
    '{{ "[assistant]" if add_generation_prompt }}',
    (),
)


def make_task(**fields):
    values = default_config()['task'] | {'source': 'synthetic:x'} | fields
    return TaskConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def make(row, class_names=None, template=None, **fields):
    task = make_task(**fields)
    return examples.make_example(Row('train[3]', row), task, class_names or {}, template)


def test_every_kind_has_a_function():
    assert set(examples.EXAMPLE_MAKERS) == set(TASK_KINDS) - {'none'}


ANSWER = {'kind': 'completion', 'prompt': '{q}\n', 'answer': ' {a[text][0]}'}
SQUAD = {'q': 'Who?', 'a': {'text': ['Ada', 'Ada L.', 'Ada'], 'answer_start': [1, 2, 3]}}


def test_completion():
    assert make(SQUAD, **ANSWER) == CompletionExample(
        (('Who?\n', False), (' Ada', True)), (' Ada',)
    )
    assert make(SQUAD, **ANSWER, references='a[text]').references == (' Ada', 'Ada L.')
    assert make(SQUAD, **ANSWER | {'prompt': ''}).parts == ((' Ada', True),)


def test_completion_of_a_label():
    fields = {
        'kind': 'completion',
        'prompt': '{text}? ',
        'answer': '{label}',
        'label': 'label',
        'labels': ['bad', 'good'],
    }
    for label in (1, 'good'):
        assert make({'text': 'Fine', 'label': label}, **fields).parts == (
            ('Fine? ', False),
            ('good', True),
        )
    assert make({'text': 'Fine', 'label': -1}, **fields) is None
    unnamed = make(
        {'text': 'Fine', 'label': 1}, kind='completion', prompt='{text}', answer='{label}'
    )
    assert unnamed.parts == (('Fine', False), ('1', True))


def test_completion_in_a_chat_template():
    expected = CompletionExample(
        (('[user]Who?\n[assistant]', False), (' Ada', True)), (' Ada', 'Ada L.')
    )
    assert make(SQUAD, template=TEMPLATE, **ANSWER, references='a[text]', chat=True) == expected
    # Without task.chat, the template is unused.
    assert make(SQUAD, template=TEMPLATE, **ANSWER).parts[0] == ('Who?\n', False)


def test_dialogue():
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}] * 2
    fields = {'kind': 'completion', 'messages': 'turns'}
    expected = (('User: a\nAssistant:', False), (' b\n', True)) * 2
    assert make({'turns': turns}, **fields) == CompletionExample(expected, ('b',))
    in_chat = make({'turns': turns}, template=TEMPLATE, **fields, chat=True)
    assert in_chat.parts == (('[user]a[assistant]', False), ('b', True)) * 2


def test_empty_answer_is_rejected():
    with pytest.raises(
        UserError, match=r'^train\[3\]: task\.answer: must not be empty; leave the row out'
    ):
        make({'q': 'x', 'a': {'text': ['']}}, **ANSWER)
    with pytest.raises(
        UserError,
        match=r"^train\[3\]: 'a\[text\]' has 0 items, but config\.task\.answer reads item 0",
    ):
        make({'q': 'x', 'a': {'text': []}}, **ANSWER)


CLASSIFICATION = {
    'kind': 'classification',
    'prompt': '{s}',
    'label': 'label',
    'labels': ['no', 'yes'],
}


def test_classification():
    assert make({'s': 'x', 'label': 1}, **CLASSIFICATION) == ClassificationExample(('x',), 1, False)
    pair = make(
        {'s': 'x', 't': 'y', 'label': 'no'}, **CLASSIFICATION, text_pair='{t}', symmetric=True
    )
    assert pair == ClassificationExample(('x', 'y'), 0, True)
    # The source orders its classes in another way.
    assert make({'s': 'x', 'label': 0}, {'label': ('yes', 'no')}, **CLASSIFICATION).label == 1
    assert (
        make({'s': 'x', 'about': {'label': 1}}, **CLASSIFICATION | {'label': 'about[label]'}).label
        == 1
    )
    assert make({'s': 'x', 'label': -1}, **CLASSIFICATION) is None
    with pytest.raises(
        UserError, match=r"^train\[3\]: label must be in .*labels: 'no' \(0\), 'yes' \(1\); got 2$"
    ):
        make({'s': 'x', 'label': 2}, **CLASSIFICATION)
    with pytest.raises(
        UserError, match=r"^train\[3\]: no column 'label' for config\.task\.label \(it has s\)"
    ):
        make({'s': 'x'}, **CLASSIFICATION)


def test_multiple_choice():
    fields = {'kind': 'multiple_choice', 'prompt': '{q}', 'label': 'right'}
    two = fields | {'choices': [' {a}', ' {b}']}
    assert make({'q': 'c', 'a': 'x', 'b': 'y', 'right': 1}, **two) == MultipleChoiceExample(
        'c', (' x', ' y'), 1
    )
    assert make({'q': 'c', 'a': 'x', 'b': 'y', 'right': 'B'}, **two, labels=['A', 'B']).label == 1
    listed = fields | {'choices': ['{ends[text]}']}
    three = {'q': 'c', 'ends': {'text': ['x', 'y', 'z']}, 'right': '2'}
    assert make(three, **listed) == MultipleChoiceExample('c', ('x', 'y', 'z'), 2)
    letters = {'right': ('A', 'B', 'C')}
    assert make(three | {'right': 2}, letters, **listed).label == 2
    assert make(three | {'right': -1}, **listed) is None
    for right, labels in ((3, []), (3, list('ABCD'))):
        with pytest.raises(
            UserError,
            match=r'^train\[3\]: (label must be in|config\.task\.label: must be) .*got 3$',
        ):
            make(three | {'right': right}, **listed, labels=labels)


def test_token_classification():
    fields = {
        'kind': 'token_classification',
        'tokens_column': 'tokens',
        'tags_column': 'ner',
        'labels': ['O', 'B-PER'],
    }
    row = {'tokens': ['Ada', 'ran'], 'ner': [1, 0]}
    assert make(row, **fields) == TokenClassificationExample(('Ada', 'ran'), (1, 0))
    assert make(row, {'ner': ('B-PER', 'O')}, **fields).tags == (0, 1)
    assert make({'tokens': 'Ada ran', 'ner': 'B-PER O'}, **fields) == TokenClassificationExample(
        ('Ada', 'ran'), (1, 0)
    )
    assert make({'tokens': [], 'ner': []}, **fields) is None
    with pytest.raises(
        UserError, match=r"^train\[3\]: config\.task\.tags_column: .* 2 words, got 1 tags in 'ner'"
    ):
        make(row | {'ner': [1]}, **fields)
    with pytest.raises(
        UserError,
        match=r"^train\[3\]: label must be in config\.task\.labels: 'O' \(0\), .*got 'B-LOC'",
    ):
        make(row | {'ner': ['B-LOC', 'O']}, **fields)


def test_preference():
    fields = {'kind': 'preference', 'prompt': '{p}', 'chosen': ' {c}', 'rejected': ' {r}'}
    row = {'p': 'Why?', 'c': 'So.', 'r': 'No.'}
    assert make(row, **fields) == PreferenceExample('Why?', ' So.', ' No.')
    assert make(row | {'r': 'So.'}, **fields) is None
    with pytest.raises(UserError, match=r'^train\[3\]: task\.rejected: must not be empty'):
        make(row | {'r': ' '}, **fields)
    in_chat = make(row, template=TEMPLATE, **fields, chat=True)
    assert in_chat == PreferenceExample('[user]Why?[assistant]', ' So.', ' No.')


SENTIMENT = ('negative', 'positive')


def find_index(value, labels=SENTIMENT, source_names=()):
    return examples.find_label_index(value, labels, source_names, 'train[5]', 'task.labels')


@pytest.mark.parametrize(
    ('value', 'labels', 'source_names', 'index'),
    [
        ('positive', SENTIMENT, (), 1),
        (' positive ', SENTIMENT, (), 1),
        ('1', SENTIMENT, (), 1),
        (1, SENTIMENT, (), 1),
        (1.0, SENTIMENT, (), 1),
        (True, SENTIMENT, (), 1),
        (1, ('positive', 'negative'), ('negative', 'positive'), 0),  # the source's name decides
        (1, ('bad', 'good'), ('negative', 'positive'), 1),  # other names in the config
        (2, ('1', '2', '3'), (), 1),  # a number that is a label
        ('2', ('1', '2', '3'), (), 1),
        (2, ('1', '2', '3'), ('1', '2', '3'), 2),  # the number of a class of the source
        (3.8, ('0', '1', '2', '3', '4', '5'), (), 4),
        (-1, ('-1', '0', '1'), (), 0),
    ],
)
def test_label_index(value, labels, source_names, index):
    assert find_index(value, labels, source_names) == index


@pytest.mark.parametrize('value', [-1, -1.0, '-1', None, ''])
def test_row_without_a_label(value):
    assert find_index(value) is None


@pytest.mark.parametrize('value', [2, -2, 0.5, 'postive', '2', '1.0', float('nan'), [1]])
def test_unknown_label_is_rejected(value):
    with pytest.raises(
        UserError, match=r"train\[5\]: label must be in config\.task\.labels: '.*' \(0\), '.*; got "
    ):
        find_index(value)


def test_label_of_the_source_outside_the_config_is_rejected():
    with pytest.raises(UserError, match=r'label must be in .*; got 1$'):
        find_index(1, ('good', 'bad'), ('bad', 'unknown', 'good'))
    with pytest.raises(UserError, match=r'label must be in .*; got 7$'):
        find_index(7, ('0', '5'))


def test_nearest_label_is_named():
    with pytest.raises(
        UserError,
        match=r"'negative' \(0\), 'positive' \(1\); got 'postive'; the nearest is 'positive'$",
    ):
        find_index('postive')
