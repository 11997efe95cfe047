"""Who did what to whom, with what, where and when? Words with semantic roles, by a small grammar; nobody wrote them.

The same event is told in the active or the passive voice, with places and times in front or behind, with a relative
clause inside a noun phrase, or as 'it was ... who ...'. 'by' begins a doer or a place ('by the river'), 'with' a tool
or a part of a description ('the man with the hat'), so that neither the word nor its position tells the role.

What it is not: PropBank. There is one event a sentence, and every role is told apart by this grammar's rules.
"""

import random
from pathlib import Path
from typing import Any

from gpt_jax.data.made.splits import Splits, written

COUNT = 4000
KINDS = ('AGENT', 'ACTION', 'PATIENT', 'INSTRUMENT', 'PLACE', 'TIME')
LABELS = ('O', *(f'{side}-{kind}' for kind in KINDS for side in 'BI'))
PEOPLE = ('cook', 'farmer', 'girl', 'sailor', 'teacher', 'boy', 'guard', 'painter')
# plain past, participle, what it is done to, what it is done with
ACTIONS = (
    ('cut', 'cut', ('bread', 'rope', 'cake', 'branch'), ('knife', 'saw')),
    ('broke', 'broken', ('window', 'plate', 'lock', 'ice'), ('hammer', 'stone')),
    ('painted', 'painted', ('fence', 'door', 'wall', 'boat'), ('brush', 'roller')),
    ('watched', 'watched', ('ship', 'bird', 'house', 'thief'), ('telescope', 'camera')),
    ('caught', 'caught', ('fish', 'thief', 'bird', 'ball'), ('net', 'rope')),
    ('opened', 'opened', ('door', 'box', 'bottle', 'gate'), ('key', 'crowbar')),
    ('cleaned', 'cleaned', ('floor', 'boat', 'window', 'carpet'), ('cloth', 'brush')),
)
PLACES = ('in the kitchen', 'by the river', 'behind the barn', 'at the harbour', 'by the old gate', 'in the garden',
          'on the deck', 'near the church')  # fmt: skip
TIMES = ('yesterday', 'in the morning', 'at noon', 'last week', 'before dinner', 'on Sunday')
LOOKS = ('old', 'young', 'tired', 'small', 'tall', 'careful')  # of people
SHAPES = ('old', 'heavy', 'small', 'new', 'strange')  # of things
MARKS = (
    'with the hat',
    'from the village',
    'by the wall',
    'with a red scarf',
    'who had slept badly',
    'that nobody knew',
)

Piece = tuple[str, str]  # words, and their role: '' for none


def rows(stdlib: Path) -> Splits:
    """Rows with 'words' and 'tags' (LABELS by word: B- begins a role, I- goes on with it)."""
    del stdlib
    return written(_event, COUNT, seed=3)


def _event(draw: random.Random) -> tuple[str, dict[str, Any]]:
    past, participle, things, tools = draw.choice(ACTIONS)
    doer, done_to = (_thing(draw, draw.choice(PEOPLE)), 'AGENT'), (_thing(draw, draw.choice(things)), 'PATIENT')
    extras: list[Piece] = []
    if draw.random() < 0.5:
        extras.append((f'with {draw.choice(("a", "the"))} {draw.choice(tools)}', 'INSTRUMENT'))
    if draw.random() < 0.6:
        extras.append((draw.choice(PLACES), 'PLACE'))
    if draw.random() < 0.4:
        extras.append((draw.choice(TIMES), 'TIME'))
    draw.shuffle(extras)
    front = [extras.pop()] if extras and extras[-1][1] != 'INSTRUMENT' and draw.random() < 0.5 else []
    voice = draw.random()
    by = [('by', ''), doer] if draw.random() < 0.75 else []
    if voice < 0.4:
        core = [doer, (past, 'ACTION'), done_to]
    elif voice < 0.8:
        core = [done_to, ('was', ''), (participle, 'ACTION'), *by]
    elif voice < 0.9:
        core = [('it was', ''), doer, ('who', ''), (past, 'ACTION'), done_to]
    else:
        core = [('it was', ''), done_to, ('that', ''), doer, (past, 'ACTION')]
    pieces = [*front, *([(',', '')] if front else []), *core, *extras, ('.', '')]
    words, tags = [], []
    for text, role in pieces:
        several = text.split()
        words += several
        tags += [f'{"I" if number else "B"}-{role}' if role else 'O' for number in range(len(several))]
    words[0] = words[0].capitalize()
    return ' '.join(words), {'words': words, 'tags': tags}


def _thing(draw: random.Random, noun: str) -> str:
    look = f'{draw.choice(LOOKS if noun in PEOPLE else SHAPES)} ' if draw.random() < 0.3 else ''
    mark = f' {draw.choice(MARKS)}' if noun in PEOPLE and draw.random() < 0.25 else ''
    article = draw.choice(('the', 'the', 'an' if (look or noun)[0] in 'aeiou' else 'a'))
    return f'{article} {look}{noun}{mark}'
