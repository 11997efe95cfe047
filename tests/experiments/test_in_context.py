"""Texts of one rule each, new questions, and the count of correct answers."""

import itertools
import json

import numpy as np
import pytest

from experiments.in_context import draw, make, measure
from experiments.in_context.rules import RULES, predict_answers
from gpt_jax.core import files
from gpt_jax.inference.scoring import ContinuationScore


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('in_context')
    make.write_corpus(folder, seed=3, texts=400)
    return folder


@pytest.fixture(scope='module')
def questions(corpus):
    return files.read_jsonl(corpus / 'questions.jsonl')


def consistent(lines):
    return [
        name
        for name, functions in RULES.items()
        if any(all(f(a) == b for a, b in lines) for f in functions)
    ]


def whole_lines(text):
    return [tuple(line.split('>')) for line in text.split('\n')[:-1]]


@pytest.mark.parametrize(
    ('rule', 'answer'),
    [
        ('same', 'zumo'),
        ('upper', 'ZUMO'),
        ('reversed', 'omuz'),
        ('first', 'z'),
        ('last', 'o'),
        ('tail', 'umo'),
        ('vowels', 'uo'),
        ('consonants', 'zm'),
        ('sorted', 'mouz'),
        ('next', 'avnp'),
    ],
)
def test_rules(rule, answer):
    (function,) = RULES[rule]
    assert function('zumo') == answer


def test_rules_with_content_of_their_own():
    assert {function('zumo') for function in RULES['syllable']} == {
        a + b for a, b in itertools.product('bcdfghjklmnprstvwz', 'aeiou')
    }
    coded = [function('zumo') for function in RULES['code']]
    assert len(coded) == 119
    assert set(coded) == {f'z{a}m{b}' for a, b in itertools.permutations('aeiou', 2)}


def test_a_text_is_as_long_as_a_window_and_shows_one_rule(corpus):
    vocabulary, new = make.draw_words(3)
    texts = [
        row['text']
        for name in ('train', 'validation')
        for row in files.read_jsonl(corpus / f'{name}.jsonl')
    ]
    seen = set()
    for text in texts:
        assert len(text.encode()) == 127
        lines = whole_lines(text)
        rules = consistent(lines)
        assert rules
        assert {word for word, _ in lines} <= set(vocabulary)
        if len(rules) == 1:
            assert not any(make.is_held_out(rules[0], word) for word, _ in lines)
            seen.add(rules[0])
    assert seen == set(RULES)
    assert not set(new) & set(vocabulary)


def test_the_seed_decides_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(make, 'QUESTIONS_PER_RULE', 2)
    first, same, other = (
        make.write_corpus(tmp_path / str(index), seed, texts=20)
        for index, seed in enumerate((3, 3, 4))
    )
    assert first == same
    assert first['files'] != other['files']


def test_questions_are_new_and_their_examples_fit(questions):
    vocabulary, new = make.draw_words(3)
    assert len(questions) == make.QUESTIONS_PER_RULE * len(RULES)
    for one in questions:
        shown = [tuple(line[:-1].split('>')) for line in one['shots']]
        asked = [*shown, (one['word'], one['answer'])]
        assert one['rule'] in consistent(asked)
        assert one['other'] in consistent(
            [tuple(line[:-1].split('>')) for line in one['other_shots']]
        )
        assert one['other_answer'] != one['answer']
        assert one['word'] in (new if one['about'] == 'new word' else vocabulary)
        assert one['about'] == 'new word' or make.is_held_out(one['rule'], one['word'])
        assert one['word'] not in [word for word, _ in shown]
        assert len(''.join(one['shots']) + one['word'] + one['answer']) + 2 <= 128


def test_what_an_ideal_reader_knows():
    # Without examples: of 12 rules, code keeps the vowel in 24 - 1 of 119 orders; no other rule
    # answers with the word itself.
    assert predict_answers([], 'bada')['bada'] == pytest.approx((1 + 23 / 119) / 12)
    assert predict_answers([('zumo', 'z')], 'bada') == {'b': 1.0}
    # u is e and o is a; a is then e's, i's, o's or u's, or its own: of 3 that are left.
    after = predict_answers([('zumo', 'zema')], 'bada')
    assert after == pytest.approx({'bodo': 1 / 3, 'bidi': 1 / 3, 'budu': 1 / 3})
    assert predict_answers([('zumo', 'xxx')], 'bada') == {}


class Reader:
    """Answers as an ideal reader does: the most likely answer, the first in the alphabet."""

    def score(self, pairs):
        found = []
        for context, continuation in pairs:
            *shown, word = context.split('\n')
            expected = predict_answers([tuple(line.split('>')) for line in shown], word[:-1])
            best = min(expected, key=lambda answer: (-expected[answer], answer), default='')
            found.append(
                ContinuationScore(np.full(len(continuation), -0.5), f'{best}\n' == continuation)
            )
        return found


def test_results_of_an_ideal_reader(questions):
    some = questions[::7]
    found = measure.measure_model(Reader(), some)
    exact = {(one['shown'], one['shots']): one['exact'] for one in found[:-1]}
    assert list(exact) == [('own', n) for n in (0, 1, 2, 4, 8)] + [
        ('other', 8),
        ('other, followed', 8),
    ]
    certain = [one for one in some if one['ideal']['1'] == 1]  # where nothing is left to guess
    (one_shot,) = [
        one
        for one in measure.measure_model(Reader(), certain)
        if (one['shown'], one['shots']) == ('own', 1)
    ]
    assert one_shot['exact'] == 1
    assert exact['own', 8] > 0.97
    assert exact['own', 0] < 0.3
    assert exact['other', 8] < 0.03
    assert exact['other, followed', 8] > 0.97
    assert found[-1]['gain'] == pytest.approx(exact['own', 8] - exact['own', 0])
    by_rule = found[4]['rules']
    counts = {rule: sum(one['rule'] == rule for one in some) for rule in by_rule}
    assert sum(by_rule[rule] * counts[rule] for rule in by_rule) / len(some) == pytest.approx(
        exact['own', 8]
    )
    assert found[0]['log_p_per_byte'] == -0.5


def test_the_gain_is_of_the_same_questions():
    found = measure.compute_gain(
        np.array([True, True, False, True]), np.array([False, True, False, False])
    )
    assert found['gain'] == 0.5
    half = 1.96 * np.sqrt(1 / 3) / 2  # differences 1, 0, 0, 1: variance 1/3
    assert (found['low'], found['high']) == pytest.approx((0.5 - half, 0.5 + half))


def test_the_figure_is_drawn(questions, tmp_path, capsys):
    some = questions[::20]
    lines = measure.measure_ideal(some)
    for seed, params in itertools.product((0, 1), (6592, 25472)):
        about = {
            'name': f'{params}-{seed}',
            'params_non_embedding': params,
            'size': f'2x{params}',
            'seed': seed,
        }
        lines += [about | one for one in measure.measure_model(Reader(), some)]
    (tmp_path / 'results.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
    assert [path.name for path in draw.main(tmp_path)] == ['in_context.png', 'in_context.svg']
    assert '| 2x6592 |' in capsys.readouterr().out
