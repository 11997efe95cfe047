"""How much of its training text does a model write down again? Windows of it, and strings planted there for this.

As Carlini et al. 2023: a model is given a window's first tokens (there 50) and writes, greedily, as many as follow
(50); a window is memorized where all are as they stood. Of text that many others repeat, this says how common it is
rather than that it was kept: planted strings, which stand nowhere else, answer that, by how often each was repeated.
"""

import random
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.evaluate.interval import wilson

USUAL = 50  # tokens, of the prefix and of what follows
LETTERS = ('bcdfghjklmnprstvwz', 'aeiou')  # in turn, so that no real word is likely and every tokenizer has them

_LINE = re.compile(r'[^\n]*\n|[^\n]+')


class Window(NamedTuple):
    """Of which sequence, and from which of its tokens on."""

    sequence: int
    start: int


class Canary(NamedTuple):
    """A planted string, and how often it stands in the documents."""

    text: str
    times: int


def windows(lengths: Sequence[int], count: int, size: int, seed: int) -> list[Window]:
    """`count` windows of `size` tokens, all of them different, spread evenly over the corpus.

    All places where a window may begin are cut into `count` parts of the same length, and one is drawn from each.

    Args:
      lengths: tokens of each sequence.

    Raises:
      ValueError: the corpus has fewer places, or none was asked for.
    """
    ends = np.cumsum([max(0, length - size + 1) for length in lengths], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if not 0 < count <= total:
        raise ValueError(f'{count} windows of {size} tokens from a corpus that has {total} places for them')
    draw = random.Random(f'windows {seed}')
    places = [draw.randrange(number * total // count, (number + 1) * total // count) for number in range(count)]
    found = np.searchsorted(ends, places, side='right')
    begins = np.concatenate([[0], ends])
    return [Window(int(one), int(place - begins[one])) for one, place in zip(found, places, strict=True)]


def cut(
    sequences: Sequence[Any], chosen: Sequence[Window], prefix: int = USUAL, continuation: int = USUAL
) -> tuple[np.ndarray, np.ndarray]:
    """(what the model is given, what follows): int64 [W, prefix] and [W, continuation].

    Args:
      sequences: tokens of each; of planted strings, the ids of each alone, with windows that begin at 0.

    Raises:
      ValueError: a window goes beyond the end of its sequence.
    """
    whole = np.zeros((len(chosen), prefix + continuation), np.int64)
    for row, (number, start) in enumerate(chosen):
        ids = np.asarray(sequences[number][start : start + prefix + continuation])
        if len(ids) < prefix + continuation:
            raise ValueError(f'sequence {number} has {len(ids)} tokens from {start} on; wants {prefix + continuation}')
        whole[row] = ids
    return whole[:, :prefix], whole[:, prefix:]


def recalled(
    written: Sequence[Sequence[int]], right: Sequence[Sequence[int]], groups: Sequence[Hashable] = ()
) -> Mapping[str, Any]:
    """How much came back: {'all': numbers, 'groups': {group: numbers}}.

    The numbers: 'windows', how many; 'exact', the share that was written without a fault, with its 95% interval 'low'
    and 'high'; 'matched' and 'matched_median', how many of the first tokens were as they stood.

    Args:
      written: what the model wrote to each prefix; what is beyond the right one's length is not looked at.
      right: what follows in the corpus.
      groups: of each window, what it is grouped by (how often it was repeated); (): no groups.
    """
    matched = [_matched(one, other) for one, other in zip(written, right, strict=True)]
    exact = [count == len(other) for count, other in zip(matched, right, strict=True)]
    members: dict[Hashable, list[int]] = {}
    for number, group in zip(range(len(right)), groups, strict=True) if groups else ():
        members.setdefault(group, []).append(number)
    of_groups = {
        group: _numbers([matched[n] for n in numbers], [exact[n] for n in numbers])
        for group, numbers in members.items()
    }
    return {'all': _numbers(matched, exact), 'groups': of_groups}


def _matched(written: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(written, right, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(written), len(right)))


def _numbers(matched: list[int], exact: list[bool]) -> dict[str, Any]:
    found = wilson(sum(exact), len(exact))
    return {
        'windows': len(exact),
        'exact': found.share,
        'low': found.low,
        'high': found.high,
        'matched': float(np.mean(matched)),
        'matched_median': float(np.median(matched)),
    }


def plant(
    documents: Sequence[str], counts: Sequence[int], each: int, words: int, seed: int
) -> tuple[list[str], list[Canary]]:
    """(the documents with random strings planted in them, the strings), the same for the same seed.

    A string is a line of its own, between two lines of a document drawn for it; its repetitions are in different
    documents as long as there are enough.

    Args:
      counts: repetitions, 1, 2, 4 or others; 0 is a string that was never planted, to compare with.
      each: strings of each count.
      words: of a string, 5 letters each.

    Raises:
      ValueError: no documents.
    """
    if not documents:
        raise ValueError('there are no documents to plant anything in')
    draw = random.Random(f'canaries {seed}')
    canaries = [Canary(_string(draw, words), count) for count in counts for _ in range(each)]
    lines: dict[int, list[str]] = {}
    for text, count in canaries:
        spare = count % len(documents)
        for number in [*range(len(documents))] * (count // len(documents)) + draw.sample(range(len(documents)), spare):
            held = lines.setdefault(number, _LINE.findall(documents[number]))
            _insert(held, draw.randrange(len(held) + 1), text)
    planted = [''.join(lines[number]) if number in lines else text for number, text in enumerate(documents)]
    return planted, canaries


def _insert(lines: list[str], place: int, text: str) -> None:
    if place and not lines[place - 1].endswith('\n'):  # the last line of a document
        lines[place - 1] += '\n'
    lines.insert(place, f'{text}\n')


def _string(draw: random.Random, words: int) -> str:
    return ' '.join(''.join(draw.choice(LETTERS[place % 2]) for place in range(5)) for _ in range(words))
