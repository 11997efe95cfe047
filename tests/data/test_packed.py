"""Do examples lie in rows so that each is read as it would be alone, and nothing is lost unsaid?"""

import dataclasses

import numpy as np
import pytest

from gpt_jax import overrides
from gpt_jax.data import encoded, packed, tokenizer
from gpt_jax.data.examples import Answer, Choice, Classified, Labelled, Preference
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError

BYTES = tokenizer.make('bytes', lambda: ())
NEEDED = {
    'answer': {'answer': '{a}'},
    'classify': {'prompt': '{a}', 'label': 'l', 'labels': ('no', 'yes')},
    'choose': {'prompt': '{a}', 'choices': ('{b}', '{c}', '{d}'), 'label': 'l'},
    'label': {'words': 'w', 'tags': 't', 'labels': ('O', 'B', 'I')},
    'prefer': {'prompt': '{a}', 'chosen': '{b}', 'rejected': '{c}'},
}


def task(kind, **fields):
    given = overrides.defaults()['task'] | {'kind': kind, 'source': 'made:sentiment'} | NEEDED[kind] | fields
    return TaskConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def packed_rows(kind, examples, context=64, **fields):
    chosen = task(kind, **fields)
    return packed.pack(encoded.encode(encoded.Coder(BYTES, chosen, context, ()), examples), chosen, context)


def text(ids):
    return BYTES.decode([int(i) for i in ids if i < 256])


def test_only_answers_are_learned_and_each_begins_anew():
    answers = [Answer((('ab', False), ('cde', True)), ('cde',)), Answer((('x', False), ('y', True)), ('y',))]
    rows = packed_rows('answer', answers, context=16)
    assert len(rows) == 1
    row = {name: array[0] for name, array in rows.take([0]).items()}
    learned = row['targets'][row['weights'] > 0]
    assert BYTES.decode(learned) == 'cdey'
    assert np.sum(learned == tokenizer.BYTES_END) == 2
    assert row['segments'].tolist() == [1] * 5 + [2] * 2 + [0] * 9
    assert row['positions'].tolist() == [0, 1, 2, 3, 4, 0, 1] + [0] * 9
    # The last input of one example has no target in the next.
    assert (row['weights'][:7] > 0).tolist() == [False, True, True, True, True, True, True]


def test_every_example_lies_in_one_row_and_rows_are_nearly_full():
    rng = np.random.default_rng(0)
    answers = [Answer((('a' * n, False), ('b', True)), ('b',)) for n in rng.integers(1, 40, 300)]
    rows = packed_rows('answer', answers, context=64)
    assert sorted(number for row in rows.rows for number in row) == list(range(300))
    used = [sum(rows.examples[number].inputs for number in row) for row in rows.rows]
    assert max(used) <= 64
    assert sum(used) / (64 * len(used)) > 0.95


def test_a_pair_stands_between_the_marks_and_is_read_after_the_last():
    rows = packed_rows('classify', [Classified(('ab', 'c'), 1, False)], auxiliary=0.5)
    row = {name: array[0] for name, array in rows.take([0]).items()}
    start, delimiter, extract = (256 + mark for mark in (encoded.START, encoded.DELIMITER, encoded.EXTRACT))
    assert row['inputs'][:6].tolist() == [start, ord('a'), ord('b'), delimiter, ord('c'), extract]
    assert np.nonzero(row['questions'])[0].tolist() == [5]
    assert row['answers'][5] == 1
    assert row['weights'][:6].tolist() == pytest.approx([0.1] * 5 + [0])  # 0.5 x 1 question / 5 targets


def test_a_similar_pair_is_read_both_ways_for_one_question():
    rows = packed_rows('classify', [Classified(('ab', 'c'), 0, True)], second='{b}', symmetric=True)
    row = {name: array[0] for name, array in rows.take([0]).items()}
    assert text(row['inputs'][row['segments'] == 1]) == 'abc'
    assert text(row['inputs'][row['segments'] == 2]) == 'cab'
    assert row['questions'][np.nonzero(row['questions'])].tolist() == [1, 1]


def test_choices_are_read_apart():
    both = [Choice('ab', ('c', 'de', 'f'), 2), Choice('x', ('y', 'z', 'q'), 0)]
    rows = packed_rows('choose', both)
    row = {name: array[0] for name, array in rows.take([0]).items()}
    at = np.nonzero(row['questions'])[0]
    assert row['questions'][at].tolist() == [1, 1, 1, 2, 2, 2]
    assert row['slots'][at].tolist() == [0, 1, 2, 0, 1, 2]
    assert row['answers'][at].tolist() == [2, 2, 2, 0, 0, 0]
    assert [text(row['inputs'][row['segments'] == n]) for n in range(1, 4)] == ['abc', 'abde', 'abf']


def test_a_words_tag_is_read_at_its_last_token():
    rows = packed_rows('label', [Labelled(('ab', 'c'), (1, 0))])
    row = {name: array[0] for name, array in rows.take([0]).items()}
    assert text(row['inputs'][:4]) == 'ab c'
    assert row['questions'][:4].tolist() == [0, 1, 0, 2]
    assert row['answers'][:4].tolist() == [0, 1, 0, 0]


def test_preferences_are_scored_where_their_tokens_are_predicted():
    rows = packed_rows('prefer', [Preference('ab', 'c', 'de')])
    row = {name: array[0] for name, array in rows.take([0]).items()}
    scored = row['questions'] > 0
    assert BYTES.decode(row['targets'][scored]) == 'cde'
    assert row['slots'][scored].tolist() == [0, 0, 1, 1, 1]  # with their ends
    assert not row['weights'][row['slots'] == 1].any()


@pytest.mark.parametrize(('side', 'left'), [('left', 'ooo'), ('right', 'eee')])
def test_too_long_a_prompt_is_cut_from_the_stated_side_and_counted(side, left):
    example = Answer((('e' * 40 + 'o' * 40, False), ('yes', True)), ('yes',))
    rows = packed_rows('answer', [example], context=16, cut=side)
    row = {name: array[0] for name, array in rows.take([0]).items()}
    assert rows.cut == 1
    assert left in text(row['inputs'])
    assert BYTES.decode(row['targets'][row['weights'] > 0]) == 'yes'  # an answer stays whole


def test_of_two_long_texts_the_longer_is_cut_first():
    parts, cut = encoded._fitted([np.arange(20), np.arange(6)], [False, False], 10, 'right')
    assert ([len(part) for part in parts], cut) == ([5, 5], 16)


def test_too_short_a_context_is_refused():
    with pytest.raises(UserError, match=r'model\.context: 16 places for 3 texts of one example'):
        packed_rows('choose', [Choice('ab', ('c', 'd', 'e'), 0)], context=16)


def test_a_row_that_is_none_is_empty():
    rows = packed_rows('classify', [Classified(('ab',), 1, False)])
    for array in rows.take([5]).values():
        assert not array.any()


def test_kinds_have_coders():
    assert set(encoded.CODERS) == set(packed.FIELDS) == set(NEEDED)
    assert dataclasses.is_dataclass(TaskConfig)
