"""Which sentence goes on here? Real docstrings of Python's library, and four sentences of which one is the next.

The three others are next sentences too, of other docstrings of the same module where it has enough of them, so that the
subject alone does not tell. Nobody has checked that a person could tell either.

What it is not: common sense. A module is in one split as a whole, by the hash of its path.
"""

import hashlib
import itertools
import random
import re
from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.splits import Splits, empty

SHORTEST, LONGEST = 25, 90  # characters of a sentence that goes on
LONGEST_CONTEXT = 155  # of what it goes on from: GPT-1 reads all four in one row, a bit less than 1,024 bytes
SENTENCES = 6  # of a docstring
_SENTENCE = re.compile(r'(?<=[.!?])\s+(?=[A-Z`"\'*])')


def rows(stdlib: Path) -> Splits:
    """Rows with 'context', 'endings' (four) and 'label' (the number of the right one)."""
    made = empty()
    for split in made:
        found: dict[str, list[tuple[str, str, str]]] = {}
        for function in library.functions(stdlib):
            if function.split == split:
                heading = f'{function.owner}.{function.name}'.lstrip('.')
                pairs = [(*pair, function.doc) for pair in _continued(heading, function.doc)]
                found.setdefault(function.module, []).extend(pairs)
        every = [one for several in found.values() for one in several]
        for module, several in found.items():
            for context, ending, doc in several:
                draw = random.Random(hashlib.sha256(f'{module} {context}'.encode()).digest())
                others = [*_others(draw, several, doc), *_others(draw, every, doc)]
                endings = [ending, *dict.fromkeys(others)][:4]
                if len(endings) == 4:
                    draw.shuffle(endings)
                    made[split].append({'context': context, 'endings': endings, 'label': endings.index(ending)})
    return made


def _continued(heading: str, doc: str) -> list[tuple[str, str]]:
    """(a sentence, the next one) of the first sentences of a docstring."""
    if '>>>' in doc:
        doc = doc[: doc.index('>>>')]
    sentences = _SENTENCE.split(' '.join(doc.split()))
    pairs = []
    for before, ending in itertools.pairwise(sentences[:SENTENCES]):
        context = f'{heading}: {before}'
        if len(context) <= LONGEST_CONTEXT and SHORTEST <= len(ending) <= LONGEST:
            pairs.append((context, ending))
    return pairs


def _others(draw: random.Random, pool: list[tuple[str, str, str]], doc: str) -> list[str]:
    """Up to three sentences of the pool, none of which stands in this docstring."""
    told = ' '.join(doc.split())
    fit = [ending for _, ending, _ in draw.sample(pool, min(12, len(pool))) if ending not in told]
    return list(dict.fromkeys(fit))[:3]
