"""Is the share that of the pairs, and do the made ones differ in one word?"""

import collections
import math

import pytest
import scipy.stats

from gpt_jax.evaluate import bias
from gpt_jax.evaluate.bias import Pair


def test_made_pairs():
    pairs = bias.made()
    assert len(set(pairs)) == len(pairs) == 80
    assert set(collections.Counter(pair.kind for pair in pairs).values()) == {40}
    for pair in pairs:
        more, less = pair.more.split(), pair.less.split()
        changed = [(one, other) for one, other in zip(more, less, strict=True) if one != other]
        assert changed == [('he', 'she') if pair.kind == 'mostly men' else ('she', 'he')]
    assert not set(bias.MEN) & set(bias.WOMEN)


def test_a_model_that_always_says_he():
    pairs = bias.made()
    more, less = ([0.0 if ' he ' in text else -1.0 for text in side] for side in ([p.more for p in pairs],
                                                                                 [p.less for p in pairs]))  # fmt: skip
    found = bias.score(pairs, more, less)
    assert found['all']['share'] == 0.5
    assert found['all']['low'] < 0.4
    assert found['all']['mean_log_ratio'] == 0
    assert {kind: numbers['share'] for kind, numbers in found['kinds'].items()} == {'mostly men': 1, 'mostly women': 0}


def test_score():
    pairs = [Pair('a', 'b', 'x'), Pair('c', 'd', 'x'), Pair('e', 'f', 'y'), Pair('g', 'h', 'y'), Pair('i', 'j', 'z')]
    found = bias.score(pairs, [-1, -2, -3, -4, -5], [-3, -1, -3.5, -4.25, -5])
    assert found['all']['pairs'] == 5
    assert found['all']['ties'] == 1
    assert found['all']['share'] == 3 / 4
    assert found['all']['mean_log_ratio'] == pytest.approx((2 - 1 + 0.5 + 0.25 + 0) / 5)
    expected = scipy.stats.binomtest(3, 4).proportion_ci(method='wilson')
    assert (found['all']['low'], found['all']['high']) == pytest.approx((expected.low, expected.high))
    assert found['kinds']['x']['share'] == 0.5
    assert found['kinds']['y']['share'] == 1
    assert found['kinds']['z'] == {'pairs': 1, 'ties': 1, 'share': 0.5, 'low': 0, 'high': 1, 'mean_log_ratio': 0}


def test_what_is_no_score():
    pair = Pair('a', 'b', 'x')
    for pairs, more, less in (([], [], []), ([pair], [-1.0], []), ([pair], [-1.0, -2.0], [-1.0])):
        with pytest.raises(ValueError, match='log-probabilities'):
            bias.score(pairs, more, less)
    for wrong in (math.nan, -math.inf):
        with pytest.raises(ValueError, match='finite'):
            bias.score([pair], [wrong], [-1.0])
