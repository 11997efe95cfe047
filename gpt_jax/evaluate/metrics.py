"""How good are answers, classes and tags, by the numbers that papers report? Each name with its unit.

Whatever a library computes, it computes here; the two of SQuAD alone are written out, for the library that has them
fetches its code over the network. Every number is of a whole split, not a mean of batches.
"""

import collections
import importlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.schema import nearest

Scorer = Callable[[Sequence[Any], Sequence[Any]], float]
SHARE, HUNDRED, CORRELATION = '0..1', '0..100', '-1..1'


class Metric(NamedTuple):
    """function: (what the model gave, what was right), each in the order of the examples -> the number. unit: its
    range; more is better in all of them."""

    function: Scorer
    unit: str


def check(names: Sequence[str], kind: str) -> None:
    """Says whether a task of this kind can be scored by these names.

    Raises:
      UserError: names the one that it cannot, those that it can, and the nearest.
    """
    known = KINDS.get(kind, {})
    for name in names:
        if name in known or (kind == 'answer' and PASS_AT.fullmatch(name)):
            continue
        there = [*known, *(['pass@1, pass@10, ...'] if kind == 'answer' else [])]
        raise UserError(
            f'config.task.metrics: no {name!r} for task.kind={kind!r}; one of {", ".join(there) or "none"}'
            f'{nearest(name, known)}'
        )


LIBRARIES = {
    'bleu': 'sacrebleu', 'chrf': 'sacrebleu', 'macro_f1': 'sklearn.metrics', 'matthews': 'sklearn.metrics',
    'accuracy': 'sklearn.metrics', 'entity_f1': 'seqeval.metrics',
}  # fmt: skip


def installed(names: Sequence[str], kind: str) -> None:
    """Raises UserError where a metric's library is missing: before a run, and not at its end."""
    for name in names:
        module = 'rouge_score.rouge_scorer' if name.startswith('rouge') else LIBRARIES.get(name)
        if module and not (name == 'accuracy' and kind == 'answer'):
            library(module)


def library(module: str) -> Any:
    """A module that is not needed for training.

    Raises:
      UserError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition('.')[0]
        raise UserError(f"this metric wants the package {package}: pip install -e '.[eval]'") from None


def normalized(text: str) -> str:
    """What SQuAD compares (Rajpurkar et al. 2016): small letters, no punctuation, no articles, single spaces."""
    bare = ''.join(character for character in text.lower() if character not in _PUNCTUATION)
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', bare).split())


def _mean_of_best(one: Callable[[str, str], float]) -> Scorer:
    """The mean over answers of what `one` says of each and the reference that suits it best."""

    def function(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _same_length(answers, references)
        best = [max(one(answer, right) for right in some) for answer, some in zip(answers, references, strict=True)]
        return float(sum(best) / len(best))

    return function


def _same(answer: str, reference: str) -> float:
    return float(normalized(answer) == normalized(reference))


def _stripped(answer: str, reference: str) -> float:
    return float(answer.strip() == reference.strip())


def _f1(answer: str, reference: str) -> float:
    """Of the words in common, each as often as it stands in both; of nothing, whether the other is nothing too."""
    given, right = normalized(answer).split(), normalized(reference).split()
    if not given or not right:
        return float(given == right)
    common = sum((collections.Counter(given) & collections.Counter(right)).values())
    return 2 * common / (len(given) + len(right))


def _sacrebleu(function: str) -> Scorer:
    """Of the corpus, with sacrebleu's own settings: BLEU on 13a tokens, chrF2."""

    def score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _same_length(answers, references)
        most = max(len(some) for some in references)
        streams = [[some[n] if n < len(some) else None for some in references] for n in range(most)]
        return float(getattr(library('sacrebleu'), function)(list(answers), streams).score)

    return score


def _rouge(name: str) -> Scorer:
    """The mean F of the best reference, on stems, as papers on summaries give it; letters beyond a-z and 0-9 are not
    seen by it. rougeLsum takes each line of a text for a sentence."""

    def score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        _same_length(answers, references)
        scorer = library('rouge_score.rouge_scorer').RougeScorer([name], use_stemmer=True)
        pairs = zip(answers, references, strict=True)
        return float(sum(scorer.score_multi(some, answer)[name].fmeasure for answer, some in pairs) / len(answers))

    return score


def _accuracy(predicted: Sequence[int], right: Sequence[int]) -> float:
    _same_length(predicted, right)
    return float(library('sklearn.metrics').accuracy_score(right, predicted))


def _macro_f1(predicted: Sequence[int], right: Sequence[int]) -> float:
    """The mean over the classes that are right or predicted somewhere; 0 of one that is never both."""
    _same_length(predicted, right)
    return float(library('sklearn.metrics').f1_score(right, predicted, average='macro', zero_division=0))


def _matthews(predicted: Sequence[int], right: Sequence[int]) -> float:
    _same_length(predicted, right)
    return float(library('sklearn.metrics').matthews_corrcoef(right, predicted))


def _correlation(function: str) -> Scorer:
    """Of class numbers that are grades; 0 where one side is the same throughout, which tells nothing of the other."""

    def score(predicted: Sequence[int], right: Sequence[int]) -> float:
        import scipy.stats

        _same_length(predicted, right)
        if len(set(predicted)) < 2 or len(set(right)) < 2:
            return 0.0
        return float(getattr(scipy.stats, function)(predicted, right).statistic)

    return score


def spans(tags: Sequence[str]) -> list[str]:
    """The tags of a sentence as IOB2. A word without B-, I-, E- or S- in front is a span as far as it is repeated.

    'O' is outside of all. So roles or classes that were never in IOB ('ARG0 ARG0 O') are entities too; two of a kind
    that touch are one then, for nothing says where the second would begin.
    """
    made, before = [], 'O'
    for tag in tags:
        plain = tag != 'O' and not _PREFIXED.match(tag)
        made.append(f'{"I" if tag == before else "B"}-{tag}' if plain else tag)
        before = tag
    return made


def _entity_f1(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """Over all spans of all sentences; one counts where its ends and its class are right (CoNLL 2003's)."""
    _same_length(predicted, right)
    given, wanted = [[spans(sentence) for sentence in side] for side in (predicted, right)]
    return float(library('seqeval.metrics').f1_score(wanted, given, zero_division=0))


def _of_words(one: Scorer) -> Scorer:
    """A metric of classes, of every word's tag."""

    def score(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
        _same_length(predicted, right)
        for given, wanted in zip(predicted, right, strict=True):
            _same_length(given, wanted)
        return one([tag for some in predicted for tag in some], [tag for some in right for tag in some])

    return score


def _same_length(given: Sequence[Any], right: Sequence[Any]) -> None:
    if len(given) != len(right) or not len(right):
        raise ValueError(f'{len(given)} given, {len(right)} to compare them with; wants as many, and one at least')


_PUNCTUATION = frozenset(string.punctuation)
_PREFIXED = re.compile(r'[BIES]-.')
PASS_AT = re.compile(r'pass@[1-9][0-9]*')  # of written code, which is run: gpt_jax/evaluate/code.py

# (answers, all right answers of each)
METRICS: dict[str, Metric] = {
    'exact_match': Metric(_mean_of_best(_same), SHARE),
    'f1': Metric(_mean_of_best(_f1), SHARE),
    'accuracy': Metric(_mean_of_best(_stripped), SHARE),
    'bleu': Metric(_sacrebleu('corpus_bleu'), HUNDRED),
    'chrf': Metric(_sacrebleu('corpus_chrf'), HUNDRED),
    'rouge1': Metric(_rouge('rouge1'), SHARE),
    'rouge2': Metric(_rouge('rouge2'), SHARE),
    'rougeL': Metric(_rouge('rougeL'), SHARE),
    'rougeLsum': Metric(_rouge('rougeLsum'), SHARE),
}
# (numbers of the classes that were predicted, of the right ones)
LABEL_METRICS: dict[str, Metric] = {
    'accuracy': Metric(_accuracy, SHARE),
    'macro_f1': Metric(_macro_f1, SHARE),
    'matthews': Metric(_matthews, CORRELATION),
    'pearson': Metric(_correlation('pearsonr'), CORRELATION),
    'spearman': Metric(_correlation('spearmanr'), CORRELATION),
}
# (the tags predicted for each sentence, the right ones), as words
TAG_METRICS: dict[str, Metric] = {
    'entity_f1': Metric(_entity_f1, SHARE),
    'accuracy': Metric(_of_words(_accuracy), SHARE),
    'macro_f1': Metric(_of_words(_macro_f1), SHARE),
}
# By task.kind
KINDS: dict[str, Mapping[str, Metric]] = {
    'answer': METRICS,
    'classify': LABEL_METRICS,
    'choose': LABEL_METRICS,
    'label': TAG_METRICS,
    'prefer': {'accuracy': LABEL_METRICS['accuracy']},
}
