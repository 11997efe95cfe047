"""Tests of few-shot prompts: their format, and the draw of the shots."""

import collections

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.tasks import few_shot
from gpt_jax.tasks.examples import (
    ClassificationExample,
    CompletionExample,
    MultipleChoiceExample,
    PreferenceExample,
    TokenClassificationExample,
)
from gpt_jax.tasks.few_shot import Prompt

POOL = [ClassificationExample((f'text {number}',), number % 3, False) for number in range(30)]
LABELS = ('bad', 'fair', 'good')


def completion(number):
    return CompletionExample(((f'Q{number}?\n', False), (f'A{number}', True)), (f'A{number}',))


def test_prompt_of_every_kind():
    assert few_shot.make_prompt(completion(1)) == Prompt('Q1?\n', ('A1',), None)
    dialogue = CompletionExample(
        (('User: a\n', False), ('b\n', True), ('User: c\n', False), ('d', True), ('<end>', False)),
        ('d',),
    )
    assert few_shot.make_prompt(dialogue) == Prompt('User: a\nb\nUser: c\n', ('d',), None)
    assert few_shot.make_prompt(CompletionExample((('all', True),), ('all',))) == Prompt(
        '', ('all',), None
    )
    assert few_shot.make_prompt(MultipleChoiceExample('It', (' is', ' are'), 1)) == Prompt(
        'It', (' is', ' are'), 1
    )
    pair = few_shot.make_prompt(ClassificationExample(('one', 'two'), 2, True), LABELS)
    assert pair == Prompt('one\ntwo\nLabel:', (' bad', ' fair', ' good'), 2)
    assert few_shot.make_prompt(PreferenceExample('p', 'yes', 'no')) == Prompt(
        'p', ('yes', 'no'), 0
    )
    with pytest.raises(UserError, match=r"config.task.kind: must be .* got 'token_classification'"):
        few_shot.make_prompt(TokenClassificationExample(('w',), (0,)))


def test_few_shot_prompt():
    classes = few_shot.make_few_shot_prompt([POOL[0], POOL[2]], POOL[4], LABELS)
    assert classes.context == 'text 0\nLabel: bad\n\ntext 2\nLabel: good\n\ntext 4\nLabel:'
    assert classes.continuations == (' bad', ' fair', ' good')
    assert classes.answer_index == 1
    assert few_shot.make_few_shot_prompt(
        [completion(1)], completion(2), separator='\n#\n'
    ) == Prompt('Q1?\nA1\n#\nQ2?\n', ('A2',), None)
    choice = MultipleChoiceExample('It', (' is', ' are'), 1)
    assert few_shot.make_few_shot_prompt([choice], choice) == Prompt(
        'It are\n\nIt', (' is', ' are'), 1
    )
    better = PreferenceExample('p', 'yes\n', 'no')
    assert few_shot.make_few_shot_prompt([better], better).context == 'pyes\n\np'
    assert few_shot.make_few_shot_prompt([], POOL[4], LABELS) == few_shot.make_prompt(
        POOL[4], LABELS
    )


def test_shots_do_not_depend_on_the_order_of_scoring():
    tests = [ClassificationExample((f'test {number}',), 0, False) for number in range(20)]
    forwards = [
        few_shot.draw_shots(POOL, test, index, 4, seed=3) for index, test in enumerate(tests)
    ]
    backwards = [
        few_shot.draw_shots(POOL, tests[index], index, 4, seed=3) for index in reversed(range(20))
    ]
    assert backwards[::-1] == forwards
    assert len({tuple(shots) for shots in forwards}) > 15
    assert few_shot.draw_shots(POOL, tests[5], 5, 4, seed=4) != forwards[5]
    assert all(len(set(shots)) == 4 for shots in forwards)
    fewer = [few_shot.draw_shots(POOL, test, index, 2, seed=3) for index, test in enumerate(tests)]
    assert fewer == [shots[:2] for shots in forwards]


def test_shots_exclude_the_example():
    pool = [completion(0), completion(1), completion(1), completion(2)]
    for seed in range(20):
        assert set(few_shot.draw_shots(pool, completion(1), 1, 2, seed)) == {
            completion(0),
            completion(2),
        }
    with pytest.raises(UserError, match=r'num_fewshot: must be at most 2, .* got 3'):
        few_shot.draw_shots(pool, completion(1), 1, 3, 0)
    assert few_shot.draw_shots([], completion(1), 1, 0, 0) == []


def test_draw_is_uniform():
    pool = [completion(number) for number in range(5)]
    drawn = collections.Counter()
    for number in range(2000):
        shots = few_shot.draw_shots(pool, completion(9), number, 5, seed=1)
        drawn.update(enumerate(shots))
    assert len(drawn) == 25
    assert all(abs(count - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5 for count in drawn.values())


def test_balanced_draw():
    rare = [
        ClassificationExample((f'text {number}',), 1 if number == 17 else 2 * (number % 2), False)
        for number in range(30)
    ]
    for number in range(10):
        shots = few_shot.draw_shots(POOL, POOL[number], number, 7, 0, balanced=True)
        labels = [shot.label for shot in shots]
        assert sorted(collections.Counter(labels).values()) == [2, 2, 3]
        assert labels[:3] == labels[3:6]
        assert set(labels[:3]) == {0, 1, 2}
        shots = few_shot.draw_shots(rare, POOL[0], number, 7, 0, balanced=True)
        assert collections.Counter(shot.label for shot in shots) == {0: 3, 1: 1, 2: 3}
        without = few_shot.draw_shots(rare, rare[17], 17, 6, number, balanced=True)
        assert {shot.label for shot in without} == {0, 2}
    with pytest.raises(
        UserError, match='balanced: must be False without classes, got a CompletionExample'
    ):
        few_shot.draw_shots([completion(1)], completion(2), 0, 1, 0, balanced=True)
