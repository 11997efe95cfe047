"""Tests of templates: they fill in columns and reject everything else."""

import pytest

from gpt_jax.core import template
from gpt_jax.core.errors import UserError

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
    return template.fill_template(template.parse_template(text, 'task.prompt'), row, 'set.jsonl:7')


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
def test_filled_template(text, filled):
    assert fill(text) == filled


@pytest.mark.parametrize(
    'text', ['{question', 'question}', '{}', '{question!r}', '{question:>9}', '{a[}', '{a[]}']
)
def test_invalid_templates_are_rejected(text):
    with pytest.raises(UserError, match=r'^config\.task\.prompt: ') as raised:
        template.parse_template(text, 'task.prompt')
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    'text', ['{question.__class__}', '{question[__class__]}', '{answers.keys}']
)
def test_attributes_cannot_be_accessed(text):
    with pytest.raises(UserError, match=r'no column|reads its|has no'):
        fill(text)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            '{qestion}',
            r"^set\.jsonl:7: no column 'qestion' for config\.task\.prompt \(it has question, "
            r"count, .*content-type\); the nearest is 'question'$",
        ),
        (
            '{answers[txt]}',
            r"'answers' has no 'txt' for config\.task\.prompt \(it has text, start\)",
        ),
        (
            '{answers[text][2]}',
            r"'answers\[text\]' has 2 items, but config\.task\.prompt reads item 2",
        ),
        ('{empty[0]}', r"'empty' has 0 items"),
        ('{nothing}', r"'nothing' must be text for config\.task\.prompt, got null"),
        ('{nothing[0]}', r"'nothing' is null, but config\.task\.prompt reads its 0"),
        (
            '{answers[text]}',
            r'must be text for config\.task\.prompt, got a list; use \{answers\[text\]\[0\]\}',
        ),
        ('{answers}', r"'answers' must be text for config\.task\.prompt, got an object"),
    ],
)
def test_missing_values_are_named(text, message):
    with pytest.raises(UserError, match=message):
        fill(text)


def test_lists_of_texts():
    def texts(path, row=ROW):
        return template.get_texts(
            template.parse_path(path, 'task.tokens_column'), row, 'train[0]', 'task.tokens_column'
        )

    assert texts('answers[text]') == ['Because.', 'So.']
    assert texts('turns[text]') == ['a', 'b']
    assert texts('words', {'words': ' one  two\n'}) == ['one', 'two']
    with pytest.raises(
        UserError,
        match=r"train\[0\]: 'answers\[start\]' must be a list of strings .*, got 4 as item 0",
    ):
        texts('answers[start]')
    with pytest.raises(UserError, match=r"'count' must be a list of strings .*, got 3"):
        texts('count')


def test_columns_of_a_template():
    assert template.parse_template('{b} {a[x]} {b}', 'task.prompt').columns == ('b', 'a')
