"""What does a function give for which arguments? A program of its own, which made/code.py starts and feeds.

It reads one JSON object a line, {"prompt", "body", "name", "arity", "docs"}, and answers each with {"test"}: asserts
that the function passes, made of the doctests of its docstring and of calls with plain values; '' where there are too
few. It runs code of Python's own library, and only functions that made/code.py has found to touch nothing outside them;
still there are limits on time and memory. Nothing of gpt_jax is imported, so that a child starts in no time.
"""

import ast
import contextlib
import copy
import io
import itertools
import json
import random
import resource
import signal
import sys
from typing import Any

VALUES: tuple[Any, ...] = (
    0, 1, 2, 3, 7, 10, -4, 255, 0.5, True, None, '', 'a', 'abc', 'Hello, World', 'a b\tc', '12', '<b>&"x"</b>',
    'one\ntwo\n', 'path/to/file.txt', 'key=value', b'bytes', [], [1, 2, 3], [3, 1, 2], ['b', 'a'], [1.5, 2.5], (1, 2),
    {'a': 1}, [[1, 2], [3]],
)  # fmt: skip
FEWEST, MOST = 3, 5  # asserts
TRIES = 400  # of arguments
SECONDS = 0.1  # for one call
MEMORY = 1 << 30
LONGEST = 120  # characters of a value


class TooLong(BaseException):
    """A call took too long; no function catches it by `except Exception`."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _alarm)
    for line in sys.stdin:
        print(json.dumps({'test': test(json.loads(line))}), flush=True)


def test(about: dict[str, Any]) -> str:
    """Asserts that the function passes; ''."""
    asserts = [line for line in _documented(about) if passes(about, line)]
    if len(asserts) < MOST:
        asserts += [line for line in _tried(about) if line not in asserts and passes(about, line)]
    different = {line.rpartition(' == ')[2] for line in asserts}
    return '\n'.join([*asserts[:MOST], '']) if len(asserts) >= FEWEST and len(different) > 1 else ''


def passes(about: dict[str, Any], line: str) -> bool:
    """Whether the program that is the function and the assert runs to its end."""
    try:
        with _limited():
            exec(compile(f'{about["prompt"]}{about["body"]}\n{line}', '<test>', 'exec'), {'__name__': 'test'})
    except (Exception, TooLong):
        return False
    return True


def _documented(about: dict[str, Any]) -> list[str]:
    """The doctests that are one expression with the value it has: (source, value) pairs that doctest has parsed."""
    found = []
    for source, want in about['docs']:
        try:
            ast.parse(source.strip(), mode='eval')
            ast.literal_eval(want.strip())
        except (SyntaxError, ValueError):
            continue
        found.append(f'assert {" ".join(source.split())} == {want.strip()}')
    return found


def _tried(about: dict[str, Any]) -> list[str]:
    """Calls with plain values that return a plain value, of different ones first."""
    space: dict[str, Any] = {'__name__': 'test'}
    try:
        with _limited():
            exec(compile(about['prompt'] + about['body'], '<function>', 'exec'), space)
    except (Exception, TooLong):
        return []
    every = list(itertools.product(range(len(VALUES)), repeat=about['arity']))
    random.Random(about['name']).shuffle(every)
    found: dict[str, str] = {}
    for numbers in every[:TRIES]:
        arguments = [copy.deepcopy(VALUES[number]) for number in numbers]
        written = ', '.join(map(repr, arguments))
        try:
            with _limited():
                value = repr(space[about['name']](*arguments))
            if len(value) <= LONGEST and value != 'None' and repr(ast.literal_eval(value)) == value:
                found.setdefault(value, f'assert {about["name"]}({written}) == {value}')
        except (Exception, TooLong):
            continue
    return list(found.values())[: 2 * MOST]


@contextlib.contextmanager
def _limited() -> Any:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _alarm(*_: Any) -> None:
    raise TooLong


if __name__ == '__main__':
    main()
