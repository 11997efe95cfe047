"""Tests of task metrics against independent computations and other libraries."""

import importlib
import math

import numpy as np
import pytest
import sacrebleu

from gpt_jax.core.errors import UserError
from gpt_jax.tasks import task_metrics
from gpt_jax.tasks.task_metrics import (
    CLASSIFICATION_METRICS,
    COMPLETION_METRICS,
    METRICS_BY_KIND,
    TOKEN_CLASSIFICATION_METRICS,
)


def score(name, answers, references):
    return COMPLETION_METRICS[name](answers, references)


@pytest.mark.parametrize(
    ('answer', 'references', 'exact', 'f1'),
    [
        ('The Cat!', ['cat'], 1, 1),
        ('an  apple, a pear', ['Apple pear.'], 1, 1),
        ('the black cat sat', ['a cat', 'dog'], 0, 0.5),  # precision 1/3, recall 1/1
        ('dog dog dog', ['dog dog bird'], 0, 2 / 3),  # two in common: 2/3 and 2/3
        ('x', ['y', 'x y z'], 0, 0.5),  # 1/1 and 1/3 with the better reference
        ('theatre', ['the atre'], 0, 0),  # an article is a word, not a part of one
        ('', ['cat'], 0, 0),
        ('the', ['a'], 1, 1),  # both are empty
    ],
)
def test_squad(answer, references, exact, f1):
    assert score('exact_match', [answer], [references]) == exact
    assert score('f1', [answer], [references]) == pytest.approx(f1)


def test_f1_equals_lm_evaluation_harness():
    """F1 of a single answer in DROP is the same for texts without repeated words and numbers."""
    drop = importlib.import_module('lm_eval.tasks.drop.utils')
    texts = [
        'Denver Broncos',
        'the old Denver team',
        'Broncos, of Colorado',
        'a river',
        'The River Rhine',
    ]
    for answer in texts:
        for reference in texts:
            exact, f1 = drop.get_metrics([answer], [reference])
            assert score('exact_match', [answer], [[reference]]) == exact
            # lm_eval rounds to hundredths.
            assert score('f1', [answer], [[reference]]) == pytest.approx(f1, abs=0.006)


def test_mean_over_best_references():
    assert score('exact_match', ['a b', 'c', 'd'], [['x', 'a b'], ['c'], ['e']]) == pytest.approx(
        2 / 3
    )
    assert score(
        'accuracy', [' yes\n', 'Yes', 'no'], [['yes'], ['yes'], ['no', 'nope']]
    ) == pytest.approx(2 / 3)


ANSWERS = [
    'The cat sat on the mat today .',
    'It rains in the north of the country .',
    'No one knows .',
]
RAGGED = [
    ['The cat sat on a mat today .', 'A cat was sitting on the mat .'],
    ['It is raining in the north of the country .'],
    ['Nobody knows .', 'No one knows that .', 'No one knows .'],
]


def compute_bleu(answers, references):
    """Follows the equations of Papineni et al. 2002, section 2.3, for tokenized texts."""
    logs, answer_length, reference_length = [], 0, 0
    for answer, alternatives in zip(answers, references, strict=True):
        length = len(answer.split())
        lengths = [len(text.split()) for text in alternatives]
        answer_length += length
        reference_length += min((abs(other - length), other) for other in lengths)[1]
    for n in range(1, 5):
        hits = total = 0
        for answer, alternatives in zip(answers, references, strict=True):
            counts = count_ngrams(answer, n)
            hits += sum(
                min(count, max(count_ngrams(text, n).get(gram, 0) for text in alternatives))
                for gram, count in counts.items()
            )
            total += sum(counts.values())
        logs.append(math.log(hits / total))
    return 100 * math.exp(min(0, 1 - reference_length / answer_length) + sum(logs) / 4)


def count_ngrams(text, n):
    words, counts = text.split(), {}
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        counts[gram] = counts.get(gram, 0) + 1
    return counts


def test_bleu_with_several_references():
    assert score('bleu', ANSWERS, RAGGED) == pytest.approx(compute_bleu(ANSWERS, RAGGED))
    single = [alternatives[:1] for alternatives in RAGGED]
    assert score('bleu', ANSWERS, RAGGED) > score('bleu', ANSWERS, single)


def test_chrf():
    first = [alternatives[0] for alternatives in RAGGED]
    expected = sacrebleu.CHRF().corpus_score(ANSWERS, [first]).score
    single = [[text] for text in first]
    assert score('chrf', ANSWERS, single) == pytest.approx(expected)
    assert score('chrf', ANSWERS, RAGGED) > expected
    assert score('chrf', ['abc'], [['xyz', 'abc']]) == 100


def longest_common_subsequence(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
            )
    return table[-1, -1]


def test_rouge():
    """Follows Lin 2004, for words that are their own stems."""
    answer, references = 'the man saw the red bird', ['bird', 'a man saw a bird the red one']
    words, right = answer.split(), references[1].split()
    assert score('rouge1', [answer], [references]) == pytest.approx(
        2 * 5 / (len(words) + len(right))
    )
    assert score('rouge2', [answer], [references]) == pytest.approx(
        2 * 2 / (len(words) - 1 + len(right) - 1)
    )
    expected = 2 * longest_common_subsequence(words, right) / (len(words) + len(right))
    assert score('rougeL', [answer], [references]) == pytest.approx(expected)
    assert score('rouge1', ['cats running'], [['cat runs']]) == 1  # on stems
    lines = [['one two three\nfour five six']]
    assert score('rougeLsum', ['four five six\none two three'], lines) == 1
    assert score('rougeL', ['four five'], lines) < 1


PREDICTED, RIGHT = [0, 1, 2, 2, 1, 0, 1, 1], [0, 1, 2, 1, 1, 2, 0, 1]


def test_classification_metrics():
    table = np.zeros((3, 3))
    for predicted, right in zip(PREDICTED, RIGHT, strict=True):
        table[right, predicted] += 1
    hits, right_counts, predicted_counts = np.diag(table), table.sum(1), table.sum(0)
    count = len(RIGHT)
    # R_K of Gorodkin 2004.
    covariance = hits.sum() * count - (right_counts * predicted_counts).sum()
    variances = [count**2 - (counts**2).sum() for counts in (predicted_counts, right_counts)]
    expected = {
        'accuracy': hits.sum() / count,
        'macro_f1': np.mean(2 * hits / (right_counts + predicted_counts)),
        'matthews': covariance / np.sqrt(variances[0] * variances[1]),
        'pearson': np.corrcoef(PREDICTED, RIGHT)[0, 1],
        'spearman': np.corrcoef(compute_ranks(PREDICTED), compute_ranks(RIGHT))[0, 1],
    }
    assert set(expected) == set(CLASSIFICATION_METRICS)
    for name, value in expected.items():
        assert CLASSIFICATION_METRICS[name](PREDICTED, RIGHT) == pytest.approx(value), name


def compute_ranks(values):
    """Gives equal values their mean rank."""
    return [np.mean(np.nonzero(np.sort(values) == value)[0]) for value in values]


def test_constant_predictions():
    assert CLASSIFICATION_METRICS['macro_f1']([0, 0, 0, 0], [0, 0, 0, 1]) == pytest.approx(
        (6 / 7 + 0) / 2
    )
    for name in ('matthews', 'pearson', 'spearman'):
        assert CLASSIFICATION_METRICS[name]([0, 0, 0], [0, 1, 2]) == 0


def test_entity_f1():
    right = [['B-PER', 'I-PER', 'O', 'B-LOC'], ['O', 'B-ORG']]
    predicted = [['B-PER', 'I-PER', 'O', 'B-ORG'], ['B-ORG', 'B-ORG']]
    f1 = TOKEN_CLASSIFICATION_METRICS['entity_f1']
    # Two of four predicted spans are right, and there are three.
    assert f1(predicted, right) == pytest.approx(2 * 2 / (4 + 3))
    assert f1(right, right) == 1
    # Half a span does not count.
    partial = [['B-PER', 'O', 'O', 'B-LOC'], ['O', 'O']]
    assert f1(partial, right) == pytest.approx(2 * 1 / (2 + 3))
    assert f1([['O'] * 4, ['O'] * 2], right) == 0


def test_roles_with_hyphens():
    right = [['B-ARGM-TMP', 'I-ARGM-TMP', 'B-ARGM-LOC']]
    predicted = [['B-ARGM-TMP', 'I-ARGM-TMP', 'B-ARGM-TMP']]
    assert TOKEN_CLASSIFICATION_METRICS['entity_f1'](predicted, right) == 0.5


def test_tags_without_iob_prefixes():
    converted = task_metrics.to_iob2(['V', 'ARG0', 'ARG0', 'O', 'ARG0'])
    assert converted == ['B-V', 'B-ARG0', 'I-ARG0', 'O', 'B-ARG0']
    right, predicted = [['V', 'ARG0', 'ARG0', 'O']], [['V', 'ARG0', 'O', 'O']]
    assert TOKEN_CLASSIFICATION_METRICS['entity_f1'](predicted, right) == 0.5
    assert TOKEN_CLASSIFICATION_METRICS['accuracy'](predicted, right) == 0.75
    f1 = [1, 2 * 1 / (2 + 1), 2 * 1 / (1 + 2)]  # of V, ARG0 and O
    assert TOKEN_CLASSIFICATION_METRICS['macro_f1'](predicted, right) == pytest.approx(np.mean(f1))


def test_unequal_lengths_are_rejected():
    for metrics in (COMPLETION_METRICS, CLASSIFICATION_METRICS, TOKEN_CLASSIFICATION_METRICS):
        for metric in metrics.values():
            with pytest.raises(ValueError, match='at least one, got 0 and 0'):
                metric([], [])
            with pytest.raises(ValueError, match='got 1 and 2'):
                metric(['x'], ['x', 'y'])
    for name in TOKEN_CLASSIFICATION_METRICS:
        with pytest.raises(ValueError, match='1'):
            TOKEN_CLASSIFICATION_METRICS[name]([['O']], [['O', 'O']])


def test_metric_names():
    for kind, known in METRICS_BY_KIND.items():
        task_metrics.check_metrics(tuple(known), kind)
    task_metrics.check_metrics(('pass@1', 'exact_match', 'pass@10'), 'completion')
    message = r"^config\.task\.metrics: must be among .*='completion', got 'rouge_1'.*'rouge1'$"
    with pytest.raises(UserError, match=message):
        task_metrics.check_metrics(('f1', 'rouge_1'), 'completion')
    with pytest.raises(
        UserError,
        match=r"among accuracy, macro_f1, matthews, .* task\.kind='classification', got 'bleu'",
    ):
        task_metrics.check_metrics(('bleu',), 'classification')
    for kind, name in (
        ('completion', 'pass@0'),
        ('classification', 'pass@1'),
        ('none', 'accuracy'),
    ):
        with pytest.raises(UserError, match=f'got {name!r}'):
            task_metrics.check_metrics((name,), kind)


def test_missing_package():
    with pytest.raises(
        UserError,
        match=r"^config\.task\.metrics: needs the package no_such; pip install -e '\.\[eval\]'$",
    ):
        task_metrics.import_library('no_such.part')


@pytest.mark.parametrize(
    ('text', 'changed'),
    [
        ('我喜欢吃苹果。今天天气很好。', '我喜欢吃梨。今天天气很好。'),
        ('わたしはリンゴがすきです', 'わたしはナシがすきです'),
        ('ฉันชอบกินแอปเปิ้ล', 'ฉันชอบกินส้ม'),
        ('བཀྲ་ཤིས་བདེ་ལེགས', 'བཀྲ་ཤིས་བདེ་ལེ'),
        ('ﾜﾀｼﾊﾘﾝｺﾞｶﾞｽｷﾃﾞｽ', 'ﾜﾀｼﾊﾅｼｶﾞｽｷﾃﾞｽ'),
        ('Сегодня очень хорошая погода в Москве', 'Сегодня очень плохая погода в Москве'),
    ],
)
@pytest.mark.parametrize('metric', ['bleu', 'chrf', 'f1', 'rouge1', 'rougeL'])
def test_texts_in_other_scripts_are_scored(metric, text, changed):
    whole = score(metric, [text], [[text]])
    assert whole == pytest.approx(100 if metric in ('bleu', 'chrf') else 1)
    assert 0 < score(metric, [changed], [[text]]) < whole


def test_chinese_bleu_is_that_of_sacrebleus_chinese_tokens():
    answers = ['我喜欢吃梨。今天天气很好，23.5度。', '他说：“好”，OK? 走吧！']
    references = ['我喜欢吃苹果。今天天气很好，23.5度。', '他说：“不好”，OK? 我们走吧！']
    expected = sacrebleu.BLEU(tokenize='zh').corpus_score(answers, [references]).score
    assert score('bleu', answers, [[text] for text in references]) == pytest.approx(expected)


def test_each_text_is_scored_by_its_own_script():
    chinese, english = '今天天气很好我们去公园玩', 'the cat sat on the mat and then it went home'
    for copies in (1, 3):
        answers = [chinese[:-1]] * copies + [english]
        references = [[chinese]] * copies + [[english]]
        assert score('rouge1', answers, references) > 0.95
        assert score('bleu', answers, references) > 90
