"""Memorization of training text: extraction of windows and of planted canaries.

Following Carlini et al. 2023, a model is given the first tokens of a window (50 in the paper) and
greedily generates its remaining tokens (another 50). A window is memorized if all of them match.
For text that occurs often, this measures how common the text is rather than memorization. Planted
strings (canaries), which occur nowhere else, measure memorization by the number of repetitions.
"""

import random
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.evaluation.statistics import wilson_interval

DEFAULT_TOKENS = 50  # in the prefix, and in the continuation
# Consonants and vowels alternate: hardly ever a real word, and encodable by every tokenizer.
CANARY_LETTERS = ('bcdfghjklmnprstvwz', 'aeiou')
_LETTERS_PER_WORD = 5

_LINE = re.compile(r'[^\n]*\n|[^\n]+')


class TextWindow(NamedTuple):
    """A window of a sequence, from token `start` on."""

    sequence: int
    start: int


class Canary(NamedTuple):
    """A planted string, and the number of times it occurs in the documents."""

    text: str
    times: int


def sample_windows(lengths: Sequence[int], count: int, size: int, seed: int) -> list[TextWindow]:
    """Sample `count` different windows of `size` tokens, spread evenly over the corpus.

    All possible starts are divided into `count` equal parts, and one is drawn from each.

    Args:
      lengths: number of tokens in each sequence.

    Raises:
      ValueError: the corpus has fewer than `count` windows, or `count` is below 1.
    """
    ends = np.cumsum([max(0, length - size + 1) for length in lengths], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if not 0 < count <= total:
        raise ValueError(
            f'count: must be between 1 and the {total} windows of {size} tokens in the corpus, '
            f'got {count}'
        )
    rng = random.Random(f'windows {seed}')
    positions = [
        rng.randrange(number * total // count, (number + 1) * total // count)
        for number in range(count)
    ]
    sequences = np.searchsorted(ends, positions, side='right')
    starts = np.concatenate([[0], ends])
    return [
        TextWindow(int(sequence), int(position - starts[sequence]))
        for sequence, position in zip(sequences, positions, strict=True)
    ]


def split_windows(
    sequences: Sequence[Any],
    windows: Sequence[TextWindow],
    prefix: int = DEFAULT_TOKENS,
    continuation: int = DEFAULT_TOKENS,
) -> tuple[np.ndarray, np.ndarray]:
    """Split windows into prefixes and continuations.

    Args:
      sequences: token ids of each sequence; for a canary, those of the string alone, with a window
        that starts at 0.

    Returns:
      int64 [W, prefix] and [W, continuation].

    Raises:
      ValueError: a window extends beyond the end of its sequence.
    """
    size = prefix + continuation
    ids = np.zeros((len(windows), size), np.int64)
    for row, (sequence, start) in enumerate(windows):
        tokens = np.asarray(sequences[sequence][start : start + size])
        if len(tokens) < size:
            raise ValueError(
                f'windows: sequence {sequence} must have {size} tokens from {start} on, '
                f'got {len(tokens)}'
            )
        ids[row] = tokens
    return ids[:, :prefix], ids[:, prefix:]


def score_recall(
    generated: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    groups: Sequence[Hashable] = (),
) -> Mapping[str, Any]:
    """Measure how much of the text the model reproduces.

    Args:
      generated: continuation of each prefix; tokens beyond the reference are ignored.
      references: true continuations.
      groups: group of each window, such as the number of repetitions; (): no groups.

    Returns:
      {'all': numbers, 'groups': {group: numbers}}. The numbers:
        windows: number of windows.
        exact: share reproduced without an error, with its 95% interval 'low' and 'high'.
        matched, matched_median: mean and median number of leading tokens that are right.
    """
    pairs = list(zip(generated, references, strict=True))
    matched = [_count_matching(tokens, reference) for tokens, reference in pairs]
    exact = [count == len(reference) for count, (_, reference) in zip(matched, pairs, strict=True)]
    members: dict[Hashable, list[int]] = {}
    if groups:
        for index, (group, _) in enumerate(zip(groups, pairs, strict=True)):
            members.setdefault(group, []).append(index)
    scores = {
        group: _summarize([matched[i] for i in indices], [exact[i] for i in indices])
        for group, indices in members.items()
    }
    return {'all': _summarize(matched, exact), 'groups': scores}


def _count_matching(tokens: Sequence[int], reference: Sequence[int]) -> int:
    pairs = zip(tokens, reference, strict=False)
    differing = (index for index, (token, expected) in enumerate(pairs) if token != expected)
    return next(differing, min(len(tokens), len(reference)))


def _summarize(matched: list[int], exact: list[bool]) -> dict[str, Any]:
    proportion = wilson_interval(sum(exact), len(exact))
    return {
        'windows': len(exact),
        'exact': proportion.share,
        'low': proportion.low,
        'high': proportion.high,
        'matched': float(np.mean(matched)),
        'matched_median': float(np.median(matched)),
    }


def plant_canaries(
    documents: Sequence[str], counts: Sequence[int], each: int, words: int, seed: int
) -> tuple[list[str], list[Canary]]:
    """Plant random strings in documents; deterministic for a seed.

    Each repetition of a string is inserted as a line of its own at a random place in a random
    document; as far as possible, the repetitions of a string are in different documents.

    Args:
      counts: numbers of repetitions, such as 1, 2, 4; 0 is a control that is not planted.
      each: number of strings per count.
      words: number of words per string, of 5 letters each.

    Returns:
      The documents with the strings, and the strings.

    Raises:
      ValueError: no documents.
    """
    if not documents:
        raise ValueError('documents: must not be empty')
    rng = random.Random(f'canaries {seed}')
    canaries = [Canary(_make_canary(rng, words), count) for count in counts for _ in range(each)]
    indices = range(len(documents))
    lines: dict[int, list[str]] = {}
    for text, count in canaries:
        rounds, rest = divmod(count, len(documents))
        for index in [*indices] * rounds + rng.sample(indices, rest):
            document_lines = lines.setdefault(index, _LINE.findall(documents[index]))
            _insert_line(document_lines, rng.randrange(len(document_lines) + 1), text)
    planted = [
        ''.join(lines[index]) if index in lines else text for index, text in enumerate(documents)
    ]
    return planted, canaries


def _insert_line(lines: list[str], position: int, text: str) -> None:
    # The last line of a document may lack its line break.
    if position and not lines[position - 1].endswith('\n'):
        lines[position - 1] += '\n'
    lines.insert(position, f'{text}\n')


def _make_canary(rng: random.Random, words: int) -> str:
    letters = [CANARY_LETTERS[position % 2] for position in range(_LETTERS_PER_WORD)]
    return ' '.join(''.join(rng.choice(choices) for choices in letters) for _ in range(words))
