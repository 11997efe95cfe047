"""Which of two answers is better? Real first sentences of docstrings, each beside one that is worse by a stated rule.

The question is what a function of Python's library does. The better answer is the first sentence of its docstring; the
worse one is that of another function of the module ('other'), the same cut off in the middle ('cut'), said twice over
('twice'), or wrapped in talk about answering ('talk').

What it is not: people's preferences. A module is in one split as a whole, by the hash of its path.
"""

import hashlib
import random
from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.splits import Splits, empty

SHORTEST, LONGEST = 20, 160  # characters of an answer
RULES = ('other', 'cut', 'twice', 'talk')
TALK = ("That is a very good question! I would say, though I may be wrong: {} I hope that helps!",
        "As you will surely know, there is much to be said about {name}. In a way, {} But who can tell?",
        "Well, well. {} Do ask me more, I love to answer!")  # fmt: skip


def rows(stdlib: Path) -> Splits:
    """Rows with 'prompt', 'chosen', 'rejected' and 'rule' (of RULES)."""
    made = empty()
    found: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for function in library.functions(stdlib):
        sentence = library.first_sentence(function.doc)
        if SHORTEST <= len(sentence) <= LONGEST and sentence.endswith('.'):
            name = f'{function.owner}.{function.name}'.strip('.')
            found.setdefault(function.module, {}).setdefault(name, sentence)
            splits[function.module] = function.split
    for module, sentences in found.items():
        for name, chosen in sentences.items():
            draw = random.Random(hashlib.sha256(f'{module}.{name}'.encode()).digest())
            others = [one for one in sentences.values() if one != chosen]
            rule = draw.choice(RULES if others else RULES[1:])
            rejected = draw.choice(others) if rule == 'other' else _worse(draw, rule, chosen, name)
            prompt = f'What does {module}.{name} do?'
            row = {'prompt': prompt, 'chosen': chosen, 'rejected': rejected, 'rule': rule}
            made[splits[module]].append(row)
    return made


def _worse(draw: random.Random, rule: str, chosen: str, name: str) -> str:
    words = chosen.split()
    if rule == 'cut':
        return ' '.join(words[: draw.randrange(1, max(2, 2 * len(words) // 3))])
    return f'{chosen} {chosen}' if rule == 'twice' else draw.choice(TALK).format(chosen, name=name)
