"""Do templates take what they name, and nothing else?"""

import pytest

from gpt_jax.data import template
from gpt_jax.errors import UserError

ROW = {
    'question': 'Why?',
    'count': 3,
    'share': 0.5,
    'true': True,
    'answers': {'text': ['Because.', 'So.'], 'start': [4, 9]},
    'turns': [{'role': 'user', 'text': 'a'}, {'role': 'bot', 'text': 'b'}],
    'nothing': None,
    'empty': [],
    'a.b': 'dotted',
    'content-type': 'dashed',
}


def fill(text, row=ROW):
    return template.fill(template.parse(text, 'task.prompt'), row, 'set.jsonl:7')


@pytest.mark.parametrize(
    ('text', 'filled'),
    [
        ('', ''),
        ('plain', 'plain'),
        ('{question} {count} {share} {true}', 'Why? 3 0.5 True'),
        ('{answers[text][0]}/{answers[text][-1]}', 'Because./So.'),
        ('{turns[1][text]}{turns[text][0]}', 'ba'),
        ('{{{question}}}', '{Why?}'),
        ('{a.b} {content-type}', 'dotted dashed'),
    ],
)
def test_filled(text, filled):
    assert fill(text) == filled


@pytest.mark.parametrize('text', ['{question', 'question}', '{}', '{question!r}', '{question:>9}', '{a[}', '{a[]}'])
def test_templates_that_are_none(text):
    with pytest.raises(UserError, match=r'^config\.task\.prompt: ') as caught:
        template.parse(text, 'task.prompt')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['{question.__class__}', '{question[__class__]}', '{answers.keys}'])
def test_attributes_are_out_of_reach(text):
    with pytest.raises(UserError, match=r'no column|asks for'):
        fill(text)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{qestion}', r"^set\.jsonl:7: no column 'qestion', which config\.task\.prompt asks for \(it has question, "
         r"count, .*content-type\); the nearest is 'question'$"),
        ('{answers[txt]}', r"'answers' has no 'txt', which config\.task\.prompt asks for \(it has text, start\)"),
        ('{answers[text][2]}', r"'answers\[text\]' has 2 members, and config\.task\.prompt asks for number 2, from 0"),
        ('{empty[0]}', r"'empty' has no members"),
        ('{nothing}', r"'nothing' holds nothing \(null\)"),
        ('{nothing[0]}', r"'nothing' is nothing \(null\), and config\.task\.prompt asks for 0 of it"),
        ('{answers[text]}', r"a list, and config\.task\.prompt asks for its text; write \{answers\[text\]\[0\]\}"),
        ('{answers}', r"'answers' holds an object"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(text, message):
    with pytest.raises(UserError, match=message):
        fill(text)


def test_columns_that_list_texts():
    def texts(path, row=ROW):
        return template.texts(template.parse_path(path, 'task.words'), row, 'train[0]', 'task.words')

    assert texts('answers[text]') == ['Because.', 'So.']
    assert texts('turns[text]') == ['a', 'b']
    assert texts('words', {'words': ' one  two\n'}) == ['one', 'two']
    with pytest.raises(UserError, match=r"train\[0\]: 'answers\[start\]' has 4 as number 0; config\.task\.words wants"):
        texts('answers[start]')
    with pytest.raises(UserError, match=r"'count' is 3; config\.task\.words wants a list of texts"):
        texts('count')


def test_columns_that_a_template_names():
    assert template.parse('{b} {a[x]} {b}', 'task.prompt').columns == ('b', 'a')
