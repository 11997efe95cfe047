"""Does every kind of task make its examples of rows, and refuse those that do not fit?"""

import pytest

from gpt_jax import overrides
from gpt_jax.data import chat, examples
from gpt_jax.data.examples import Answer, Choice, Classified, Labelled, Preference
from gpt_jax.data.rows import Row
from gpt_jax.data.task import KINDS, TaskConfig
from gpt_jax.errors import UserError

INST = '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ "[assistant]" if add_generation_prompt }}'


def task(**fields):
    values = overrides.defaults()['task'] | {'source': 'made:x'} | fields
    return TaskConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def make(row, classes=None, how=None, **fields):
    return examples.make(Row('train[3]', row), task(**fields), classes or {}, how)


def test_every_kind_has_its_function():
    assert set(examples.KINDS) == set(KINDS) - {'none'}


ANSWER = {'kind': 'answer', 'prompt': '{q}\n', 'answer': ' {a[text][0]}'}
SQUAD = {'q': 'Who?', 'a': {'text': ['Ada', 'Ada L.', 'Ada'], 'answer_start': [1, 2, 3]}}


def test_answer():
    assert make(SQUAD, **ANSWER) == Answer((('Who?\n', False), (' Ada', True)), (' Ada',))
    assert make(SQUAD, **ANSWER, references='a[text]').references == (' Ada', 'Ada L.')
    assert make(SQUAD, **ANSWER | {'prompt': ''}).parts == ((' Ada', True),)


def test_answer_with_a_labels_word():
    fields = {'kind': 'answer', 'prompt': '{text}? ', 'answer': '{label}', 'label': 'label', 'labels': ['bad', 'good']}
    for given in (1, 'good'):
        assert make({'text': 'Fine', 'label': given}, **fields).parts == (('Fine? ', False), ('good', True))
    assert make({'text': 'Fine', 'label': -1}, **fields) is None
    number = make({'text': 'Fine', 'label': 1}, kind='answer', prompt='{text}', answer='{label}')
    assert number.parts == (('Fine', False), ('1', True))


def test_answer_in_a_chat_template():
    how = chat.Chat(INST, ())
    expected = Answer((('[user]Who?\n[assistant]', False), (' Ada', True)), (' Ada', 'Ada L.'))
    assert make(SQUAD, how=how, **ANSWER, references='a[text]', chat=True) == expected
    assert make(SQUAD, how=how, **ANSWER).parts[0] == ('Who?\n', False)  # the template is there, and not asked for


def test_dialogue():
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}] * 2
    fields = {'kind': 'answer', 'messages': 'turns'}
    expected = (('User: a\nAssistant:', False), (' b\n', True)) * 2
    assert make({'turns': turns}, **fields) == Answer(expected, ('b',))
    in_chat = make({'turns': turns}, how=chat.Chat(INST, ()), **fields, chat=True)
    assert in_chat.parts == (('[user]a[assistant]', False), ('b', True)) * 2


def test_empty_answer():
    with pytest.raises(UserError, match=r'^train\[3\]: task\.answer is empty; leave the row out'):
        make({'q': 'x', 'a': {'text': ['']}}, **ANSWER)
    with pytest.raises(UserError, match=r"^train\[3\]: 'a\[text\]' has no members, and config\.task\.answer asks for"):
        make({'q': 'x', 'a': {'text': []}}, **ANSWER)


CLASSIFY = {'kind': 'classify', 'prompt': '{s}', 'label': 'label', 'labels': ['no', 'yes']}


def test_classify():
    assert make({'s': 'x', 'label': 1}, **CLASSIFY) == Classified(('x',), 1, False)
    pair = make({'s': 'x', 't': 'y', 'label': 'no'}, **CLASSIFY, second='{t}', symmetric=True)
    assert pair == Classified(('x', 'y'), 0, True)
    assert make({'s': 'x', 'label': 0}, {'label': ('yes', 'no')}, **CLASSIFY).label == 1  # the source's own order
    assert make({'s': 'x', 'about': {'label': 1}}, **CLASSIFY | {'label': 'about[label]'}).label == 1
    assert make({'s': 'x', 'label': -1}, **CLASSIFY) is None
    with pytest.raises(
        UserError, match=r"^train\[3\]: 2 is none of the labels of config\.task\.labels: 'no' \(0\), 'yes'"
    ):
        make({'s': 'x', 'label': 2}, **CLASSIFY)
    with pytest.raises(
        UserError, match=r"^train\[3\]: no column 'label', which config\.task\.label asks for \(it has s\)"
    ):
        make({'s': 'x'}, **CLASSIFY)


def test_choose():
    fields = {'kind': 'choose', 'prompt': '{q}', 'label': 'right'}
    two = fields | {'choices': [' {a}', ' {b}']}
    assert make({'q': 'c', 'a': 'x', 'b': 'y', 'right': 1}, **two) == Choice('c', (' x', ' y'), 1)
    assert make({'q': 'c', 'a': 'x', 'b': 'y', 'right': 'B'}, **two, labels=['A', 'B']).label == 1
    listed = fields | {'choices': ['{ends[text]}']}
    three = {'q': 'c', 'ends': {'text': ['x', 'y', 'z']}, 'right': '2'}
    assert make(three, **listed) == Choice('c', ('x', 'y', 'z'), 2)
    letters = {'right': ('A', 'B', 'C')}
    assert make(three | {'right': 2}, letters, **listed).label == 2
    assert make(three | {'right': -1}, **listed) is None
    for right, labels in ((3, []), (3, list('ABCD'))):
        with pytest.raises(
            UserError, match=r'^train\[3\]: (3 is none of the labels|config\.task\.label says that choice 3)'
        ):
            make(three | {'right': right}, **listed, labels=labels)


def test_label():
    fields = {'kind': 'label', 'words': 'tokens', 'tags': 'ner', 'labels': ['O', 'B-PER']}
    row = {'tokens': ['Ada', 'ran'], 'ner': [1, 0]}
    assert make(row, **fields) == Labelled(('Ada', 'ran'), (1, 0))
    assert make(row, {'ner': ('B-PER', 'O')}, **fields).tags == (0, 1)
    assert make({'tokens': 'Ada ran', 'ner': 'B-PER O'}, **fields) == Labelled(('Ada', 'ran'), (1, 0))
    assert make({'tokens': [], 'ner': []}, **fields) is None
    with pytest.raises(UserError, match=r"^train\[3\]: config\.task\.tags: 'ner' holds 1 tags for 2 words"):
        make(row | {'ner': [1]}, **fields)
    with pytest.raises(
        UserError, match=r"^train\[3\]: 'B-LOC' is none of the labels of config\.task\.labels: 'O' \(0\)"
    ):
        make(row | {'ner': ['B-LOC', 'O']}, **fields)


def test_prefer():
    fields = {'kind': 'prefer', 'prompt': '{p}', 'chosen': ' {c}', 'rejected': ' {r}'}
    row = {'p': 'Why?', 'c': 'So.', 'r': 'No.'}
    assert make(row, **fields) == Preference('Why?', ' So.', ' No.')
    assert make(row | {'r': 'So.'}, **fields) is None
    with pytest.raises(UserError, match=r'^train\[3\]: task\.rejected is empty'):
        make(row | {'r': ' '}, **fields)
    in_chat = make(row, how=chat.Chat(INST, ()), **fields, chat=True)
    assert in_chat == Preference('[user]Why?[assistant]', ' So.', ' No.')
