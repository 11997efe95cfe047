"""Repetition in generated texts and human references: repeated and distinct n-grams, loops.

Such numbers mean little on their own, since a list, for example, rightly repeats words: compare
those of the texts with those of the references.
"""

import math
from collections.abc import Sequence
from typing import Any

MAX_NGRAM = 4  # words
LOOP_REPEATS = 3  # repetitions of a period that make a loop


def report_repetition(
    texts: Sequence[str], references: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Measure the repetition of generated texts and of references.

    Returns:
      {'written': numbers, 'reference': those of the references, if any}. The numbers:
        repeated_1 to repeated_4, distinct_1 to distinct_4: see the functions below.
        looping: share of texts that end in a loop.
        words: mean length in words.
        empty: share of texts without a word.
        texts: number of texts.
      A number is None where all texts are too short.
    """
    report = {'written': _measure(texts)}
    return report | ({'reference': _measure(references)} if references else {})


def _measure(texts: Sequence[str]) -> dict[str, Any]:
    words = [text.split() for text in texts]
    sizes = range(1, MAX_NGRAM + 1)
    return {
        **{f'repeated_{n}': repetition_rate(words, n) for n in sizes},
        **{f'distinct_{n}': distinct_rate(words, n) for n in sizes},
        'looping': _mean([float(find_loop_period(text) > 0) for text in words]),
        'words': _mean([float(len(text)) for text in words]),
        'empty': _mean([float(not text) for text in words]),
        'texts': len(words),
    }


def repetition_rate(texts: Sequence[Sequence[Any]], n: int) -> float | None:
    """Return the share of n-grams that occurred earlier in their text (seq-rep-n).

    It is averaged over the texts (Welleck et al. 2020).

    Args:
      texts: words or token ids; texts shorter than n are skipped.

    Returns:
      The share; None if all texts are shorter.
    """
    ngrams_by_text = [_list_ngrams(text, n) for text in texts]
    return _mean([1 - len(set(ngrams)) / len(ngrams) for ngrams in ngrams_by_text if ngrams])


def distinct_rate(texts: Sequence[Sequence[Any]], n: int) -> float | None:
    """Return the share of distinct n-grams among the n-grams of all texts (Li et al. 2016).

    It falls as more texts are added: compare the same number of texts of about the same length.
    """
    ngrams = [ngram for text in texts for ngram in _list_ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def find_loop_period(text: Sequence[Any]) -> int:
    """Return the shortest period repeated LOOP_REPEATS times at the end of a text; 0: no loop."""
    for period in range(1, len(text) // LOOP_REPEATS + 1):
        compared = range(1, (LOOP_REPEATS - 1) * period + 1)
        if all(text[-offset] == text[-offset - period] for offset in compared):
            return period
    return 0


def _list_ngrams(text: Sequence[Any], n: int) -> list[tuple[Any, ...]]:
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
