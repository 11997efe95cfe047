"""Templated dialogues about functions of Python's standard library.

The user shows a function and asks questions; the assistant answers from the parsed source: what the
function does (the first sentence of its docstring), what it takes, returns and raises, and where it
is. Later questions say 'it', or only show another function ('And this one?'), so they can only be
answered with the earlier turns.

Limits: this is not real conversation. Each question has only a few wordings, and the assistant
never asks one itself. All rows of a module are in one split, chosen by the hash of its path.
"""

import ast
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from gpt_jax.tasks.synthetic import library
from gpt_jax.tasks.synthetic.library import LibraryFunction, Row, Splits, empty_splits

MAX_CHARACTERS = 400  # of a function with its docstring
MIN_SENTENCE, MAX_SENTENCE = 15, 160  # characters of a docstring's first sentence
Statement = TypeVar('Statement', ast.Return, ast.Raise)


def make_dialogue_rows(stdlib: Path) -> Splits:
    """Return rows with 'messages' ({'role': 'user' or 'assistant', 'content'}) and 'module'."""
    splits = empty_splits()
    functions_of: dict[str, list[LibraryFunction]] = {}
    for function in library.list_functions(stdlib):
        sentence = library.extract_first_sentence(function.doc)
        is_short = len(_format_source(function)) <= MAX_CHARACTERS
        if MIN_SENTENCE <= len(sentence) <= MAX_SENTENCE and is_short:
            functions_of.setdefault(function.module, []).append(function)
    for module, functions in functions_of.items():
        for number, function in enumerate(functions):
            key = f'{module} {number} {function.name}'
            rng = random.Random(hashlib.sha256(key.encode()).digest())
            others = [other for other in functions if other.name != function.name]
            messages = _draw_dialogue(rng, function, rng.choice(others) if others else None)
            splits[function.split].append({'messages': messages, 'module': module})
    return splits


def _draw_dialogue(
    rng: random.Random, function: LibraryFunction, other: LibraryFunction | None
) -> list[Row]:
    turns: list[tuple[str, str]] = []
    kind = ''
    for kind in rng.sample(list(QUESTIONS), rng.randrange(1, 4)):
        wordings, answer = QUESTIONS[kind]
        question = rng.choice(wordings)
        if not turns:
            introduction = rng.choice(INTRODUCTIONS).format(function.path)
            question = f'{introduction}\n\n{_format_source(function)}\n{question}'
        turns.append((question, answer(function)))
    if other is not None and rng.random() < 0.4:
        introduction = rng.choice(FOLLOW_UPS).format(other.path)
        turns.append((f'{introduction}\n\n{_format_source(other)}', QUESTIONS[kind][1](other)))
    if rng.random() < 0.2:
        turns.append((rng.choice(('Thanks!', 'Thank you.')), 'You are welcome.'))
    return [
        {'role': role, 'content': text}
        for turn in turns
        for role, text in zip(('user', 'assistant'), turn, strict=True)
    ]


def _format_source(function: LibraryFunction) -> str:
    return function.head + library.format_docstring(function.doc) + function.body


def _answer_purpose(function: LibraryFunction) -> str:
    return library.extract_first_sentence(function.doc)


def _answer_arguments(function: LibraryFunction) -> str:
    names = [name for name in function.arguments if name not in ('self', 'cls')]
    if not names:
        return 'It takes nothing.'
    *others, last = names
    return f'It takes {", ".join(others)} and {last}.' if others else f'It takes {last}.'


def _answer_returns(function: LibraryFunction) -> str:
    source = _format_source(function)
    statements = _list_own_statements(ast.parse(source).body[0], ast.Return)
    values = [statement.value for statement in statements if statement.value is not None]
    segments = [ast.get_source_segment(source, value) for value in values]
    texts = list(dict.fromkeys(' '.join(segment.split()) for segment in segments if segment))
    return f'It returns {" or ".join(texts)}.' if texts else 'It returns nothing.'


def _answer_raises(function: LibraryFunction) -> str:
    statements = _list_own_statements(ast.parse(_format_source(function)).body[0], ast.Raise)
    errors = [statement.exc for statement in statements if statement.exc is not None]
    types = [error.func if isinstance(error, ast.Call) else error for error in errors]
    names = list(dict.fromkeys(map(ast.unparse, types)))
    return f'It raises {" or ".join(names)}.' if names else 'It raises nothing itself.'


def _list_own_statements(node: ast.AST, kind: type[Statement]) -> Iterator[Statement]:
    """Yield a function's statements of a kind, without those of nested functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kind):
            yield child
        nested = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
        if not isinstance(child, nested):
            yield from _list_own_statements(child, kind)


def _answer_location(function: LibraryFunction) -> str:
    owner = f', in the class {function.owner}' if function.owner else ''
    return f'In {function.path}{owner}.'


INTRODUCTIONS = ('Here is a function of {}:', 'I found this in {}:', 'Look at this, it is from {}.')
FOLLOW_UPS = (
    'And this one? It is from {}.',
    'The same for this one, please, of {}:',
    'What about this? (It is in {}.)',
)
# Kind of question -> its wordings, and the function that answers it.
QUESTIONS: dict[str, tuple[tuple[str, ...], Callable[[LibraryFunction], str]]] = {
    'does': (('What does it do?', 'What is it for?', 'Can you say what it does?'), _answer_purpose),
    'takes': (
        ('What does it take?', 'Which arguments has it?', 'What do I pass to it?'),
        _answer_arguments,
    ),
    'returns': (('What does it return?', 'What do I get from it?'), _answer_returns),
    'raises': (('What does it raise?', 'Which errors come from it?'), _answer_raises),
    'where': (('Where is it?', 'Which file has it?'), _answer_location),
}
