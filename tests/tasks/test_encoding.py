"""Tests of encoding and packing: segments, targets, questions and truncation."""

import dataclasses

import numpy as np
import pytest

from gpt_jax.core import config_fields
from gpt_jax.core.config import TaskConfig, default_config
from gpt_jax.core.errors import UserError
from gpt_jax.data import tokenizer
from gpt_jax.tasks import encoding
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)

BYTES = tokenizer.make_tokenizer('bytes', lambda: ())
REQUIRED = {
    'completion': {'answer': '{a}'},
    'classification': {'prompt': '{a}', 'label': 'l', 'labels': ('no', 'yes')},
    'multiple_choice': {'prompt': '{a}', 'choices': ('{b}', '{c}', '{d}'), 'label': 'l'},
    'token_classification': {'tokens_column': 'w', 'tags_column': 't', 'labels': ('O', 'B', 'I')},
    'preference': {'prompt': '{a}', 'chosen': '{b}', 'rejected': '{c}'},
}


def make_task(kind, **fields):
    values = default_config()['task'] | REQUIRED[kind] | fields
    values |= {'kind': kind, 'source': 'synthetic:sentiment'}
    return config_fields.from_dict(TaskConfig, values, 'task')


def pack(kind, examples, context=64, **fields):
    task = make_task(kind, **fields)
    encoder = encoding.ExampleEncoder(BYTES, task, context, ())
    return encoding.pack_examples(encoding.encode_examples(encoder, examples), task, context)


def decode(ids):
    return BYTES.decode([int(i) for i in ids if i < 256])


def test_only_answers_are_targets_and_segments_are_separate():
    answers = [
        CompletionExample((('ab', False), ('cde', True)), ('cde',)),
        CompletionExample((('x', False), ('y', True)), ('y',)),
    ]
    rows = pack('completion', answers, context=16)
    assert len(rows) == 1
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    targets = row['targets'][row['weights'] > 0]
    assert BYTES.decode(targets) == 'cdey'
    assert np.sum(targets == tokenizer.BYTES_END_OF_DOCUMENT) == 2
    assert row['segments'].tolist() == [1] * 5 + [2] * 2 + [0] * 9
    assert row['positions'].tolist() == [0, 1, 2, 3, 4, 0, 1] + [0] * 9
    # The last input of one example has no target in the next.
    assert (row['weights'][:7] > 0).tolist() == [False, True, True, True, True, True, True]


def test_every_example_is_in_one_row_and_rows_are_nearly_full():
    rng = np.random.default_rng(0)
    answers = [
        CompletionExample((('a' * n, False), ('b', True)), ('b',)) for n in rng.integers(1, 40, 300)
    ]
    rows = pack('completion', answers, context=64)
    assert sorted(number for row in rows.rows for number in row) == list(range(300))
    used = [sum(rows.examples[number].num_inputs for number in row) for row in rows.rows]
    assert max(used) <= 64
    assert sum(used) / (64 * len(used)) > 0.95


def test_pair_has_marks_and_is_decided_at_the_last():
    rows = pack(
        'classification', [ClassificationExample(('ab', 'c'), 1, False)], lm_loss_weight=0.5
    )
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    start, delimiter, extract = (
        256 + mark for mark in (encoding.START, encoding.DELIMITER, encoding.EXTRACT)
    )
    assert row['inputs'][:6].tolist() == [start, ord('a'), ord('b'), delimiter, ord('c'), extract]
    assert np.nonzero(row['question_ids'])[0].tolist() == [5]
    assert row['labels'][5] == 1
    # 0.5 x 1 question / 5 targets
    assert row['weights'][:6].tolist() == pytest.approx([0.1] * 5 + [0])


def test_symmetric_pair_has_both_orders_and_one_question():
    rows = pack(
        'classification',
        [ClassificationExample(('ab', 'c'), 0, True)],
        text_pair='{b}',
        symmetric=True,
    )
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    assert decode(row['inputs'][row['segments'] == 1]) == 'abc'
    assert decode(row['inputs'][row['segments'] == 2]) == 'cab'
    assert row['question_ids'][np.nonzero(row['question_ids'])].tolist() == [1, 1]


def test_choices_are_separate_segments():
    examples = [
        MultipleChoiceExample('ab', ('c', 'de', 'f'), 2),
        MultipleChoiceExample('x', ('y', 'z', 'q'), 0),
    ]
    rows = pack('multiple_choice', examples)
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    decided = np.nonzero(row['question_ids'])[0]
    assert row['question_ids'][decided].tolist() == [1, 1, 1, 2, 2, 2]
    assert row['candidates'][decided].tolist() == [0, 1, 2, 0, 1, 2]
    assert row['labels'][decided].tolist() == [2, 2, 2, 0, 0, 0]
    texts = [decode(row['inputs'][row['segments'] == n]) for n in range(1, 4)]
    assert texts == ['abc', 'abde', 'abf']


def test_tag_is_decided_at_the_last_token_of_its_word():
    rows = pack('token_classification', [TokenClassificationExample(('ab', 'c'), (1, 0))])
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    assert decode(row['inputs'][:4]) == 'ab c'
    assert row['question_ids'][:4].tolist() == [0, 1, 0, 2]
    assert row['labels'][:4].tolist() == [0, 1, 0, 0]


def test_preferences_are_scored_where_their_targets_are_predicted():
    rows = pack('preference', [PreferenceExample('ab', 'c', 'de')])
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    decided = row['question_ids'] > 0
    assert BYTES.decode(row['targets'][decided]) == 'cde'
    assert row['candidates'][decided].tolist() == [0, 0, 1, 1, 1]  # ends of documents included
    assert not row['weights'][row['candidates'] == 1].any()


@pytest.mark.parametrize(('side', 'remaining'), [('left', 'ooo'), ('right', 'eee')])
def test_long_prompt_is_truncated_on_the_configured_side(side, remaining):
    example = CompletionExample((('e' * 40 + 'o' * 40, False), ('yes', True)), ('yes',))
    rows = pack('completion', [example], context=16, truncation_side=side)
    row = {name: array[0] for name, array in rows.make_batch([0]).items()}
    assert rows.num_truncated == 1
    assert remaining in decode(row['inputs'])
    assert BYTES.decode(row['targets'][row['weights'] > 0]) == 'yes'  # the answer is complete


def test_longer_text_is_truncated_first():
    parts, count = encoding._truncate([np.arange(20), np.arange(6)], [False, False], 10, 'right')
    assert ([len(part) for part in parts], count) == ([5, 5], 16)


def test_short_context_is_rejected():
    with pytest.raises(
        UserError, match=r'model\.context: must be at least 24 for examples of 3 texts, got 16'
    ):
        pack('multiple_choice', [MultipleChoiceExample('ab', ('c', 'd', 'e'), 0)], context=16)


def test_a_row_that_is_none_is_empty():
    rows = pack('classification', [ClassificationExample(('ab',), 1, False)])
    for array in rows.make_batch([5]).values():
        assert not array.any()


def test_kinds_have_coders():
    assert set(encoding.ENCODERS) == set(encoding.BATCH_FIELDS) == set(REQUIRED)
    assert dataclasses.is_dataclass(TaskConfig)
