"""Tests of the task section: required fields, unused fields and invalid values are rejected."""

import pytest

from gpt_jax.core import config_fields
from gpt_jax.core.config import TASK_KINDS, TaskConfig, default_config
from gpt_jax.core.errors import UserError

VALID = {
    'none': {},
    'completion': {'source': 'synthetic:code', 'prompt': '{prompt}', 'answer': '{body}'},
    'classification': {
        'source': 'tfds:glue/sst2',
        'prompt': '{sentence}',
        'label': 'label',
        'labels': ['no', 'yes'],
    },
    'multiple_choice': {
        'source': 'files:*.csv',
        'prompt': '{q}',
        'choices': ['{a}', '{b}'],
        'label': 'right',
    },
    'token_classification': {
        'source': 'synthetic:roles',
        'tokens_column': 'words',
        'tags_column': 'tags',
        'labels': ['O', 'B-X'],
    },
    'preference': {
        'source': 'synthetic:preferences',
        'prompt': '{p}',
        'chosen': '{c}',
        'rejected': '{r}',
    },
}


def make_task(kind, **changes):
    values = default_config()['task'] | {'kind': kind} | VALID[kind] | changes
    return config_fields.from_dict(TaskConfig, values, 'task')


@pytest.mark.parametrize('kind', TASK_KINDS)
def test_required_fields(kind):
    assert make_task(kind).kind == kind
    for field in VALID[kind]:
        if (kind, field) != ('completion', 'prompt'):
            empty = [] if isinstance(VALID[kind][field], list) else ''
            with pytest.raises(UserError, match=rf'config\.task\.{field}: must '):
                make_task(kind, **{field: empty})


@pytest.mark.parametrize(
    ('kind', 'field', 'value', 'message'),
    [
        ('none', 'source', 'synthetic:code', "must not be set for task.kind 'none'; set task.kind"),
        (
            'none',
            'prompt',
            '{a}',
            'used by completion, classification, multiple_choice, preference',
        ),
        ('none', 'max_examples', 5, 'set task.kind'),
        ('completion', 'choices', ['{a}', '{b}'], 'used by multiple_choice'),
        ('classification', 'answer', '{a}', 'must not be set for task.kind'),
        ('classification', 'chat', True, 'must not be set for task.kind'),
        ('token_classification', 'prompt', '{a}', 'must not be set for task.kind'),
        ('preference', 'label', 'label', 'must not be set for task.kind'),
        ('preference', 'lm_loss_weight', 0.5, 'must not be set for task.kind'),
        ('classification', 'symmetric', True, 'must be False without task.text_pair'),
        ('classification', 'labels', ['no'], 'at least two words'),
        ('classification', 'labels', ['no', 'no'], 'must not repeat a word'),
        ('classification', 'labels', [0, 1], 'must list str values, got 0'),
        ('multiple_choice', 'choices', ['{a}'], None),
        ('multiple_choice', 'choices', [' {a}'], 'at least two templates'),
        ('multiple_choice', 'choices', [1, 2], 'must list str values, got 1'),
        ('completion', 'messages', 'turns', 'must not be set together with task.messages'),
        ('completion', 'label', 'label', 'must be set with task.label; {label} in task.answer'),
        ('completion', 'labels', ['no', 'yes'], 'task.label: must be set with task.labels'),
        ('completion', 'prompt', '{a', "write '{{' or '}}' for a literal brace"),
        ('completion', 'references', '{answers}', 'must name a column'),
        ('completion', 'source', 'synthetic:Code', "must be 'tfds:NAME"),
        ('completion', 'source', 'csv:x', "must be 'tfds:NAME"),
        ('completion', 'validation_source', 'x', "must be 'tfds:NAME"),
        ('completion', 'truncation_side', 'top', 'one of left, right'),
        ('completion', 'validation_fraction', 1.0, 'must be in (0, 1), got 1.0'),
        ('completion', 'max_examples', -1, 'must be 0 or more, got -1'),
    ],
)
def test_invalid_values_are_rejected(kind, field, value, message):
    if message is None:
        assert getattr(make_task(kind, **{field: value}), field) == tuple(value)
        return
    with pytest.raises(UserError) as raised:
        make_task(kind, **{field: value})
    assert str(raised.value).startswith('config.task.')
    assert message in str(raised.value)


def test_dialogue_needs_no_answer():
    assert (
        make_task('completion', prompt='', answer='', messages='turns', chat=True).messages
        == 'turns'
    )
    with pytest.raises(
        UserError, match=r'config\.task\.answer: must be set .*, or set task\.messages'
    ):
        make_task('completion', answer='')
