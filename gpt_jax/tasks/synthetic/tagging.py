"""Token classification datasets: names in docstrings (entities), and semantic roles (roles)."""

import builtins
import random
import re
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.tasks.synthetic import library
from gpt_jax.tasks.synthetic.library import LibraryModule, Row, Splits, draw_rows, empty_splits


def _bio_tags(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return O, and for each kind B-KIND and I-KIND for the first and the other words of a span."""
    return ('O', *(f'{prefix}-{kind}' for kind in kinds for prefix in 'BI'))


# Entities: sentences of docstrings in Python's standard library, with names of modules, classes and
# functions. A word is tagged if it is written as a name (a_b, aB, f(), `x`, a.b) or the sentence
# calls it one ("the shutil module"), and the parsed sources define it: as a module of the library,
# as a class or function of the docstring's own module or of a module that the name is qualified
# with, or as a built-in. The text is real; the tags are assigned by this program and were not
# checked by people: a name that no source defines is tagged O.
#
# Limits: these are not names of people and places. All rows of a module are in one split, chosen by
# the hash of its path.

ENTITY_KINDS = ('MODULE', 'CLASS', 'FUNCTION')
ENTITY_TAGS = _bio_tags(ENTITY_KINDS)
MIN_WORDS, MAX_WORDS = 5, 40  # of a sentence
QUOTES = ('`', "'", '"')
BUILTIN_KINDS = {
    name: 'CLASS' if isinstance(value, type) else 'FUNCTION'
    for name, value in vars(builtins).items()
    if callable(value) and not name.startswith('_')
}
_SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z`"\'])')
_WORD = re.compile(r'\w+|[^\w\s]')
_NAME = re.compile(r'[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*')
_KIND_AFTER = re.compile(r'`*\s+(module|package|class|function|method)\b')
_KIND_BEFORE = re.compile(r'\b(module|package|class|function|method)\s+`*$')
_WRITTEN_AS_NAME = re.compile(r'.*[a-z0-9][A-Z]|.*\w_\w|.*\.|[A-Z]\w+(?:Error|Exception|Warning)$')

KindsByModule = dict[str, dict[str, str]]  # module -> name that it defines -> CLASS or FUNCTION


def make_entities_rows(stdlib: Path) -> Splits:
    """Return rows with 'words', 'tags' (of ENTITY_TAGS) and 'module'.

    All sentences with a name are included, and about a third as many without one.
    """
    modules = library.parse_modules(stdlib)
    kinds_of: KindsByModule = {name: {} for module in modules for name in module.imported}
    kinds_of |= {module.name: _list_definitions(module) for module in modules}
    splits, seen, counts = empty_splits(), set[str](), {True: 0, False: 0}
    for module in modules:
        for sentence in _list_sentences(module):
            words, tags = _tag_sentence(sentence, module, kinds_of)
            has_name = any(tag != 'O' for tag in tags)
            if not has_name and 3 * counts[False] >= counts[True]:
                continue
            if sentence not in seen and MIN_WORDS <= len(words) <= MAX_WORDS:
                seen.add(sentence)
                counts[has_name] += 1
                row = {'words': words, 'tags': tags, 'module': module.name}
                splits[module.split].append(row)
    return splits


def _list_definitions(module: LibraryModule) -> dict[str, str]:
    return dict.fromkeys(module.defined, 'FUNCTION') | {name: 'CLASS' for name, _ in module.classes}


def _list_sentences(module: LibraryModule) -> Iterator[str]:
    docs = [module.doc]
    docs += [doc for _, doc in module.classes]
    docs += [function.doc for function in module.functions]
    for doc in docs:
        for paragraph in re.split(r'\n\s*\n', doc):
            if '>>>' in paragraph or re.search(r'\n\s{2,}', paragraph):
                continue  # examples and tables
            for sentence in _SENTENCE_END.split(' '.join(paragraph.split())):
                if sentence.endswith(('.', '!', '?')):
                    yield sentence


def _tag_sentence(
    sentence: str, module: LibraryModule, kinds_of: KindsByModule
) -> tuple[list[str], list[str]]:
    """Split a sentence into words and tag them."""
    spans = {start: (kind, end) for start, end, kind in _find_names(sentence, module, kinds_of)}
    words, tags, kind, end = [], [], '', 0
    for match in _WORD.finditer(sentence):
        prefix = 'I'
        if match.start() in spans:
            prefix = 'B'
            kind, end = spans[match.start()]
        words.append(match[0])
        tags.append('O' if match.start() >= end else f'{prefix}-{kind}')
    return words, tags


def _find_names(
    sentence: str, module: LibraryModule, kinds_of: KindsByModule
) -> Iterator[tuple[int, int, str]]:
    """Yield the start, end and kind of each name in a sentence."""
    own_kinds = BUILTIN_KINDS | kinds_of[module.name]
    for match in _NAME.finditer(sentence):
        name, before, after = match[0], sentence[: match.start()], sentence[match.end() :]
        is_called = after.startswith('(')
        is_quoted = before.endswith(QUOTES) and after.startswith(QUOTES)
        stated = _KIND_AFTER.match(after) or _KIND_BEFORE.search(before)
        if not (_WRITTEN_AS_NAME.match(name) or is_called or is_quoted or stated):
            continue
        parent, _, last = name.rpartition('.')
        kind = kinds_of[parent].get(last) if parent in kinds_of else own_kinds.get(last)
        is_module = stated is None or stated[1] in ('module', 'package')
        if name in kinds_of and not is_called and is_module:
            kind = 'MODULE'
        if kind:
            yield match.start(), match.end(), kind


# Roles: semantic roles in sentences that a small grammar generates. An event is described in the
# active or passive voice, or as a cleft sentence ('it was ... who ...'), with places and times in
# front or behind. 'by' introduces an agent or a place ('by the river'), 'with' an instrument or
# part of a description ('the cook with the hat'), so neither the word nor its position determines
# the role.
#
# Limits: this is not PropBank. There is one event per sentence, and the rules of this grammar
# determine every role.

ROLES_COUNT = 4000
ROLE_KINDS = ('AGENT', 'ACTION', 'PATIENT', 'INSTRUMENT', 'PLACE', 'TIME')
ROLE_TAGS = _bio_tags(ROLE_KINDS)
PEOPLE = ('cook', 'farmer', 'girl', 'sailor', 'teacher', 'boy', 'guard', 'painter')
# Past tense, participle, possible patients, possible instruments.
ACTIONS = (
    ('cut', 'cut', ('bread', 'rope', 'cake', 'branch'), ('knife', 'saw')),
    ('broke', 'broken', ('window', 'plate', 'lock', 'ice'), ('hammer', 'stone')),
    ('painted', 'painted', ('fence', 'door', 'wall', 'boat'), ('brush', 'roller')),
    ('watched', 'watched', ('ship', 'bird', 'house', 'thief'), ('telescope', 'camera')),
    ('caught', 'caught', ('fish', 'thief', 'bird', 'ball'), ('net', 'rope')),
    ('opened', 'opened', ('door', 'box', 'bottle', 'gate'), ('key', 'crowbar')),
    ('cleaned', 'cleaned', ('floor', 'boat', 'window', 'carpet'), ('cloth', 'brush')),
)
PLACES = (
    'in the kitchen',
    'by the river',
    'behind the barn',
    'at the harbour',
    'by the old gate',
    'in the garden',
    'on the deck',
    'near the church',
)
TIMES = ('yesterday', 'in the morning', 'at noon', 'last week', 'before dinner', 'on Sunday')
PERSON_ADJECTIVES = ('old', 'young', 'tired', 'small', 'tall', 'careful')
THING_ADJECTIVES = ('old', 'heavy', 'small', 'new', 'strange')
PERSON_DESCRIPTIONS = (
    'with the hat',
    'from the village',
    'by the wall',
    'with a red scarf',
    'who had slept badly',
    'that nobody knew',
)

Phrase = tuple[str, str]  # words, and their role, or '' for none


def make_roles_rows(stdlib: Path) -> Splits:
    """Return rows with 'words' and 'tags' (of ROLE_TAGS)."""
    del stdlib
    return draw_rows(_draw_event, ROLES_COUNT, seed=3)


def _draw_event(rng: random.Random) -> tuple[str, Row]:
    past, participle, things, instruments = rng.choice(ACTIONS)
    agent = _draw_noun_phrase(rng, rng.choice(PEOPLE)), 'AGENT'
    patient = _draw_noun_phrase(rng, rng.choice(things)), 'PATIENT'
    adverbials: list[Phrase] = []
    if rng.random() < 0.5:
        article = rng.choice(('a', 'the'))
        adverbials.append((f'with {article} {rng.choice(instruments)}', 'INSTRUMENT'))
    if rng.random() < 0.6:
        adverbials.append((rng.choice(PLACES), 'PLACE'))
    if rng.random() < 0.4:
        adverbials.append((rng.choice(TIMES), 'TIME'))
    rng.shuffle(adverbials)
    front: list[Phrase] = []
    if adverbials and adverbials[-1][1] != 'INSTRUMENT' and rng.random() < 0.5:
        front = [adverbials.pop(), (',', '')]
    voice = rng.random()
    passive_agent = [('by', ''), agent] if rng.random() < 0.75 else []
    if voice < 0.4:
        core = [agent, (past, 'ACTION'), patient]
    elif voice < 0.8:
        core = [patient, ('was', ''), (participle, 'ACTION'), *passive_agent]
    elif voice < 0.9:
        core = [('it was', ''), agent, ('who', ''), (past, 'ACTION'), patient]
    else:
        core = [('it was', ''), patient, ('that', ''), agent, (past, 'ACTION')]
    words: list[str] = []
    tags: list[str] = []
    for text, role in [*front, *core, *adverbials, ('.', '')]:
        phrase_words = text.split()
        words += phrase_words
        if role:
            tags += [f'B-{role}'] + [f'I-{role}'] * (len(phrase_words) - 1)
        else:
            tags += ['O'] * len(phrase_words)
    words[0] = words[0].capitalize()
    return ' '.join(words), {'words': words, 'tags': tags}


def _draw_noun_phrase(rng: random.Random, noun: str) -> str:
    is_person = noun in PEOPLE
    adjective = description = ''
    if rng.random() < 0.3:
        adjective = f'{rng.choice(PERSON_ADJECTIVES if is_person else THING_ADJECTIVES)} '
    if is_person and rng.random() < 0.25:
        description = f' {rng.choice(PERSON_DESCRIPTIONS)}'
    indefinite = 'an' if (adjective or noun)[0] in 'aeiou' else 'a'
    article = rng.choice(('the', 'the', indefinite))
    return f'{article} {adjective}{noun}{description}'
