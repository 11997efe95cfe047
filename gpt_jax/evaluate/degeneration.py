"""Does a model repeat itself? Counts over the words of written texts, beside those of texts that people wrote.

Of a text alone such a number says little (lists repeat their words rightly): it is read against that of the references.
"""

import math
from collections.abc import Sequence
from typing import Any

LONGEST = 4  # words in a run, at most
TIMES = 3  # that a loop has gone round


def report(texts: Sequence[str], references: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """{'written': numbers, 'reference': the same of the references}, the latter where there are any.

    The numbers: 'repeated_1' to 'repeated_4' and 'distinct_1' to 'distinct_4' (`repeated`, `distinct`), 'looping',
    the share of texts that end in a loop (`loop`), 'words', their mean length, 'empty', the share without a word, and
    'texts', how many. None where no text is long enough to say.
    """
    numbers = {'written': _numbers(texts)}
    return numbers | ({'reference': _numbers(references)} if references else {})


def _numbers(texts: Sequence[str]) -> dict[str, Any]:
    words = [text.split() for text in texts]
    runs = range(1, LONGEST + 1)
    return {
        **{f'repeated_{n}': repeated(words, n) for n in runs},
        **{f'distinct_{n}': distinct(words, n) for n in runs},
        'looping': _mean([float(loop(some) > 0) for some in words]),
        'words': _mean([float(len(some)) for some in words]),
        'empty': _mean([float(not some) for some in words]),
        'texts': len(words),
    }


def repeated(texts: Sequence[Sequence[Any]], n: int) -> float | None:
    """The mean over texts of the share of runs of n that stood in the text before (seq-rep-n, Welleck et al. 2020).

    Args:
      texts: words, or ids; those shorter than n are passed over, and None is said where all are.
    """
    runs = [_runs(text, n) for text in texts]
    return _mean([1 - len(set(some)) / len(some) for some in runs if some])


def distinct(texts: Sequence[Sequence[Any]], n: int) -> float | None:
    """How many different runs of n all the texts have, by how many they have (Li et al. 2016). It falls as there are
    more texts: compare as many of about the same length."""
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else None


def loop(text: Sequence[Any]) -> int:
    """The length of the shortest period that the text ends in, TIMES over; 0: it does not."""
    for period in range(1, len(text) // TIMES + 1):
        if all(text[-at] == text[-at - period] for at in range(1, (TIMES - 1) * period + 1)):
            return period
    return 0


def _runs(text: Sequence[Any], n: int) -> list[tuple[Any, ...]]:
    return [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
