"""Was the text of an evaluation read in training? Which of its runs of n words stand in the corpus too.

After GPT-3 (Brown et al. 2020, appendix C): words in small letters without punctuation, 13 in a row; an example of
fewer is looked for as a whole. The corpus is read once and not kept: of the evaluation, a 64-bit hash of each run is
held, and every run of the corpus is looked up among them. Of 10^12 runs against 10^6 hashes, one in twenty corpora has
one found by chance. What is found is the same words in the same order, not the same thing said otherwise; and where a
language has no spaces, a word is a sentence.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

USUAL = 13  # words
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no word is lost in the product modulo 2^64


class Contamination(NamedTuple):
    """Of each example, in order.

    Attributes:
      share: float64 [E], the part of its runs of words that stand in the corpus; 0 for an example without words.
      short: bool [E], it has fewer than n words, and is looked for as a whole: of one or two words, this says little.
      n: words in a run.
      documents: read.
    """

    share: np.ndarray
    short: np.ndarray
    n: int
    documents: int

    def clean(self, most: float = 0.0) -> np.ndarray:
        """bool [E]: of which no more than `most` was found. Whoever scores, scores these alone too."""
        return self.share <= most


def find(examples: Sequence[str], documents: Iterable[str], n: int = USUAL) -> Contamination:
    """How much of each example stands in the documents, none of which is held longer than it is read.

    Raises:
      ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f'runs of {n} words; wants 1 or more')
    words = [_words(text) for text in examples]
    lengths = [min(len(some), n) for some in words]
    runs = [_runs(some, length) for some, length in zip(words, lengths, strict=True)]
    gathered: dict[int, list[np.ndarray]] = {}
    for length, run in zip(lengths, runs, strict=True):
        gathered.setdefault(length, []).append(run)
    wanted = {length: np.unique(np.concatenate(some)) for length, some in gathered.items() if length}
    found = {length: np.zeros(len(hashes), bool) for length, hashes in wanted.items()}
    count = 0
    for document in documents:
        count += 1
        hashes = _words(document)
        for length, held in wanted.items():
            if len(hashes) >= length:
                there = _runs(hashes, length)
                at = np.minimum(np.searchsorted(held, there), len(held) - 1)
                found[length][at[held[at] == there]] = True
    share = [
        found[length][np.searchsorted(wanted[length], run)].mean() if length else 0.0
        for length, run in zip(lengths, runs, strict=True)
    ]
    return Contamination(np.array(share, np.float64), np.array([len(some) < n for some in words], bool), n, count)


def report(found: Contamination, most: float = 0.0) -> dict[str, Any]:
    """What stands beside every score: how many examples there are, clean and not, and how many of those are short."""
    clean = found.clean(most)
    total = len(clean)
    return {
        'words_in_a_run': found.n,
        'documents': found.documents,
        'examples': total,
        'clean': int(clean.sum()),
        'contaminated': int((~clean).sum()),
        'fraction_contaminated': float(np.mean(~clean)) if total else 0.0,
        'mean_share_found': float(np.mean(found.share)) if total else 0.0,
        'short': int(found.short.sum()),
        'short_contaminated': int((found.short & ~clean).sum()),
    }


def _words(text: str) -> np.ndarray:
    """uint64 [L]: a hash of each word."""
    words = re.sub(r'[^\w\s]|_', '', text.lower()).split()
    return np.fromiter((_hash(word) for word in words), np.uint64, len(words))


@functools.lru_cache(maxsize=1 << 20)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'little')


def _runs(hashes_L: np.ndarray, n: int) -> np.ndarray:
    """uint64 [L - n + 1]: of n words in a row, the sum of each one's hash times a power for its place, modulo 2^64."""
    count = len(hashes_L) - n + 1
    total = np.zeros(count, np.uint64)
    for place in range(n):
        total = total * np.uint64(_MULTIPLIER) + hashes_L[place : place + count]
    return total
