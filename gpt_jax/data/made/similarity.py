"""Do two sentences say the same? One event told twice, or two events in much the same words; nobody wrote them.

The same event comes in another voice, with other words for the same, or with its parts in another order. A different
one comes in the same ways, once the doers have changed places, the verb is another, or the whole is denied: so neither
the words that two sentences share nor their order tells, and which of them comes first makes no difference.

What it is not: paraphrase as people make it. Words are exchanged one for one, from one small table.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data.made.splits import Splits, written

COUNT = 5000
LABELS = ('different', 'same')
PEOPLE = (('doctor', 'physician'), ('boy', 'lad'), ('teacher', 'schoolmaster'), ('lawyer', 'attorney'),
          ('shopkeeper', 'grocer'), ('thief', 'burglar'), ('writer', 'author'), ('guest', 'visitor'))  # fmt: skip
# past and participle, in two words for the same
VERBS = ((('helped', 'helped'), ('assisted', 'assisted')), (('saw', 'seen'), ('noticed', 'noticed')),
         (('hit', 'hit'), ('struck', 'struck')), (('called', 'called'), ('phoned', 'phoned')),
         (('chose', 'chosen'), ('picked', 'picked')), (('frightened', 'frightened'), ('scared', 'scared')))  # fmt: skip
TIMES = (('yesterday', 'the day before'), ('at noon', 'at twelve'), ('', ''), ('', ''))
PLACES = (('in the street', 'on the road'), ('at the party', 'at the feast'), ('', ''))


class Event(NamedTuple):
    """Numbers of words in the tables above."""

    doer: int
    done_to: int
    verb: int
    time: int
    place: int
    denied: bool


def rows(stdlib: Path) -> Splits:
    """Rows with 'first', 'second' and 'label' ('different', 'same')."""
    del stdlib
    return written(_pair, COUNT, seed=5)


def _pair(draw: random.Random) -> tuple[str, dict[str, Any]]:
    doer, done_to = draw.sample(range(len(PEOPLE)), 2)
    verb, time, place = (draw.randrange(len(table)) for table in (VERBS, TIMES, PLACES))
    event = Event(doer, done_to, verb, time, place, draw.random() < 0.2)
    same = draw.random() < 0.5
    other = event if same else draw.choice(CHANGES)(event, draw)
    first = _told(draw, event)
    second = first
    while second == first:
        second = _told(draw, other)
    return ' | '.join(sorted((first, second))), {'first': first, 'second': second, 'label': LABELS[same]}


def _turned(event: Event, draw: random.Random) -> Event:
    del draw
    return event._replace(doer=event.done_to, done_to=event.doer)


def _another_verb(event: Event, draw: random.Random) -> Event:
    return event._replace(verb=(event.verb + draw.randrange(1, len(VERBS))) % len(VERBS))


def _denied(event: Event, draw: random.Random) -> Event:
    del draw
    return event._replace(denied=not event.denied)


CHANGES = (_turned, _turned, _another_verb, _denied)


def _told(draw: random.Random, event: Event) -> str:
    doer, done_to = (f'the {draw.choice(PEOPLE[one])}' for one in (event.doer, event.done_to))
    past, participle = draw.choice(VERBS[event.verb])
    never = 'never ' if event.denied else ''
    said = f'{doer} {never}{past} {done_to}' if draw.random() < 0.5 else f'{done_to} was {never}{participle} by {doer}'
    more = [one for one in (draw.choice(PLACES[event.place]), draw.choice(TIMES[event.time])) if one]
    if more and draw.random() < 0.5:
        front = more.pop(draw.randrange(len(more)))
        said = f'{front}, {said}'
    text = ' '.join([said, *more])
    return f'{text[0].upper()}{text[1:]}.'
