"""Translation datasets: messages of installed programs, and an invented language."""

import gettext
import hashlib
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

from gpt_jax.tasks.synthetic.library import Row, Splits, draw_rows, empty_splits, hash_to_split

# Grammar: sentence pairs in English and an invented language, from a synchronous grammar. Both
# sides are generated from one tree of meaning. The invented language places the verb last and
# adjectives after their nouns. Nouns have one of two genders, a plural and an ending for the
# object; the definite article is an ending of the noun; adjectives agree with their noun in gender,
# number and case, and verbs with their subject in number. A particle before the verb negates it,
# and one at the end marks a question. So a word-by-word lexicon is not enough.
#
# Limits: this is not a natural language. It has few words and no ambiguity, so a model can learn
# all of it; a BLEU score on it shows whether translation is learned, but says nothing about German.

GRAMMAR_COUNT = 5000


class GrammarNoun(NamedTuple):
    """A noun in both languages; `gender` is the vowel that its endings begin with."""

    singular: str
    plural: str
    stem: str
    gender: str


NOUNS = (
    GrammarNoun('dog', 'dogs', 'barn', 'a'),
    GrammarNoun('child', 'children', 'mil', 'o'),
    GrammarNoun('woman', 'women', 'feld', 'a'),
    GrammarNoun('king', 'kings', 'tork', 'o'),
    GrammarNoun('bird', 'birds', 'sir', 'a'),
    GrammarNoun('river', 'rivers', 'lum', 'o'),
    GrammarNoun('house', 'houses', 'kast', 'a'),
    GrammarNoun('tree', 'trees', 'olv', 'o'),
    GrammarNoun('book', 'books', 'rend', 'a'),
    GrammarNoun('horse', 'horses', 'gav', 'o'),
    GrammarNoun('teacher', 'teachers', 'dask', 'a'),
    GrammarNoun('ship', 'ships', 'nev', 'o'),
    GrammarNoun('stone', 'stones', 'pirt', 'a'),
    GrammarNoun('wolf', 'wolves', 'urg', 'o'),
    GrammarNoun('song', 'songs', 'hal', 'a'),
    GrammarNoun('letter', 'letters', 'zem', 'o'),
)
ADJECTIVES = {
    'old': 'vet',
    'small': 'min',
    'red': 'rus',
    'good': 'bel',
    'quiet': 'sut',
    'strong': 'fort',
    'white': 'alb',
    'strange': 'orn',
}
# Base form, third person, past tense, and stem in the invented language.
VERBS = (
    ('see', 'sees', 'saw', 'vid'),
    ('find', 'finds', 'found', 'trov'),
    ('carry', 'carries', 'carried', 'port'),
    ('follow', 'follows', 'followed', 'sek'),
    ('paint', 'paints', 'painted', 'kel'),
    ('love', 'loves', 'loved', 'am'),
    ('forget', 'forgets', 'forgot', 'lit'),
    ('describe', 'describes', 'described', 'skriv'),
)
PLACES = {'near': 'apu', 'behind': 'retu', 'without': 'sinu'}
TIMES = {'today': 'odi', 'often': 'ofta', 'in the evening': 'vespe', 'once more': 'denove'}


class NounPhrase(NamedTuple):
    """The meaning of a noun phrase; `attribute` is a preposition and its noun phrase."""

    noun: GrammarNoun
    is_plural: bool
    is_definite: bool
    adjectives: tuple[str, ...]
    attribute: tuple[str, 'NounPhrase'] | None


class GrammarSentence(NamedTuple):
    """The meaning of a sentence; `time` is a key of TIMES or ''."""

    subject: NounPhrase
    verb: tuple[str, str, str, str]
    object: NounPhrase
    is_past: bool
    is_negated: bool
    is_question: bool
    time: str


def make_grammar_rows(stdlib: Path) -> Splits:
    """Return rows with 'source' (English) and 'target' (the invented language)."""
    del stdlib
    return draw_rows(_draw_sentence_pair, GRAMMAR_COUNT, seed=1)


def _draw_sentence_pair(rng: random.Random) -> tuple[str, Row]:
    sentence = GrammarSentence(
        subject=_draw_noun_phrase(rng, may_have_attribute=True),
        object=_draw_noun_phrase(rng, may_have_attribute=rng.random() < 0.3),
        verb=rng.choice(VERBS),
        is_past=rng.random() < 0.5,
        is_negated=rng.random() < 0.25,
        is_question=rng.random() < 0.2,
        time=rng.choice(list(TIMES)) if rng.random() < 0.4 else '',
    )
    source = _format_english(sentence)
    return source, {'source': source, 'target': _format_invented(sentence)}


def _draw_noun_phrase(rng: random.Random, *, may_have_attribute: bool) -> NounPhrase:
    adjectives = tuple(rng.sample(list(ADJECTIVES), rng.choice((0, 0, 1, 1, 2))))
    attribute = None
    if may_have_attribute and rng.random() < 0.25:
        preposition = rng.choice(list(PLACES))
        attribute = preposition, _draw_noun_phrase(rng, may_have_attribute=False)
    return NounPhrase(
        noun=rng.choice(NOUNS),
        is_plural=rng.random() < 0.4,
        is_definite=rng.random() < 0.6,
        adjectives=adjectives,
        attribute=attribute,
    )


def _format_english(sentence: GrammarSentence) -> str:
    base, third_person, past, _ = sentence.verb
    present = base if sentence.subject.is_plural else third_person
    auxiliary = 'did' if sentence.is_past else 'do' if sentence.subject.is_plural else 'does'
    subject, object_ = _english_phrase(sentence.subject), _english_phrase(sentence.object)
    if sentence.is_question:
        text = f'{auxiliary} {subject} {"not " if sentence.is_negated else ""}{base} {object_}'
    elif sentence.is_negated:
        text = f'{subject} {auxiliary} not {base} {object_}'
    else:
        text = f'{subject} {past if sentence.is_past else present} {object_}'
    text = f'{text} {sentence.time}' if sentence.time else text
    return f'{text[0].upper()}{text[1:]}{"?" if sentence.is_question else "."}'


def _english_phrase(phrase: NounPhrase) -> str:
    words = [*phrase.adjectives, phrase.noun.plural if phrase.is_plural else phrase.noun.singular]
    if phrase.is_definite:
        article = 'the'
    elif phrase.is_plural:
        article = 'some'
    else:
        article = 'an' if words[0][0] in 'aeiou' else 'a'
    text = f'{article} {" ".join(words)}'
    if phrase.attribute:
        preposition, inner = phrase.attribute
        text += f' {preposition} {_english_phrase(inner)}'
    return text


def _format_invented(sentence: GrammarSentence) -> str:
    words = [TIMES[sentence.time]] if sentence.time else []
    words += _invented_phrase(sentence.subject, case='')
    words += _invented_phrase(sentence.object, case='n')
    words += ['ne'] if sentence.is_negated else []
    tense, number = 'i' if sentence.is_past else 'e', 's' if sentence.subject.is_plural else ''
    words.append(f'{sentence.verb[3]}{tense}{number}')
    words += ['ka'] if sentence.is_question else []
    return f'{" ".join(words)}{"?" if sentence.is_question else "."}'


def _invented_phrase(phrase: NounPhrase, case: str) -> list[str]:
    """Return a phrase's words: stem, gender, plural 'j', case 'n', and a noun's article 'ta'."""
    ending = f'{phrase.noun.gender}{"j" if phrase.is_plural else ""}{case}'
    words = [f'{phrase.noun.stem}{ending}{"ta" if phrase.is_definite else ""}']
    words += [f'{ADJECTIVES[adjective]}{ending}' for adjective in phrase.adjectives]
    if phrase.attribute:
        preposition, inner = phrase.attribute
        words += [PLACES[preposition], *_invented_phrase(inner, case='')]
    return words


# Translation: messages of the installed programs. Their gettext catalogues (/usr/share/locale) hold
# translations made by people; the language with the most messages is used. If it has fewer than
# MIN_MESSAGES, as in a bare container, the rows are those of synthetic:grammar. The column
# 'language' says which.
#
# Limits: this is not prose. Messages are short and about computers, and some are names. They differ
# between machines; a result can be reproduced only with the same catalogues, which give the data
# the same fingerprint.

LANGUAGES = ('de', 'fr', 'es', 'it', 'pt_BR', 'nl', 'sv', 'ru', 'pl')
MIN_MESSAGES, MAX_MESSAGES = 2000, 20_000
MAX_CHARACTERS = 200  # of a message
INVENTED = 'made'  # the language of synthetic:grammar
_WORD_OR_SYMBOLS = re.compile(r'[\W\d_]*|\S+')  # no letters, or a single word


def make_translation_rows(stdlib: Path) -> Splits:
    """Return rows with 'source' (English), 'target' and 'language' (of LANGUAGES, or INVENTED)."""
    folders = list_catalogue_folders()
    messages_of = {language: read_messages(folders, language) for language in LANGUAGES}
    language = max(LANGUAGES, key=lambda language: len(messages_of[language]))
    messages = messages_of[language]
    if len(messages) < MIN_MESSAGES:
        return {
            split: [row | {'language': INVENTED} for row in rows]
            for split, rows in make_grammar_rows(stdlib).items()
        }
    splits = empty_splits()
    by_hash = sorted(messages, key=lambda source: hashlib.sha256(source.encode('utf-8')).digest())
    for source in sorted(by_hash[:MAX_MESSAGES]):
        row = {'source': source, 'target': messages[source], 'language': language}
        splits[hash_to_split(source)].append(row)
    return splits


def list_catalogue_folders() -> list[Path]:
    """Return the locale folders of the system and of the running Python."""
    prefixes = dict.fromkeys(('/usr', '/usr/local', sys.prefix, sys.base_prefix))
    return [Path(prefix) / 'share' / 'locale' for prefix in prefixes]


def read_messages(folders: list[Path], language: str) -> dict[str, str]:
    """Return the messages of more than one word with their translations.

    Args:
      folders: locale folders; the first catalogue with a message provides its translation.
      language: name of a language folder, one of LANGUAGES.
    """
    messages: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob(f'{language}/LC_MESSAGES/*.mo')):
            for source, target in _read_catalogue(path).items():
                if isinstance(source, str) and _is_usable(source) and _is_usable(target):
                    messages.setdefault(source, target)
    return {source: target for source, target in messages.items() if source != target}


def _read_catalogue(path: Path) -> dict[object, str]:
    try:
        with open(path, 'rb') as file:
            # gettext has no public interface for listing the messages.
            return dict(getattr(gettext.GNUTranslations(file), '_catalog', {}))
    except (OSError, UnicodeDecodeError, ValueError, LookupError):
        return {}  # not a catalogue, or in an unknown encoding


def _is_usable(text: str) -> bool:
    has_context = '\x04' in text  # gettext separates a message from its context with it
    is_line = 0 < len(text) <= MAX_CHARACTERS and '\n' not in text
    return is_line and not has_context and not _WORD_OR_SYMBOLS.fullmatch(text)
