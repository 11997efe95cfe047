"""Is a task refused that lacks what its kind needs, or sets what its kind has no use for?"""

import pytest

from gpt_jax import overrides, schema
from gpt_jax.data.task import KINDS, TaskConfig
from gpt_jax.errors import UserError

GOOD = {
    'none': {},
    'answer': {'source': 'made:code', 'prompt': '{prompt}', 'answer': '{body}'},
    'classify': {'source': 'tfds:glue/sst2', 'prompt': '{sentence}', 'label': 'label', 'labels': ['no', 'yes']},
    'choose': {'source': 'files:*.csv', 'prompt': '{q}', 'choices': ['{a}', '{b}'], 'label': 'right'},
    'label': {'source': 'made:roles', 'words': 'words', 'tags': 'tags', 'labels': ['O', 'B-X']},
    'prefer': {'source': 'made:preferences', 'prompt': '{p}', 'chosen': '{c}', 'rejected': '{r}'},
}


def make(kind, **changes):
    values = overrides.defaults()['task'] | {'kind': kind} | GOOD[kind] | changes
    return schema.from_dict(TaskConfig, values, 'task')


@pytest.mark.parametrize('kind', KINDS)
def test_what_a_kind_needs(kind):
    assert make(kind).kind == kind
    for field in GOOD[kind]:
        if (kind, field) != ('answer', 'prompt'):
            empty = [] if isinstance(GOOD[kind][field], list) else ''
            with pytest.raises(UserError, match=rf'config\.task\.{field}: .*wants it'):
                make(kind, **{field: empty})


@pytest.mark.parametrize(
    ('kind', 'field', 'value', 'message'),
    [
        ('none', 'source', 'made:code', "task.kind 'none' makes no use of it; set task.kind"),
        ('none', 'prompt', '{a}', 'makes no use of it; answer, classify, choose, prefer would'),
        ('none', 'limit', 5, 'set task.kind'),
        ('answer', 'choices', ['{a}', '{b}'], "task.kind 'answer' makes no use of it; choose would"),
        ('classify', 'answer', '{a}', 'makes no use of it'),
        ('classify', 'chat', True, 'makes no use of it'),
        ('label', 'prompt', '{a}', 'makes no use of it'),
        ('prefer', 'label', 'label', 'makes no use of it'),
        ('prefer', 'auxiliary', 0.5, 'makes no use of it'),
        ('classify', 'symmetric', True, 'wants task.second'),
        ('classify', 'labels', ['no'], 'two words or more'),
        ('classify', 'labels', ['no', 'no'], 'twice'),
        ('classify', 'labels', [0, 1], 'wants words, got 0'),
        ('choose', 'choices', ['{a}'], None),
        ('choose', 'choices', [' {a}'], 'two templates or more'),
        ('choose', 'choices', [1, 2], 'wants texts, got 1'),
        ('answer', 'messages', 'turns', 'task.messages is all there is to a dialogue'),
        ('answer', 'label', 'label', "task.label wants it; the word is {label} in task.answer"),
        ('answer', 'labels', ['no', 'yes'], 'task.labels wants it'),
        ('answer', 'prompt', '{a', "write '{{' or '}}' for a brace that is text"),
        ('answer', 'references', '{answers}', 'names no column'),
        ('answer', 'source', 'made:Code', 'is no source; write'),
        ('answer', 'source', 'csv:x', 'is no source; write'),
        ('answer', 'validation_source', 'x', 'is no source; write'),
        ('answer', 'cut', 'top', 'one of left, right'),
        ('answer', 'validation_fraction', 1.0, 'below 1'),
        ('answer', 'limit', -1, 'must be 0 (all) or positive'),
    ],
)  # fmt: skip
def test_checks(kind, field, value, message):
    if message is None:
        assert getattr(make(kind, **{field: value}), field) == tuple(value)
        return
    with pytest.raises(UserError) as caught:
        make(kind, **{field: value})
    assert str(caught.value).startswith('config.task.')
    assert message in str(caught.value)


def test_a_dialogue_needs_no_answer():
    assert make('answer', prompt='', answer='', messages='turns', chat=True).messages == 'turns'
    with pytest.raises(UserError, match=r"config\.task\.answer: task\.kind 'answer' wants it, or task\.messages"):
        make('answer', answer='')
