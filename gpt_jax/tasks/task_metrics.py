"""Task metrics as papers report them, by name; higher is better.

BLEU and chrF are from 0 to 100, correlations (Matthews, Pearson, Spearman) from -1 to 1, and all
others from 0 to 1.

Libraries compute them, except for SQuAD's two, whose library downloads code. Every value is
computed over a whole split; it is not a mean over batches.

Words are those of the papers, which assume spaces between words and, for ROUGE, the letters a-z.
So that other texts do not score 0 whatever the answer, a character of a script without spaces is a
word of its own for BLEU (as in sacrebleu's zh), ROUGE and F1, and ROUGE takes words of any letters
where most letters of the right answer are not a-z.
"""

import collections
import importlib
import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt_jax.core.config_fields import nearest
from gpt_jax.core.errors import UserError

# (predictions, right answers) -> value, both in the order of the examples.
Scorer = Callable[[Sequence[Any], Sequence[Any]], float]

# Libraries by metric; all 'rouge...' use rouge_score.
LIBRARIES = {
    'bleu': 'sacrebleu',
    'chrf': 'sacrebleu',
    'macro_f1': 'sklearn.metrics',
    'matthews': 'sklearn.metrics',
    'accuracy': 'sklearn.metrics',
    'entity_f1': 'seqeval.metrics',
}
ROUGE_LIBRARY = 'rouge_score.rouge_scorer'
# Metrics of generated code, which is executed (gpt_jax/evaluation/code_execution.py).
PASS_AT = re.compile(r'pass@[1-9][0-9]*')
_PUNCTUATION = frozenset(string.punctuation)
# Han with its punctuation and full-width forms, Kana, Bopomofo, Thai, Lao, Tibetan, Burmese, Khmer,
# Javanese.
_UNSPACED_CHARACTER = re.compile(
    '[\u3000-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef'
    '\U00020000-\U0003134f\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\ua980-\ua9df]'
)
_TAG_WITH_PREFIX = re.compile(r'[BIES]-.')


def check_metrics(names: Sequence[str], kind: str) -> None:
    """Check that a task of this kind has these metrics.

    Raises:
      UserError: a metric is unknown; the message names the known ones and the nearest.
    """
    known = METRICS_BY_KIND.get(kind, {})
    for name in names:
        if name in known or (kind == 'completion' and PASS_AT.fullmatch(name)):
            continue
        choices = [*known, *(['pass@1, pass@10, ...'] if kind == 'completion' else [])]
        raise UserError(
            f'config.task.metrics: must be among {", ".join(choices) or "none"} for '
            f'task.kind={kind!r}, got {name!r}{nearest(name, known)}'
        )


def require_libraries(names: Sequence[str], kind: str) -> None:
    """Raise UserError if a metric's library is missing, so before a run and not at its end."""
    for name in names:
        module = ROUGE_LIBRARY if name.startswith('rouge') else LIBRARIES.get(name)
        # The accuracy of completions compares texts and needs no library.
        if module and not (name == 'accuracy' and kind == 'completion'):
            import_library(module)


def import_library(module: str) -> Any:
    """Import a module that training does not need.

    Raises:
      UserError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition('.')[0]
        raise UserError(
            f"config.task.metrics: needs the package {package}; pip install -e '.[eval]'"
        ) from None


def normalize_answer(text: str) -> str:
    """Normalize an answer as SQuAD does (Rajpurkar et al. 2016).

    Lower case, without punctuation and articles, words separated by single spaces.
    """
    without_punctuation = ''.join(char for char in text.lower() if char not in _PUNCTUATION)
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', without_punctuation).split())


def _mean_best_reference(score_pair: Callable[[str, str], float]) -> Scorer:
    """Make a scorer: the mean over answers of the score against their best reference."""

    def score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _check_lengths(answers, references)
        best = [
            max(score_pair(answer, reference) for reference in alternatives)
            for answer, alternatives in zip(answers, references, strict=True)
        ]
        return float(sum(best) / len(best))

    return score


def _exact_match(answer: str, reference: str) -> float:
    return float(normalize_answer(answer) == normalize_answer(reference))


def _stripped_match(answer: str, reference: str) -> float:
    return float(answer.strip() == reference.strip())


def _word_f1(answer: str, reference: str) -> float:
    """Compute SQuAD's F1 between bags of words; if one has no words, whether both have none."""
    predicted, right = (
        _separate_characters(normalize_answer(text)).split() for text in (answer, reference)
    )
    if not predicted or not right:
        return float(predicted == right)
    common = sum((collections.Counter(predicted) & collections.Counter(right)).values())
    return 2 * common / (len(predicted) + len(right))


def _separate_characters(text: str) -> str:
    """Put spaces around each character of a script that is written without them."""
    return _UNSPACED_CHARACTER.sub(r' \g<0> ', text)


def _bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute BLEU on 13a tokens, sacrebleu's default, of characters where there are no spaces."""
    separated = [[_separate_characters(text) for text in texts] for texts in references]
    return _sacrebleu('corpus_bleu')([_separate_characters(text) for text in answers], separated)


def _sacrebleu(function: str) -> Scorer:
    """Make a scorer of the whole corpus with sacrebleu's defaults: BLEU on 13a tokens, chrF2."""

    def score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _check_lengths(answers, references)
        # sacrebleu takes streams: the first reference of every answer, the second, ...
        streams = list(map(list, itertools.zip_longest(*references)))
        compute = getattr(import_library('sacrebleu'), function)
        return float(compute(list(answers), streams).score)

    return score


class _UnicodeWords:
    """rouge_score's protocol of a tokenizer: lower-case words of any letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = re.findall(r'[^\W_]+', _separate_characters(text.lower()))
        return words


def _is_latin(texts: Sequence[str]) -> bool:
    """Whether at least half of the letters are a-z."""
    letters = [char for char in ''.join(texts) if char.isalpha()]
    return 2 * sum(char.isascii() for char in letters) >= len(letters)


def _rouge(name: str) -> Scorer:
    """Make a scorer: the mean F-measure against the best reference, on stems, for summaries.

    Characters other than a-z and 0-9 are ignored, unless most letters of the references are others.
    For rougeLsum a line is a sentence.
    """

    def score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _check_lengths(answers, references)
        make_scorer = import_library(ROUGE_LIBRARY).RougeScorer
        latin = make_scorer([name], use_stemmer=True)
        other = make_scorer([name], tokenizer=_UnicodeWords())
        total = sum(
            (latin if _is_latin(alternatives) else other)
            .score_multi(alternatives, answer)[name]
            .fmeasure
            for answer, alternatives in zip(answers, references, strict=True)
        )
        return float(total / len(answers))

    return score


def _accuracy(predicted: Sequence[int], right: Sequence[int]) -> float:
    _check_lengths(predicted, right)
    return float(import_library('sklearn.metrics').accuracy_score(right, predicted))


def _macro_f1(predicted: Sequence[int], right: Sequence[int]) -> float:
    """Compute the mean F1 over the classes on either side; a class without a hit counts as 0."""
    _check_lengths(predicted, right)
    f1_score = import_library('sklearn.metrics').f1_score
    return float(f1_score(right, predicted, average='macro', zero_division=0))


def _matthews(predicted: Sequence[int], right: Sequence[int]) -> float:
    _check_lengths(predicted, right)
    return float(import_library('sklearn.metrics').matthews_corrcoef(right, predicted))


def _correlation(function: str) -> Scorer:
    """Make a scorer for ordered classes, such as grades; 0 if one side is constant."""

    def score(predicted: Sequence[int], right: Sequence[int]) -> float:
        import scipy.stats

        _check_lengths(predicted, right)
        if len(set(predicted)) < 2 or len(set(right)) < 2:
            return 0.0
        return float(getattr(scipy.stats, function)(predicted, right).statistic)

    return score


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Convert the tags of a sentence to IOB2.

    'O' and tags with a prefix B-, I-, E- or S- are kept. Any other tag forms a span for as long as
    it repeats, so that roles or classes without IOB prefixes ('ARG0 ARG0 O') are entities too. Two
    adjacent spans of one type become one, because nothing marks the start of the second.
    """
    converted, previous = [], 'O'
    for tag in tags:
        needs_prefix = tag != 'O' and not _TAG_WITH_PREFIX.match(tag)
        converted.append(f'{"I" if tag == previous else "B"}-{tag}' if needs_prefix else tag)
        previous = tag
    return converted


def _entity_f1(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """Compute CoNLL 2003's F1 over all spans, which match if both ends and the type are right."""
    _check_lengths(predicted, right)
    f1_score = import_library('seqeval.metrics').f1_score
    return float(f1_score([*map(to_iob2, right)], [*map(to_iob2, predicted)], zero_division=0))


def _over_tokens(score_labels: Scorer) -> Scorer:
    """Make a scorer that applies a classification metric to the tags of all words."""

    def score(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
        _check_lengths(predicted, right)
        for predicted_tags, right_tags in zip(predicted, right, strict=True):
            _check_lengths(predicted_tags, right_tags)
        chain = itertools.chain.from_iterable
        return score_labels(list(chain(predicted)), list(chain(right)))

    return score


def _check_lengths(predicted: Sequence[Any], right: Sequence[Any]) -> None:
    if len(predicted) != len(right) or not len(right):
        raise ValueError(
            f'predictions: must be as many as the right answers and at least one, got '
            f'{len(predicted)} and {len(right)}'
        )


# Metrics of (generated texts, all right texts for each).
COMPLETION_METRICS: dict[str, Scorer] = {
    'exact_match': _mean_best_reference(_exact_match),
    'f1': _mean_best_reference(_word_f1),
    'accuracy': _mean_best_reference(_stripped_match),
    'bleu': _bleu,
    'chrf': _sacrebleu('corpus_chrf'),
    'rouge1': _rouge('rouge1'),
    'rouge2': _rouge('rouge2'),
    'rougeL': _rouge('rougeL'),
    'rougeLsum': _rouge('rougeLsum'),
}
# Metrics of (indices of the predicted classes, indices of the right ones).
CLASSIFICATION_METRICS: dict[str, Scorer] = {
    'accuracy': _accuracy,
    'macro_f1': _macro_f1,
    'matthews': _matthews,
    'pearson': _correlation('pearsonr'),
    'spearman': _correlation('spearmanr'),
}
# Metrics of (predicted tags of each sentence, right tags), as strings.
TOKEN_CLASSIFICATION_METRICS: dict[str, Scorer] = {
    'entity_f1': _entity_f1,
    'accuracy': _over_tokens(_accuracy),
    'macro_f1': _over_tokens(_macro_f1),
}
# By task.kind.
METRICS_BY_KIND: dict[str, Mapping[str, Scorer]] = {
    'completion': COMPLETION_METRICS,
    'classification': CLASSIFICATION_METRICS,
    'multiple_choice': CLASSIFICATION_METRICS,
    'token_classification': TOKEN_CLASSIFICATION_METRICS,
    'preference': {'accuracy': CLASSIFICATION_METRICS['accuracy']},
}
