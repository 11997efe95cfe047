"""Is the answer taken that each way of weighing says, worked out by hand?"""

import math

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.evaluate import choices

# The first is likeliest, the second per token, the third per byte (its 'é' has two), the last against what it is alone.
FOUR = choices.of([-4, -4.5, -6, -8], [2, 3, 3, 2], ['ab', 'abc', 'abcéf', 'ab'], unconditional=[-4, -5, -7, -12])


def test_each_way_takes_its_own():
    assert choices.choose(FOUR) == {'raw': 0, 'token': 1, 'byte': 2, 'normalized': 3}
    assert 'normalized' not in choices.choose(FOUR._replace(unconditional=None))
    with pytest.raises(UserError, match='normalized: wants log p'):
        choices.probabilities(FOUR._replace(unconditional=None), 'normalized')


def test_the_first_of_equals_is_taken():
    assert choices.choose(choices.of([-1, -1], [1, 1], ['a', 'b'])) == {'raw': 0, 'token': 0, 'byte': 0}


def test_probabilities_are_a_softmax():
    e = [math.exp(value) for value in (-4, -4.5, -6, -8)]
    np.testing.assert_allclose(choices.probabilities(FOUR), [value / sum(e) for value in e])
    far = choices.probabilities(choices.of([-2000, -2001], [1, 1], ['a', 'b']))
    np.testing.assert_allclose(far, [1 / (1 + math.exp(-1)), 1 / (1 + math.e)])


def test_accuracy_counts_each_way():
    two = choices.of([-1, -3], [1, 6], ['a', 'abcdef'], unconditional=[-1, -9])
    assert choices.accuracy([FOUR, two], [0, 0]) == {'raw': 1.0, 'token': 0.0, 'byte': 0.0, 'normalized': 0.0}
    some = choices.accuracy([FOUR, two._replace(unconditional=None)], [1, 1])
    assert some == {'raw': 0.0, 'token': 1.0, 'byte': 0.5}
    with pytest.raises(UserError, match='answers: 1 of them for 2 questions'):
        choices.accuracy([FOUR, two], [0])


def test_an_empty_choice_has_no_length_to_divide_by():
    assert choices.choose(choices.of([0, -1], [0, 1], ['', 'a']))['byte'] == 0
