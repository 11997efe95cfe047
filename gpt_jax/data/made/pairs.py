"""Does the second sentence follow from the first? Pairs by a small logic of kinds and quantifiers; nobody wrote them.

A sentence says that a quantity of a kind of being does something somewhere. Whether it follows, cannot be, or is left
open is worked out from what is in what (a dog is an animal, a kitchen is in a house, to sprint is to move) and from the
quantifier: of 'some' and 'every' the doing may be widened, of 'no' it may be narrowed; of 'every' and 'no' the kind may
be narrowed, of 'some' it may be widened. There are beings of every kind.

What it is not: inference as people make it. There is no knowledge beyond these three tables.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data.made.splits import Splits, written

COUNT = 6000
LABELS = ('entailment', 'neutral', 'contradiction')
# Each with the wider one that it is a kind of; '' for the widest.
BEINGS = {'creature': '', 'animal': 'creature', 'person': 'creature', 'dog': 'animal', 'bird': 'animal',
          'horse': 'animal', 'poodle': 'dog', 'hound': 'dog', 'crow': 'bird', 'child': 'person', 'farmer': 'person',
          'girl': 'child', 'boy': 'child'}  # fmt: skip
DOINGS = {'moves': '', 'runs': 'moves', 'walks': 'moves', 'sprints': 'runs', 'jogs': 'runs', 'limps': 'walks',
          'marches': 'walks'}  # fmt: skip
PLACES = {'': '', 'outdoors': '', 'indoors': '', 'in a garden': 'outdoors', 'in a forest': 'outdoors',
          'in a house': 'indoors', 'in a kitchen': 'in a house', 'in a cellar': 'in a house',
          'among roses': 'in a garden'}  # fmt: skip
QUANTITIES = ('some', 'every', 'no')


class Claim(NamedTuple):
    quantity: str
    being: str
    doing: str
    place: str

    def said(self) -> str:
        """The claim in words."""
        place = f' {self.place}' if self.place else ''
        return f'{self.quantity.capitalize()} {self.being} {self.doing}{place}.'


def rows(stdlib: Path) -> Splits:
    """Rows with 'premise', 'hypothesis' and 'label' (of LABELS)."""
    del stdlib
    return written(_pair, COUNT, seed=4)


def _pair(draw: random.Random) -> tuple[str, dict[str, Any]]:
    wanted = draw.choice(LABELS)
    while True:
        first = Claim(draw.choice(QUANTITIES), *(draw.choice(list(table)) for table in (BEINGS, DOINGS, PLACES)))
        second = Claim(draw.choice(QUANTITIES), *(
            _near(draw, table, word) for table, word in zip((BEINGS, DOINGS, PLACES), first[1:], strict=True)
        ))  # fmt: skip
        if first != second and relation(first, second) == wanted:
            row = {'premise': first.said(), 'hypothesis': second.said(), 'label': wanted}
            return f'{row["premise"]} {row["hypothesis"]}', row


def _near(draw: random.Random, table: dict[str, str], word: str) -> str:
    """The word itself, or one above, below or beside it."""
    related = [one for one in table if is_a(table, one, word) or is_a(table, word, one) or table[one] == table[word]]
    return word if draw.random() < 0.5 else draw.choice(related)


def is_a(table: dict[str, str], narrow: str, wide: str) -> bool:
    """Whether what is `narrow` is always `wide` too."""
    while narrow != wide and table.get(narrow):
        narrow = table[narrow]
    return narrow == wide or (wide == '' and '' in table)


def relation(first: Claim, second: Claim) -> str:
    """Whether `second` follows from `first` (of LABELS), by the rules of this file alone."""
    if _follows(first, second):
        return 'entailment'
    return 'contradiction' if _follows(first, _denied(second)) or _follows(second, _denied(first)) else 'neutral'


def _follows(first: Claim, second: Claim) -> bool:
    narrower = is_a(BEINGS, second.being, first.being)
    wider = is_a(BEINGS, first.being, second.being)
    does_more = is_a(DOINGS, first.doing, second.doing) and is_a(PLACES, first.place, second.place)
    does_less = is_a(DOINGS, second.doing, first.doing) and is_a(PLACES, second.place, first.place)
    rules = {
        ('some', 'some'): wider and does_more,
        ('every', 'every'): narrower and does_more,
        ('every', 'some'): (narrower or wider) and does_more,  # there are beings of every kind
        ('no', 'no'): narrower and does_less,
    }
    return rules.get((first.quantity, second.quantity), False)


def _denied(claim: Claim) -> Claim:
    """A claim that cannot hold together with this one: 'no' against 'some', and 'some' against 'no'."""
    return claim._replace(quantity={'some': 'no', 'no': 'some', 'every': 'no'}[claim.quantity])
