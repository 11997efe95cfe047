"""Are the shots of an example always the same, never itself, and written as they are documented?"""

import collections

import pytest

from gpt_jax.data import shots
from gpt_jax.data.examples import Answer, Choice, Classified, Labelled, Preference
from gpt_jax.data.shots import Prompt
from gpt_jax.errors import UserError

POOL = [Classified((f'text {number}',), number % 3, False) for number in range(30)]
WORDS = ('bad', 'fair', 'good')


def answer(number):
    return Answer(((f'Q{number}?\n', False), (f'A{number}', True)), (f'A{number}',))


def test_every_kind_as_a_prompt():
    assert shots.as_prompt(answer(1)) == Prompt('Q1?\n', ('A1',), None)
    dialogue = Answer(
        (('User: a\n', False), ('b\n', True), ('User: c\n', False), ('d', True), ('<end>', False)), ('d',)
    )
    assert shots.as_prompt(dialogue) == Prompt('User: a\nb\nUser: c\n', ('d',), None)
    assert shots.as_prompt(Answer((('all', True),), ('all',))) == Prompt('', ('all',), None)
    assert shots.as_prompt(Choice('It', (' is', ' are'), 1)) == Prompt('It', (' is', ' are'), 1)
    pair = shots.as_prompt(Classified(('one', 'two'), 2, True), WORDS)
    assert pair == Prompt('one\ntwo\nLabel:', (' bad', ' fair', ' good'), 2)
    assert shots.as_prompt(Preference('p', 'yes', 'no')) == Prompt('p', ('yes', 'no'), 0)
    with pytest.raises(UserError, match="'label' tags words"):
        shots.as_prompt(Labelled(('w',), (0,)))


def test_few_shot():
    classes = shots.few_shot([POOL[0], POOL[2]], POOL[4], WORDS)
    assert classes.context == 'text 0\nLabel: bad\n\ntext 2\nLabel: good\n\ntext 4\nLabel:'
    assert classes.continuations == (' bad', ' fair', ' good')
    assert classes.right == 1
    assert shots.few_shot([answer(1)], answer(2), separator='\n#\n') == Prompt('Q1?\nA1\n#\nQ2?\n', ('A2',), None)
    choice = Choice('It', (' is', ' are'), 1)
    assert shots.few_shot([choice], choice) == Prompt('It are\n\nIt', (' is', ' are'), 1)
    better = Preference('p', 'yes\n', 'no')
    assert shots.few_shot([better], better).context == 'pyes\n\np'
    assert shots.few_shot([], POOL[4], WORDS) == shots.as_prompt(POOL[4], WORDS)


def test_the_same_whatever_is_asked_before():
    asked = [Classified((f'test {number}',), 0, False) for number in range(20)]
    alone = [shots.draw(POOL, one, number, 4, seed=3) for number, one in enumerate(asked)]
    backwards = [shots.draw(POOL, asked[number], number, 4, seed=3) for number in reversed(range(20))]
    assert backwards[::-1] == alone
    assert len({tuple(some) for some in alone}) > 15
    assert shots.draw(POOL, asked[5], 5, 4, seed=4) != alone[5]
    assert all(len(set(some)) == 4 for some in alone)
    assert [shots.draw(POOL, one, number, 2, seed=3) for number, one in enumerate(asked)] == [
        some[:2] for some in alone
    ]


def test_never_the_example_itself():
    pool = [answer(0), answer(1), answer(1), answer(2)]
    for seed in range(20):
        assert set(shots.draw(pool, answer(1), 1, 2, seed)) == {answer(0), answer(2)}
    with pytest.raises(UserError, match='3 shots: there are 2 training examples besides'):
        shots.draw(pool, answer(1), 1, 3, 0)
    assert shots.draw([], answer(1), 1, 0, 0) == []


def test_every_example_is_as_likely_and_in_every_place():
    pool = [answer(number) for number in range(5)]
    drawn = collections.Counter()
    for number in range(2000):
        for place, one in enumerate(shots.draw(pool, answer(9), number, 5, seed=1)):
            drawn[place, one] += 1
    assert len(drawn) == 25
    assert all(abs(count - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5 for count in drawn.values())


def test_balanced():
    rare = [Classified((f'text {number}',), 1 if number == 17 else 2 * (number % 2), False) for number in range(30)]
    for number in range(10):
        labels = [one.label for one in shots.draw(POOL, POOL[number], number, 7, 0, balanced=True)]
        assert sorted(collections.Counter(labels).values()) == [2, 2, 3]
        assert labels[:3] == labels[3:6]
        assert set(labels[:3]) == {0, 1, 2}
        counts = collections.Counter(one.label for one in shots.draw(rare, POOL[0], number, 7, 0, balanced=True))
        assert counts == {0: 3, 1: 1, 2: 3}
        without = shots.draw(rare, rare[17], 17, 6, number, balanced=True)
        assert {one.label for one in without} == {0, 2}
    with pytest.raises(UserError, match='balanced shots want classes; these are examples of the kind Answer'):
        shots.draw([answer(1)], answer(2), 0, 1, 0, balanced=True)
