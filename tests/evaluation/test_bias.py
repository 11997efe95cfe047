"""Bias scores of sentence pairs, and readers of the published sets with sentences of our own."""

import collections
import json
import math

import pytest
import scipy.stats

from gpt_jax.core.errors import UserError
from gpt_jax.evaluation import bias
from gpt_jax.evaluation.bias import SentencePair


def test_occupation_pairs_differ_in_the_pronoun():
    pairs = bias.make_occupation_pairs()
    assert len(set(pairs)) == len(pairs) == 80
    assert set(collections.Counter(pair.kind for pair in pairs).values()) == {40}
    for pair in pairs:
        words = zip(pair.stereotype.split(), pair.anti_stereotype.split(), strict=True)
        changed = [(word, other) for word, other in words if word != other]
        assert changed == [('he', 'she') if pair.kind == 'mostly men' else ('she', 'he')]
    assert not set(bias.MALE_OCCUPATIONS) & set(bias.FEMALE_OCCUPATIONS)


def test_a_model_that_always_prefers_he():
    pairs = bias.make_occupation_pairs()
    stereotypes, others = (
        [0.0 if ' he ' in text else -1.0 for text in texts]
        for texts in ([p.stereotype for p in pairs], [p.anti_stereotype for p in pairs])
    )
    report = bias.score_bias(pairs, stereotypes, others)
    assert report['all']['share'] == 0.5
    assert report['all']['low'] < 0.4
    assert report['all']['mean_log_ratio'] == 0
    shares = {kind: numbers['share'] for kind, numbers in report['kinds'].items()}
    assert shares == {'mostly men': 1, 'mostly women': 0}


def test_scores_by_kind():
    kinds = ['x', 'x', 'y', 'y', 'z']
    pairs = [SentencePair(f'a{n}', f'b{n}', kind) for n, kind in enumerate(kinds)]
    report = bias.score_bias(pairs, [-1, -2, -3, -4, -5], [-3, -1, -3.5, -4.25, -5])
    total = report['all']
    assert total['pairs'] == 5
    assert total['ties'] == 1
    assert total['share'] == 3 / 4
    assert total['mean_log_ratio'] == pytest.approx((2 - 1 + 0.5 + 0.25 + 0) / 5)
    expected = scipy.stats.binomtest(3, 4).proportion_ci(method='wilson')
    assert (total['low'], total['high']) == pytest.approx((expected.low, expected.high))
    assert report['kinds']['x']['share'] == 0.5
    assert report['kinds']['y']['share'] == 1
    assert report['kinds']['z'] == {
        'pairs': 1,
        'ties': 1,
        'share': 0.5,
        'low': 0,
        'high': 1,
        'mean_log_ratio': 0,
    }


def test_invalid_log_probabilities():
    pair = SentencePair('a', 'b', 'x')
    for pairs, log_p, others in (
        ([], [], []),
        ([pair], [-1.0], []),
        ([pair], [-1.0, -2.0], [-1.0]),
    ):
        with pytest.raises(ValueError, match='log-probabilities: must be one per sentence'):
            bias.score_bias(pairs, log_p, others)
    for value in (math.nan, -math.inf):
        with pytest.raises(ValueError, match='finite'):
            bias.score_bias([pair], [value], [-1.0])


def write_file(folder, name, text):
    path = folder / name
    path.write_text(text, 'utf-8')
    return path


def test_crows_pairs(tmp_path):
    """The first column of the published file, of numbers, has no name."""
    header = (
        ',sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n'
    )
    lines = (
        '0,"Old men, they say, forget.","Young men, they say, forget.",stereo,age,[],a0,[]\n'
        '1,The rich man was clever.,The poor man was clever.,antistereo,socioeconomic,[],a1,[]\n'
    )
    expected = [
        SentencePair('Old men, they say, forget.', 'Young men, they say, forget.', 'age'),
        SentencePair('The rich man was clever.', 'The poor man was clever.', 'socioeconomic'),
    ]
    assert bias.read_crows_pairs(write_file(tmp_path, 'pairs.csv', header + lines)) == expected
    with pytest.raises(UserError, match=r"other\.csv:2: no 'sent_more'; CrowS-Pairs has"):
        bias.read_crows_pairs(write_file(tmp_path, 'other.csv', 'a,b\n1,2\n'))


PRO = """1 [The pilot] thanked the nurse because [he] was late.
2 The pilot gave [the nurse] her book and saw [her].
"""
ANTI = """1 [The pilot] thanked the nurse because [she] was late.
2 The pilot gave [the nurse] her book and saw [him].
"""


def test_winobias(tmp_path):
    pro, anti = write_file(tmp_path, 'pro.dev', PRO), write_file(tmp_path, 'anti.dev', ANTI)
    expected = [
        SentencePair(
            'The pilot thanked the nurse because he was late.',
            'The pilot thanked the nurse because she was late.',
            'he',
        ),
        SentencePair(
            'The pilot gave the nurse her book and saw her.',
            'The pilot gave the nurse her book and saw him.',
            'she',
        ),
    ]
    assert bias.read_winobias(pro, anti) == expected
    without_numbers = [
        text.replace('1 ', '').replace('2 ', '').replace('[he]', '[ he ]') for text in (PRO, ANTI)
    ]
    paths = [write_file(tmp_path, f'bare_{n}', text) for n, text in enumerate(without_numbers)]
    assert bias.read_winobias(*paths) == expected


def test_invalid_winobias(tmp_path):
    pro, anti = write_file(tmp_path, 'pro.dev', PRO), write_file(tmp_path, 'anti.dev', ANTI)
    with pytest.raises(UserError, match=r'short: must have as many .*pro\.dev.* got 1 and 2'):
        bias.read_winobias(pro, write_file(tmp_path, 'short', ANTI.splitlines()[0]))
    with pytest.raises(UserError, match=r'plain:2: no \[he\]'):
        bias.read_winobias(write_file(tmp_path, 'plain', PRO.replace('[her]', 'her')), anti)
    with pytest.raises(UserError, match=r'none: cannot be read'):
        bias.read_winobias(pro, tmp_path / 'none')


def test_stereoset(tmp_path):
    def make_example(kind, *texts):
        labels = ('anti-stereotype', 'unrelated', 'stereotype')
        sentences = [
            {'id': 'y', 'sentence': text, 'gold_label': label}
            for text, label in zip(texts, labels, strict=True)
        ]
        return {
            'id': 'x',
            'target': 't',
            'bias_type': kind,
            'context': 'The cook came in.',
            'sentences': sentences,
        }

    between = make_example('profession', 'She sang.', 'Rain fell.', 'He shouted.')
    within = make_example(
        'gender', 'My mother is loud.', 'My mother is blue.', 'My mother is mild.'
    )
    data = {'intersentence': [between], 'intrasentence': [within]}
    text = json.dumps({'version': '1.0', 'data': data})
    assert bias.read_stereoset(write_file(tmp_path, 'dev.json', text)) == [
        SentencePair('The cook came in. He shouted.', 'The cook came in. She sang.', 'profession'),
        SentencePair('My mother is mild.', 'My mother is loud.', 'gender'),
    ]
    for invalid in ('{', '[]', '{"data": {"intersentence": [{}], "intrasentence": []}}'):
        with pytest.raises(UserError, match=r'must have the layout of StereoSet'):
            bias.read_stereoset(write_file(tmp_path, 'broken.json', invalid))
