"""What do two say about a function? Dialogues by a program about real functions of Python's library.

One shows a function and asks, the other answers from the parsed source: what it does (the first sentence of its
docstring), what it takes, returns and raises, where it is. Later questions say 'it', or only show another function
('And this one?'), so that they can be answered with what was said before and not without it.

What it is not: conversation. Questions come in a few wordings, and whoever answers never asks back. A module is in one
split as a whole, by the hash of its path.
"""

import ast
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from gpt_jax.data.made import library
from gpt_jax.data.made.library import Function
from gpt_jax.data.made.splits import Row, Splits, empty

LONGEST = 400  # characters of a function with its docstring
LONGEST_SENTENCE = 160  # of a docstring's first sentence
T = TypeVar('T', ast.Return, ast.Raise)


def rows(stdlib: Path) -> Splits:
    """Rows with 'messages', turns {'role': 'user' or 'assistant', 'content': ...}, and 'module'."""
    made = empty()
    found: dict[str, list[Function]] = {}
    for function in library.functions(stdlib):
        sentence = library.first_sentence(function.doc)
        if 15 <= len(sentence) <= LONGEST_SENTENCE and len(_source(function)) <= LONGEST:
            found.setdefault(function.module, []).append(function)
    for module, functions in found.items():
        for number, function in enumerate(functions):
            draw = random.Random(hashlib.sha256(f'{module} {number} {function.name}'.encode()).digest())
            others = [one for one in functions if one.name != function.name]
            turns = _spoken(draw, function, draw.choice(others) if others else None)
            made[function.split].append({'messages': turns, 'module': module})
    return made


def _spoken(draw: random.Random, function: Function, other: Function | None) -> list[Row]:
    said: list[tuple[str, str]] = []
    kind = ''
    for kind in draw.sample(list(ASKED), draw.randrange(1, 4)):
        wordings, answer = ASKED[kind]
        question = draw.choice(wordings)
        shown = '' if said else f'{draw.choice(SHOWN).format(function.path)}\n\n{_source(function)}\n'
        said.append((f'{shown}{question}', answer(function)))
    if other is not None and draw.random() < 0.4:
        shown = f'{draw.choice(ANOTHER).format(other.path)}\n\n{_source(other)}'
        said.append((shown, ASKED[kind][1](other)))
    if draw.random() < 0.2:
        said.append((draw.choice(('Thanks!', 'Thank you.')), 'You are welcome.'))
    roles = ('user', 'assistant')
    return [{'role': role, 'content': text} for pair in said for role, text in zip(roles, pair, strict=True)]


def _source(function: Function) -> str:
    return function.head + library.docstring(function.doc) + function.body


def _does(function: Function) -> str:
    return library.first_sentence(function.doc)


def _takes(function: Function) -> str:
    names = [name for name in function.arguments if name not in ('self', 'cls')]
    if not names:
        return 'It takes nothing.'
    return f'It takes {" and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)}.'


def _returns(function: Function) -> str:
    source = _source(function)
    returned = [one.value for one in _own(ast.parse(source).body[0], ast.Return) if one.value is not None]
    segments = [ast.get_source_segment(source, value) for value in returned]
    found = list(dict.fromkeys(' '.join(segment.split()) for segment in segments if segment))
    return f'It returns {" or ".join(found)}.' if found else 'It returns nothing.'


def _raises(function: Function) -> str:
    raised = [one.exc for one in _own(ast.parse(_source(function)).body[0], ast.Raise) if one.exc is not None]
    names = list(dict.fromkeys(ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in raised))
    return f'It raises {" or ".join(names)}.' if names else 'It raises nothing itself.'


def _own(node: ast.AST, kind: type[T]) -> Iterator[T]:
    """The statements of a kind in a function, but for those of functions inside it."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, kind):
            yield one
        if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _own(one, kind)


def _where(function: Function) -> str:
    owner = f', in the class {function.owner}' if function.owner else ''
    return f'In {function.path}{owner}.'


SHOWN = ('Here is a function of {}:', 'I found this in {}:', 'Look at this, it is from {}.')
ANOTHER = ('And this one? It is from {}.', 'The same for this one, please, of {}:', 'What about this? (It is in {}.)')
# What is asked: its wordings, and what is answered.
ASKED: dict[str, tuple[tuple[str, ...], Callable[[Function], str]]] = {
    'does': (('What does it do?', 'What is it for?', 'Can you say what it does?'), _does),
    'takes': (('What does it take?', 'Which arguments has it?', 'What do I pass to it?'), _takes),
    'returns': (('What does it return?', 'What do I get from it?'), _returns),
    'raises': (('What does it raise?', 'Which errors come from it?'), _raises),
    'where': (('Where is it?', 'Which file has it?'), _where),
}
