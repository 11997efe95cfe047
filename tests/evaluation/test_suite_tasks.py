"""Answers by each normalization, worked out by hand."""

import math

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.evaluation.suite_tasks import (
    choice_probabilities,
    compute_accuracy,
    make_choice_scores,
    pick_answers,
)

# The first is the likeliest, the second per token, the third per byte ('é' has two bytes), and the
# last relative to its unconditional probability.
FOUR = make_choice_scores(
    [-4, -4.5, -6, -8], [2, 3, 3, 2], ['ab', 'abc', 'abcéf', 'ab'], unconditional=[-4, -5, -7, -12]
)


def test_each_normalization_picks_its_own_answer():
    assert pick_answers(FOUR) == {'raw': 0, 'token': 1, 'byte': 2, 'normalized': 3}
    without = FOUR._replace(unconditional=None)
    assert 'normalized' not in pick_answers(without)
    with pytest.raises(UserError, match='normalized: needs log p'):
        choice_probabilities(without, 'normalized')


def test_the_first_of_equal_answers_is_picked():
    scores = make_choice_scores([-1, -1], [1, 1], ['a', 'b'])
    assert pick_answers(scores) == {'raw': 0, 'token': 0, 'byte': 0}


def test_probabilities_are_a_softmax():
    e = [math.exp(value) for value in (-4, -4.5, -6, -8)]
    np.testing.assert_allclose(choice_probabilities(FOUR), [value / sum(e) for value in e])
    unlikely = choice_probabilities(make_choice_scores([-2000, -2001], [1, 1], ['a', 'b']))
    np.testing.assert_allclose(unlikely, [1 / (1 + math.exp(-1)), 1 / (1 + math.e)])


def test_accuracy_by_normalization():
    two = make_choice_scores([-1, -3], [1, 6], ['a', 'abcdef'], unconditional=[-1, -9])
    expected = {'raw': 1.0, 'token': 0.0, 'byte': 0.0, 'normalized': 0.0}
    assert compute_accuracy([FOUR, two], [0, 0]) == expected
    without = compute_accuracy([FOUR, two._replace(unconditional=None)], [1, 1])
    assert without == {'raw': 0.0, 'token': 1.0, 'byte': 0.5}
    with pytest.raises(UserError, match='answers: must be one per question, got 1 for 2'):
        compute_accuracy([FOUR, two], [0])


def test_an_empty_choice_is_not_divided_by_zero():
    assert pick_answers(make_choice_scores([0, -1], [0, 1], ['', 'a']))['byte'] == 0
