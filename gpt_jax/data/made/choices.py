"""Which sentence goes on here? Real docstrings of Python's library, and four sentences of which one is the next.

The three others are next sentences too, of other docstrings of the same module where it has enough of them, so that the
subject alone does not tell. Nobody has checked that a person could tell either.

What it is not: common sense. A module is in one split as a whole, by the hash of its path.
"""

import hashlib
import random
import re
from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.splits import Splits, empty

SHORTEST, LONGEST = 25, 160  # characters of a sentence that goes on
LONGEST_CONTEXT = 400
_SENTENCE = re.compile(r'(?<=[.!?])\s+(?=[A-Z`"\'*])')


def rows(stdlib: Path) -> Splits:
    """Rows with 'context', 'endings' (four) and 'label' (the number of the right one)."""
    made = empty()
    for split in made:
        found: dict[str, list[tuple[str, str]]] = {}
        for function in library.functions(stdlib):
            if function.split == split:
                heading = f'{function.module}.{function.owner}.{function.name}'.replace('..', '.')
                found.setdefault(function.module, []).extend(_continued(heading, function.doc))
        every = [ending for several in found.values() for _, ending in several]
        for module, several in found.items():
            own = [ending for _, ending in several]
            for context, ending in several:
                draw = random.Random(hashlib.sha256(f'{module} {context}'.encode()).digest())
                others = _others(draw, own, context + ending) + _others(draw, every, context + ending)
                endings = [ending, *dict.fromkeys(others)][:4]
                if len(endings) == 4:
                    draw.shuffle(endings)
                    made[split].append({'context': context, 'endings': endings, 'label': endings.index(ending)})
    return made


def _continued(heading: str, doc: str) -> list[tuple[str, str]]:
    """(context, next sentence) for the first sentences of a docstring."""
    if '>>>' in doc:
        doc = doc[: doc.index('>>>')]
    sentences = _SENTENCE.split(' '.join(doc.split()))
    pairs = []
    for number in range(1, min(4, len(sentences))):
        context, ending = f'{heading}: {" ".join(sentences[:number])}', sentences[number]
        if len(context) <= LONGEST_CONTEXT and SHORTEST <= len(ending) <= LONGEST:
            pairs.append((context, ending))
    return pairs


def _others(draw: random.Random, pool: list[str], told: str) -> list[str]:
    """Up to three sentences of the pool that are not told already."""
    fit = [one for one in draw.sample(pool, min(12, len(pool))) if one not in told]
    return list(dict.fromkeys(fit))[:3]
