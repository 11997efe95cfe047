"""Is this remark kind or unkind? Remarks on films by a grammar with negation, contrast and hearsay; nobody wrote them.

What is said of a part of the film is turned over by words such as 'not', 'anything but' or 'nobody could call'; of two
clauses joined by 'but' or 'although' the one that weighs decides; what others said does not count. Every word is about
as frequent in kind remarks as in unkind ones, so that a bag of words does not solve it.

What it is not: reviews. A model that is right on all of these has learned this grammar's rules and no taste.
"""

import random
from pathlib import Path
from typing import Any

from gpt_jax.data.made.splits import Splits, written

COUNT = 5000
PARTS = ('the plot', 'the acting', 'the music', 'the ending', 'the dialogue', 'the lead', 'the camera work', 'the pace',
         'the script', 'the villain', 'the first half', 'the score')  # fmt: skip
GOOD = ('brilliant', 'moving', 'clever', 'charming', 'convincing', 'fresh', 'warm', 'gripping')
BAD = ('dull', 'clumsy', 'tedious', 'shallow', 'predictable', 'noisy', 'stale', 'tiresome')
# What is said of a part with an adjective, and whether it means the adjective or its opposite.
SAID = (
    ('{part} was {word}', True), ('{part} was truly {word}', True), ('I found {part} {word}', True),
    ('{part} could hardly have been more {word}', True), ('{part} never stopped being {word}', True),
    ('{part} was not {word}', False), ('{part} was anything but {word}', False),
    ('nobody could call {part} {word}', False), ('{part} was never {word}', False),
    ('I looked in vain for the moment when {part} became {word}', False),
)  # fmt: skip
HEARD = ('my friends told me that {part} was {word}', 'the posters call {part} {word}',
         'every critic found {part} {word}')  # fmt: skip
# Ways to put a clause that decides beside one that does not.
JOINED = ('{other}, but {main}', 'although {other}, {main}', '{main}, although {other}', 'even if {other}, {main}',
          '{main}, even if {other}', '{other}; still, {main}')  # fmt: skip
LABELS = ('negative', 'positive')


def rows(stdlib: Path) -> Splits:
    """Rows with 'text' and 'label' ('negative', 'positive')."""
    del stdlib
    return written(_remark, COUNT, seed=2)


def _remark(draw: random.Random) -> tuple[str, dict[str, Any]]:
    first, second = draw.sample(PARTS, 2)
    kind = draw.random() < 0.5
    text = _clause(draw, first, kind)
    form = draw.random()
    if form < 0.5:
        other = _clause(draw, second, draw.random() < 0.5)
        text = draw.choice(JOINED).format(main=text, other=other)
    elif form < 0.75:
        heard = draw.choice(HEARD).format(part=draw.choice((first, second)), word=draw.choice(GOOD + BAD))
        text = f'{heard}, and yet {text}' if draw.random() < 0.5 else f'{text}, whatever they say: {heard}'
    text = f'{text[0].upper()}{text[1:]}.'
    return text, {'text': text, 'label': LABELS[kind]}


def _clause(draw: random.Random, part: str, kind: bool) -> str:
    said, straight = draw.choice(SAID)
    return said.format(part=part, word=draw.choice(GOOD if kind == straight else BAD))
