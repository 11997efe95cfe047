"""Sentence classification datasets from small grammars: sentiment, similarity and entailment.

All sentences are generated. A model that solves one of these datasets has learned the rules stated
below, and no more.
"""

import random
from pathlib import Path
from typing import NamedTuple

from gpt_jax.tasks.synthetic.library import Row, Splits, draw_rows


def _format_sentence(text: str) -> str:
    return f'{text[0].upper()}{text[1:]}.'


# Sentiment: remarks on films with negation, contrast and hearsay. Forms such as 'not', 'anything
# but' or 'nobody could call' invert an adjective; of two clauses joined by 'but' or 'although' the
# main one decides; what others said does not count. Each word is about as frequent in positive
# remarks as in negative ones, so a bag of words does not solve the dataset.

SENTIMENT_COUNT = 5000
SENTIMENT_LABELS = ('negative', 'positive')
FILM_PARTS = (
    'the plot',
    'the acting',
    'the music',
    'the ending',
    'the dialogue',
    'the lead',
    'the camera work',
    'the pace',
    'the script',
    'the villain',
    'the first half',
    'the score',
)
POSITIVE_ADJECTIVES = (
    'brilliant',
    'moving',
    'clever',
    'charming',
    'convincing',
    'fresh',
    'warm',
    'gripping',
)
NEGATIVE_ADJECTIVES = (
    'dull',
    'clumsy',
    'tedious',
    'shallow',
    'predictable',
    'noisy',
    'stale',
    'tiresome',
)
# A form, and whether the remark keeps the adjective's polarity.
STATEMENT_FORMS = (
    ('{part} was {word}', True),
    ('{part} was truly {word}', True),
    ('I found {part} {word}', True),
    ('{part} could hardly have been more {word}', True),
    ('{part} never stopped being {word}', True),
    ('{part} was not {word}', False),
    ('{part} was anything but {word}', False),
    ('nobody could call {part} {word}', False),
    ('{part} was never {word}', False),
    ('I looked in vain for the moment when {part} became {word}', False),
)
HEARSAY_FORMS = (
    'my friends told me that {part} was {word}',
    'the posters call {part} {word}',
    'every critic found {part} {word}',
)
# A main clause with another one that does not count.
CONTRAST_FORMS = (
    '{other}, but {main}',
    'although {other}, {main}',
    '{main}, although {other}',
    'even if {other}, {main}',
    '{main}, even if {other}',
    '{other}; still, {main}',
)


def make_sentiment_rows(stdlib: Path) -> Splits:
    """Return rows with 'text' and 'label' ('negative' or 'positive')."""
    del stdlib
    return draw_rows(_draw_remark, SENTIMENT_COUNT, seed=2)


def _draw_remark(rng: random.Random) -> tuple[str, Row]:
    part, other_part = rng.sample(FILM_PARTS, 2)
    is_positive = rng.random() < 0.5
    text = _draw_clause(rng, part, is_positive)
    form = rng.random()
    if form < 0.5:
        other = _draw_clause(rng, other_part, rng.random() < 0.5)
        text = rng.choice(CONTRAST_FORMS).format(main=text, other=other)
    elif form < 0.75:
        hearsay = rng.choice(HEARSAY_FORMS).format(
            part=rng.choice((part, other_part)),
            word=rng.choice(POSITIVE_ADJECTIVES + NEGATIVE_ADJECTIVES),
        )
        if rng.random() < 0.5:
            text = f'{hearsay}, and yet {text}'
        else:
            text = f'{text}, whatever they say: {hearsay}'
    text = _format_sentence(text)
    return text, {'text': text, 'label': SENTIMENT_LABELS[is_positive]}


def _draw_clause(rng: random.Random, part: str, is_positive: bool) -> str:
    form, keeps_polarity = rng.choice(STATEMENT_FORMS)
    adjectives = POSITIVE_ADJECTIVES if is_positive == keeps_polarity else NEGATIVE_ADJECTIVES
    return form.format(part=part, word=rng.choice(adjectives))


# Similarity: one event in two wordings, or two events in similar words. The wording of an event
# varies in voice, synonyms and order. A different event has agent and patient swapped, a different
# verb, or a negation added or removed, and varies in the same ways. So neither shared words nor
# their order give the answer away, and the order of the two sentences does not matter.
#
# Limits: this is not paraphrase as people write it. Words are replaced one for one, from the tables
# below.

SIMILARITY_COUNT = 5000
SIMILARITY_LABELS = ('different', 'same')
PEOPLE = (
    ('doctor', 'physician'),
    ('boy', 'lad'),
    ('teacher', 'schoolmaster'),
    ('lawyer', 'attorney'),
    ('shopkeeper', 'grocer'),
    ('thief', 'burglar'),
    ('writer', 'author'),
    ('guest', 'visitor'),
)
# Past tense and participle of two synonyms each.
VERBS = (
    (('helped', 'helped'), ('assisted', 'assisted')),
    (('saw', 'seen'), ('noticed', 'noticed')),
    (('hit', 'hit'), ('struck', 'struck')),
    (('called', 'called'), ('phoned', 'phoned')),
    (('chose', 'chosen'), ('picked', 'picked')),
    (('frightened', 'frightened'), ('scared', 'scared')),
)
TIMES = (('yesterday', 'the day before'), ('at noon', 'at twelve'), ('', ''), ('', ''))
PLACES = (('in the street', 'on the road'), ('at the party', 'at the feast'), ('', ''))


class Event(NamedTuple):
    """An event, as indices into the tables above."""

    agent: int
    patient: int
    verb: int
    time: int
    place: int
    negated: bool


def make_similarity_rows(stdlib: Path) -> Splits:
    """Return rows with 'first', 'second' and 'label' ('different' or 'same')."""
    del stdlib
    return draw_rows(_draw_similarity, SIMILARITY_COUNT, seed=5)


def _draw_similarity(rng: random.Random) -> tuple[str, Row]:
    agent, patient = rng.sample(range(len(PEOPLE)), 2)
    verb, time, place = (rng.randrange(len(table)) for table in (VERBS, TIMES, PLACES))
    event = Event(agent, patient, verb, time, place, rng.random() < 0.2)
    is_same = rng.random() < 0.5
    other = event if is_same else rng.choice(CHANGES)(event, rng)
    first = _draw_wording(rng, event)
    second = first
    while second == first:
        second = _draw_wording(rng, other)
    row = {'first': first, 'second': second, 'label': SIMILARITY_LABELS[is_same]}
    return ' | '.join(sorted((first, second))), row


def _exchange_people(event: Event, rng: random.Random) -> Event:
    del rng
    return event._replace(agent=event.patient, patient=event.agent)


def _change_verb(event: Event, rng: random.Random) -> Event:
    return event._replace(verb=(event.verb + rng.randrange(1, len(VERBS))) % len(VERBS))


def _negate_event(event: Event, rng: random.Random) -> Event:
    del rng
    return event._replace(negated=not event.negated)


CHANGES = (_exchange_people, _exchange_people, _change_verb, _negate_event)


def _draw_wording(rng: random.Random, event: Event) -> str:
    agent = f'the {rng.choice(PEOPLE[event.agent])}'
    patient = f'the {rng.choice(PEOPLE[event.patient])}'
    past, participle = rng.choice(VERBS[event.verb])
    never = 'never ' if event.negated else ''
    text = f'{agent} {never}{past} {patient}'
    if rng.random() >= 0.5:
        text = f'{patient} was {never}{participle} by {agent}'
    adverbials = [rng.choice(PLACES[event.place]), rng.choice(TIMES[event.time])]
    adverbials = [words for words in adverbials if words]
    if adverbials and rng.random() < 0.5:
        text = f'{adverbials.pop(rng.randrange(len(adverbials)))}, {text}'
    return _format_sentence(' '.join([text, *adverbials]))


# Pairs: natural-language inference with a small logic of kinds and quantifiers. A sentence says
# that some, every or no being of a kind does something somewhere. Entailment follows from the
# tables (a dog is an animal, a kitchen is in a house, to sprint is to move) and the quantifier: the
# activity may be widened after 'some' and 'every' and narrowed after 'no'; the kind may be narrowed
# after 'every' and 'no' and widened after 'some'. Every kind has a member.
#
# Limits: this is not inference as people do it; it needs no knowledge beyond the three tables.

PAIR_COUNT = 6000
PAIR_LABELS = ('entailment', 'neutral', 'contradiction')
# Each word with the next wider one; '' for the widest.
KINDS = {
    'creature': '',
    'animal': 'creature',
    'person': 'creature',
    'dog': 'animal',
    'bird': 'animal',
    'horse': 'animal',
    'poodle': 'dog',
    'hound': 'dog',
    'crow': 'bird',
    'child': 'person',
    'farmer': 'person',
    'girl': 'child',
    'boy': 'child',
}
ACTIVITIES = {
    'moves': '',
    'runs': 'moves',
    'walks': 'moves',
    'sprints': 'runs',
    'jogs': 'runs',
    'limps': 'walks',
    'marches': 'walks',
}
PREMISE_PLACES = {
    '': '',
    'outdoors': '',
    'indoors': '',
    'in a garden': 'outdoors',
    'in a forest': 'outdoors',
    'in a house': 'indoors',
    'in a kitchen': 'in a house',
    'in a cellar': 'in a house',
    'among roses': 'in a garden',
}
QUANTITIES = ('some', 'every', 'no')


class Proposition(NamedTuple):
    """A statement about a kind of being, in words from the tables above."""

    quantity: str
    kind: str
    activity: str
    place: str

    def __str__(self) -> str:
        place = f' {self.place}' if self.place else ''
        return f'{self.quantity.capitalize()} {self.kind} {self.activity}{place}.'


def make_pairs_rows(stdlib: Path) -> Splits:
    """Return rows with 'premise', 'hypothesis' and 'label' (of PAIR_LABELS)."""
    del stdlib
    return draw_rows(_draw_pair, PAIR_COUNT, seed=4)


def _draw_pair(rng: random.Random) -> tuple[str, Row]:
    label = rng.choice(PAIR_LABELS)
    tables = KINDS, ACTIVITIES, PREMISE_PLACES
    while True:
        words = [rng.choice(QUANTITIES), *(rng.choice(list(table)) for table in tables)]
        premise = Proposition(*words)
        words = [rng.choice(QUANTITIES)]
        words += [
            _draw_related(rng, table, word) for table, word in zip(tables, premise[1:], strict=True)
        ]
        hypothesis = Proposition(*words)
        if premise != hypothesis and relate_propositions(premise, hypothesis) == label:
            row = {'premise': str(premise), 'hypothesis': str(hypothesis), 'label': label}
            return f'{premise} {hypothesis}', row


def _draw_related(rng: random.Random, table: dict[str, str], word: str) -> str:
    """Draw the word itself, or a wider, narrower or sibling one."""
    related = [
        other
        for other in table
        if is_a(table, other, word) or is_a(table, word, other) or table[other] == table[word]
    ]
    return word if rng.random() < 0.5 else rng.choice(related)


def is_a(table: dict[str, str], narrow: str, wide: str) -> bool:
    """Return whether everything that is `narrow` is also `wide`."""
    while narrow != wide and table.get(narrow):
        narrow = table[narrow]
    return narrow == wide or (wide == '' and '' in table)


def relate_propositions(premise: Proposition, hypothesis: Proposition) -> str:
    """Return the relation of two propositions, one of PAIR_LABELS, by the rules of this file."""
    if _entails(premise, hypothesis):
        return 'entailment'
    is_contradiction = _entails(premise, _negate_proposition(hypothesis))
    is_contradiction = is_contradiction or _entails(hypothesis, _negate_proposition(premise))
    return 'contradiction' if is_contradiction else 'neutral'


def _entails(premise: Proposition, hypothesis: Proposition) -> bool:
    is_narrower = is_a(KINDS, hypothesis.kind, premise.kind)
    is_wider = is_a(KINDS, premise.kind, hypothesis.kind)
    widens_act = _implies_act(premise, hypothesis)
    narrows_act = _implies_act(hypothesis, premise)
    rules = {
        ('some', 'some'): is_wider and widens_act,
        ('every', 'every'): is_narrower and widens_act,
        ('every', 'some'): (is_narrower or is_wider) and widens_act,  # every kind has a member
        ('no', 'no'): is_narrower and narrows_act,
    }
    return rules.get((premise.quantity, hypothesis.quantity), False)


def _implies_act(proposition: Proposition, other: Proposition) -> bool:
    """Return whether the activity and place of `proposition` imply those of `other`."""
    is_same_place = is_a(PREMISE_PLACES, proposition.place, other.place)
    return is_a(ACTIVITIES, proposition.activity, other.activity) and is_same_place


def _negate_proposition(proposition: Proposition) -> Proposition:
    """Return a proposition that contradicts this one: 'some' for 'no', else 'no'."""
    quantity = {'some': 'no', 'no': 'some', 'every': 'no'}[proposition.quantity]
    return proposition._replace(quantity=quantity)
