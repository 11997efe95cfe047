"""Are the numbers those of the papers and libraries, worked out here another way?"""

import importlib
import math

import numpy as np
import pytest
import sacrebleu

from gpt_jax.errors import UserError
from gpt_jax.evaluate import metrics
from gpt_jax.evaluate.metrics import KINDS, LABEL_METRICS, METRICS, TAG_METRICS


def written(name, answers, references):
    return METRICS[name].function(answers, references)


@pytest.mark.parametrize(
    ('answer', 'references', 'exact', 'f1'),
    [
        ('The Cat!', ['cat'], 1, 1),
        ('an  apple, a pear', ['Apple pear.'], 1, 1),
        ('the black cat sat', ['a cat', 'dog'], 0, 0.5),  # precision 1/3, recall 1/1
        ('dog dog dog', ['dog dog bird'], 0, 2 / 3),  # two in common: 2/3 and 2/3
        ('x', ['y', 'x y z'], 0, 0.5),  # 1/1 and 1/3 of the better one
        ('theatre', ['the atre'], 0, 0),  # an article is a word, not a part of one
        ('', ['cat'], 0, 0),
        ('the', ['a'], 1, 1),  # nothing is left of either
    ],
)
def test_squad(answer, references, exact, f1):
    assert written('exact_match', [answer], [references]) == exact
    assert written('f1', [answer], [references]) == pytest.approx(f1)


def test_f1_is_that_of_another_evaluation():
    """DROP's F of one answer, of lm-evaluation-harness, normalizes and counts alike where no word is repeated or a
    number."""
    drop = importlib.import_module('lm_eval.tasks.drop.utils')
    texts = ['Denver Broncos', 'the old Denver team', 'Broncos, of Colorado', 'a river', 'The River Rhine']
    for one in texts:
        for other in texts:
            theirs = drop.get_metrics([one], [other])
            assert written('exact_match', [one], [[other]]) == theirs[0]
            assert written('f1', [one], [[other]]) == pytest.approx(theirs[1], abs=0.006)  # it rounds to hundredths


def test_the_mean_and_the_best_reference():
    assert written('exact_match', ['a b', 'c', 'd'], [['x', 'a b'], ['c'], ['e']]) == pytest.approx(2 / 3)
    assert written('accuracy', [' yes\n', 'Yes', 'no'], [['yes'], ['yes'], ['no', 'nope']]) == pytest.approx(2 / 3)


ANSWERS = ['The cat sat on the mat today .', 'It rains in the north of the country .', 'No one knows .']
RAGGED = [
    ['The cat sat on a mat today .', 'A cat was sitting on the mat .'],
    ['It is raining in the north of the country .'],
    ['Nobody knows .', 'No one knows that .', 'No one knows .'],
]


def bleu_by_hand(answers, references):
    """Papineni et al. 2002, equations of section 2.3, for texts that are words and spaces already."""
    logs, given, wanted = [], 0, 0
    for answer, some in zip(answers, references, strict=True):
        words = answer.split()
        given += len(words)
        wanted += min((abs(len(text.split()) - len(words)), len(text.split())) for text in some)[1]
    for n in range(1, 5):
        hits = total = 0
        for answer, some in zip(answers, references, strict=True):
            counts = grams(answer, n)
            hits += sum(min(count, max(grams(text, n).get(gram, 0) for text in some)) for gram, count in counts.items())
            total += sum(counts.values())
        logs.append(math.log(hits / total))
    return 100 * math.exp(min(0, 1 - wanted / given) + sum(logs) / 4)


def grams(text, n):
    words, counts = text.split(), {}
    for at in range(len(words) - n + 1):
        gram = tuple(words[at : at + n])
        counts[gram] = counts.get(gram, 0) + 1
    return counts


def test_bleu_of_any_number_of_references():
    assert written('bleu', ANSWERS, RAGGED) == pytest.approx(bleu_by_hand(ANSWERS, RAGGED))
    assert written('bleu', ANSWERS, RAGGED) > written('bleu', ANSWERS, [some[:1] for some in RAGGED])


def test_chrf():
    score = sacrebleu.CHRF().corpus_score(ANSWERS, [[some[0] for some in RAGGED]]).score
    assert written('chrf', ANSWERS, [some[:1] for some in RAGGED]) == pytest.approx(score)
    assert written('chrf', ANSWERS, RAGGED) > score
    assert written('chrf', ['abc'], [['xyz', 'abc']]) == 100


def longest_common(one, other):
    """Of subsequences."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_rouge():
    """Lin 2004; words that are their own stems."""
    answer, references = 'the man saw the red bird', ['bird', 'a man saw a bird the red one']
    given, right = answer.split(), references[1].split()
    assert written('rouge1', [answer], [references]) == pytest.approx(2 * 5 / (len(given) + len(right)))
    assert written('rouge2', [answer], [references]) == pytest.approx(2 * 2 / (len(given) - 1 + len(right) - 1))
    expected = 2 * longest_common(given, right) / (len(given) + len(right))
    assert written('rougeL', [answer], [references]) == pytest.approx(expected)
    assert written('rouge1', ['cats running'], [['cat runs']]) == 1  # on stems
    lines = [['one two three\nfour five six']]
    assert written('rougeLsum', ['four five six\none two three'], lines) == 1 > written('rougeL', ['four five'], lines)


PREDICTED, RIGHT = [0, 1, 2, 2, 1, 0, 1, 1], [0, 1, 2, 1, 1, 2, 0, 1]


def test_labels():
    table = np.zeros((3, 3))
    for given, right in zip(PREDICTED, RIGHT, strict=True):
        table[right, given] += 1
    hits, wanted, said, count = np.diag(table), table.sum(1), table.sum(0), len(RIGHT)
    cross = np.sqrt((count**2 - (said**2).sum()) * (count**2 - (wanted**2).sum()))  # Gorodkin 2004, R_K
    expected = {
        'accuracy': hits.sum() / count,
        'macro_f1': np.mean(2 * hits / (wanted + said)),
        'matthews': (hits.sum() * count - (wanted * said).sum()) / cross,
        'pearson': np.corrcoef(PREDICTED, RIGHT)[0, 1],
        'spearman': np.corrcoef(ranks(PREDICTED), ranks(RIGHT))[0, 1],
    }
    assert set(expected) == set(LABEL_METRICS)
    for name, value in expected.items():
        assert LABEL_METRICS[name].function(PREDICTED, RIGHT) == pytest.approx(value), name


def ranks(values):
    """Those of the same value share their places."""
    return [np.mean(np.nonzero(np.sort(values) == value)[0]) for value in values]


def test_the_same_class_throughout():
    assert LABEL_METRICS['macro_f1'].function([0, 0, 0, 0], [0, 0, 0, 1]) == pytest.approx((6 / 7 + 0) / 2)
    for name in ('matthews', 'pearson', 'spearman'):
        assert LABEL_METRICS[name].function([0, 0, 0], [0, 1, 2]) == 0


def test_entities():
    right = [['B-PER', 'I-PER', 'O', 'B-LOC'], ['O', 'B-ORG']]
    predicted = [['B-PER', 'I-PER', 'O', 'B-ORG'], ['B-ORG', 'B-ORG']]
    score = TAG_METRICS['entity_f1'].function
    assert score(predicted, right) == pytest.approx(2 * 2 / (4 + 3))  # two right, four given, three there
    assert score(right, right) == 1
    assert score([['B-PER', 'O', 'O', 'B-LOC'], ['O', 'O']], right) == pytest.approx(2 * 1 / (2 + 3))  # half is none
    assert score([['O'] * 4, ['O'] * 2], right) == 0


def test_roles_with_hyphens():
    right = [['B-ARGM-TMP', 'I-ARGM-TMP', 'B-ARGM-LOC']]
    assert TAG_METRICS['entity_f1'].function([['B-ARGM-TMP', 'I-ARGM-TMP', 'B-ARGM-TMP']], right) == 0.5


def test_tags_that_are_not_iob():
    assert metrics.spans(['V', 'ARG0', 'ARG0', 'O', 'ARG0']) == ['B-V', 'B-ARG0', 'I-ARG0', 'O', 'B-ARG0']
    right, predicted = [['V', 'ARG0', 'ARG0', 'O']], [['V', 'ARG0', 'O', 'O']]
    assert TAG_METRICS['entity_f1'].function(predicted, right) == 0.5
    assert TAG_METRICS['accuracy'].function(predicted, right) == 0.75
    f1 = [1, 2 * 1 / (2 + 1), 2 * 1 / (1 + 2)]  # of V, ARG0 and O
    assert TAG_METRICS['macro_f1'].function(predicted, right) == pytest.approx(np.mean(f1))


def test_nothing_to_compare():
    for some in (METRICS, LABEL_METRICS, TAG_METRICS):
        for metric in some.values():
            with pytest.raises(ValueError, match='0 given, 0 to compare'):
                metric.function([], [])
            with pytest.raises(ValueError, match='1 given, 2 to compare'):
                metric.function(['x'], ['x', 'y'])
    for name in TAG_METRICS:
        with pytest.raises(ValueError, match='1'):
            TAG_METRICS[name].function([['O']], [['O', 'O']])


def test_names():
    for kind, known in KINDS.items():
        metrics.check(tuple(known), kind)
    metrics.check(('pass@1', 'exact_match', 'pass@10'), 'answer')
    with pytest.raises(UserError, match=r"^config\.task\.metrics: no 'rouge_1' for task\.kind='answer'; .*'rouge1'$"):
        metrics.check(('f1', 'rouge_1'), 'answer')
    with pytest.raises(UserError, match=r"no 'bleu' for task\.kind='classify'; one of accuracy, macro_f1, matthews"):
        metrics.check(('bleu',), 'classify')
    for kind, name in (('answer', 'pass@0'), ('classify', 'pass@1'), ('none', 'accuracy')):
        with pytest.raises(UserError, match=f'no {name!r} for'):
            metrics.check((name,), kind)


def test_a_package_that_is_missing():
    with pytest.raises(UserError, match=r"^this metric wants the package no_such: pip install -e '\.\[eval\]'$"):
        metrics.library('no_such.part')
