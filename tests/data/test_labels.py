"""Are labels found by number and by word, and others refused?"""

import pytest

from gpt_jax.data import labels
from gpt_jax.errors import UserError

SENTIMENT = ('negative', 'positive')


def number(value, of=SENTIMENT, source=()):
    return labels.number(value, of, source, 'train[5]', 'task.labels')


@pytest.mark.parametrize(
    ('value', 'of', 'source', 'found'),
    [
        ('positive', SENTIMENT, (), 1),
        (' positive ', SENTIMENT, (), 1),
        ('1', SENTIMENT, (), 1),
        (1, SENTIMENT, (), 1),
        (1.0, SENTIMENT, (), 1),
        (True, SENTIMENT, (), 1),
        (1, ('positive', 'negative'), ('negative', 'positive'), 0),  # the source's own word decides
        (1, ('bad', 'good'), ('negative', 'positive'), 1),  # words of the user's own
        (2, ('1', '2', '3'), (), 1),  # a number that is a label's word
        ('2', ('1', '2', '3'), (), 1),
        (2, ('1', '2', '3'), ('1', '2', '3'), 2),  # but a class of the source is meant by its number
        (3.8, ('0', '1', '2', '3', '4', '5'), (), 4),
        (-1, ('-1', '0', '1'), (), 0),
    ],
)
def test_found(value, of, source, found):
    assert number(value, of, source) == found


@pytest.mark.parametrize('value', [-1, -1.0, '-1', None, ''])
def test_no_label(value):
    assert number(value) is None


@pytest.mark.parametrize('value', [2, -2, 0.5, 'postive', '2', '1.0', float('nan'), [1]])
def test_outside_the_set(value):
    with pytest.raises(UserError, match=r"train\[5\]: .* is none of the labels of config\.task\.labels: '.*' \(0\), '"):
        number(value)


def test_outside_what_the_source_and_the_labels_share():
    with pytest.raises(UserError, match='1 is none of the labels'):
        number(1, ('good', 'bad'), ('bad', 'unknown', 'good'))
    with pytest.raises(UserError, match='7 is none of the labels'):
        number(7, ('0', '5'))


def test_the_nearest_word_is_named():
    with pytest.raises(UserError, match=r"'postive' .*'negative' \(0\), 'positive' \(1\); the nearest is 'positive'$"):
        number('postive')
