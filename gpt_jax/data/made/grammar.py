"""How is an English sentence said in a made language? Pairs by a synchronous grammar; nobody speaks the language.

Both sides of a pair are written from one tree of meaning. The made language puts the verb last and its adjectives
behind their nouns; nouns have one of two genders, a plural and an ending for the object; articles are endings of the
noun; adjectives agree with their noun in gender, number and case, verbs with their subject in number; a negated verb
has a particle before it, and a question one at its end. So a word-by-word lexicon does not translate it.

What it is not: a natural language. Its words and sentences are few and without ambiguity, so a model can learn all of
it; a BLEU on it says whether translation is learned, and nothing about German.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data.made.splits import Splits, written

COUNT = 5000


class Noun(NamedTuple):
    one: str
    many: str
    stem: str
    gender: str  # the vowel that its endings begin with


NOUNS = (
    Noun('dog', 'dogs', 'barn', 'a'), Noun('child', 'children', 'mil', 'o'), Noun('woman', 'women', 'feld', 'a'),
    Noun('king', 'kings', 'tork', 'o'), Noun('bird', 'birds', 'sir', 'a'), Noun('river', 'rivers', 'lum', 'o'),
    Noun('house', 'houses', 'kast', 'a'), Noun('tree', 'trees', 'olv', 'o'), Noun('book', 'books', 'rend', 'a'),
    Noun('horse', 'horses', 'gav', 'o'), Noun('teacher', 'teachers', 'dask', 'a'), Noun('ship', 'ships', 'nev', 'o'),
    Noun('stone', 'stones', 'pirt', 'a'), Noun('wolf', 'wolves', 'urg', 'o'), Noun('song', 'songs', 'hal', 'a'),
    Noun('letter', 'letters', 'zem', 'o'),
)  # fmt: skip
ADJECTIVES = {'old': 'vet', 'small': 'min', 'red': 'rus', 'good': 'bel', 'quiet': 'sut', 'strong': 'fort',
              'white': 'alb', 'strange': 'orn'}  # fmt: skip
# plain, with -s, past, and the stem
VERBS = (
    ('see', 'sees', 'saw', 'vid'), ('find', 'finds', 'found', 'trov'), ('carry', 'carries', 'carried', 'port'),
    ('follow', 'follows', 'followed', 'sek'), ('paint', 'paints', 'painted', 'kel'), ('love', 'loves', 'loved', 'am'),
    ('forget', 'forgets', 'forgot', 'lit'), ('describe', 'describes', 'described', 'skriv'),
)  # fmt: skip
PLACES = {'near': 'apu', 'behind': 'retu', 'without': 'sinu'}
TIMES = {'today': 'odi', 'often': 'ofta', 'in the evening': 'vespe', 'once more': 'denove'}


class Thing(NamedTuple):
    """A noun phrase's meaning."""

    noun: Noun
    plural: bool
    definite: bool
    adjectives: tuple[str, ...]
    beside: tuple[str, 'Thing'] | None


def rows(stdlib: Path) -> Splits:
    """Rows with 'source' (English) and 'target' (the made language)."""
    del stdlib
    return written(_pair, COUNT, seed=1)


def _pair(draw: random.Random) -> tuple[str, dict[str, Any]]:
    subject, thing = _thing(draw, True), _thing(draw, draw.random() < 0.3)
    verb, past, negated, asks = draw.choice(VERBS), draw.random() < 0.5, draw.random() < 0.25, draw.random() < 0.2
    time = draw.choice(list(TIMES)) if draw.random() < 0.4 else ''
    source = _english(subject, verb, thing, past, negated, asks, time)
    words = [TIMES[time]] if time else []
    words += [*_noun(subject, ''), *_noun(thing, 'n'), *(['ne'] if negated else [])]
    words.append(f'{verb[3]}{"i" if past else "e"}{"s" if subject.plural else ""}')
    words += ['ka'] if asks else []
    return source, {'source': source, 'target': f'{" ".join(words)}{"?" if asks else "."}'}


def _thing(draw: random.Random, may_have_more: bool) -> Thing:
    adjectives = tuple(draw.sample(list(ADJECTIVES), draw.choice((0, 0, 1, 1, 2))))
    beside = (draw.choice(list(PLACES)), _thing(draw, False)) if may_have_more and draw.random() < 0.25 else None
    return Thing(draw.choice(NOUNS), draw.random() < 0.4, draw.random() < 0.6, adjectives, beside)


def _english(
    subject: Thing, verb: tuple[str, ...], thing: Thing, past: bool, negated: bool, asks: bool, time: str
) -> str:
    plain, third, perfect, _ = verb
    helper = 'did' if past else 'do' if subject.plural else 'does'
    who, whom = _phrase(subject), _phrase(thing)
    if asks:
        said = f'{helper} {who} {"not " if negated else ""}{plain} {whom}'
    elif negated:
        said = f'{who} {helper} not {plain} {whom}'
    else:
        said = f'{who} {perfect if past else plain if subject.plural else third} {whom}'
    whole = f'{said} {time}' if time else said
    return f'{whole[0].upper()}{whole[1:]}{"?" if asks else "."}'


def _phrase(thing: Thing) -> str:
    words = [*thing.adjectives, thing.noun.many if thing.plural else thing.noun.one]
    article = 'the' if thing.definite else 'some' if thing.plural else 'an' if words[0][0] in 'aeiou' else 'a'
    beside = f' {thing.beside[0]} {_phrase(thing.beside[1])}' if thing.beside else ''
    return f'{article} {" ".join(words)}{beside}'


def _noun(thing: Thing, case: str) -> list[str]:
    """stem, gender, plural 'j', case 'n', article 'ta'; an adjective behind it has the same endings but the article."""
    ending = f'{thing.noun.gender}{"j" if thing.plural else ""}{case}'
    words = [f'{thing.noun.stem}{ending}{"ta" if thing.definite else ""}']
    words += [f'{ADJECTIVES[one]}{ending}' for one in thing.adjectives]
    return words + ([PLACES[thing.beside[0]], *_noun(thing.beside[1], '')] if thing.beside else [])
