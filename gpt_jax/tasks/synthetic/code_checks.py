"""Worker program that writes asserts for Python functions, started and fed by code.py.

It reads one JSON object per line, {"prompt", "body", "name", "arity", "docs"}, and answers each
with {"test"}: asserts that the function passes, from the doctests of its docstring and from calls
with simple values; '' if there are too few. code.py sends only functions of Python's own library
that have no side effects; time and memory are limited nevertheless. It imports nothing from
gpt_jax, so that it starts fast.
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
from collections.abc import Iterator
from typing import Any

ARGUMENT_VALUES: tuple[Any, ...] = (
    0,
    1,
    2,
    3,
    7,
    10,
    -4,
    255,
    0.5,
    True,
    None,
    '',
    'a',
    'abc',
    'Hello, World',
    'a b\tc',
    '12',
    '<b>&"x"</b>',
    'one\ntwo\n',
    'path/to/file.txt',
    'key=value',
    b'bytes',
    [],
    [1, 2, 3],
    [3, 1, 2],
    ['b', 'a'],
    [1.5, 2.5],
    (1, 2),
    {'a': 1},
    [[1, 2], [3]],
)
MIN_ASSERTS, MAX_ASSERTS = 3, 5
MAX_CALLS = 400
CALL_SECONDS = 0.1
MEMORY_BYTES = 1 << 30
MAX_VALUE_CHARACTERS = 120

Request = dict[str, Any]  # one line of the input


class CallTimeout(BaseException):
    """A call took too long.

    It is not an Exception, so that `except Exception` in the function cannot catch it.
    """


def main() -> None:
    """Answer the requests on standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _raise_timeout)
    for line in sys.stdin:
        print(json.dumps({'test': make_asserts(json.loads(line))}), flush=True)


def make_asserts(request: Request) -> str:
    """Return lines of asserts that the function passes, or '' if there are too few."""
    asserts = [line for line in _convert_doctests(request) if passes_assert(request, line)]
    if len(asserts) < MAX_ASSERTS:
        for line in _try_calls(request):
            if line not in asserts and passes_assert(request, line):
                asserts.append(line)
    values = {line.rpartition(' == ')[2] for line in asserts}
    if len(asserts) < MIN_ASSERTS or len(values) == 1:
        return ''
    return '\n'.join([*asserts[:MAX_ASSERTS], ''])


def passes_assert(request: Request, line: str) -> bool:
    """Return whether the function followed by the assert runs without an error."""
    program = f'{request["prompt"]}{request["body"]}\n{line}'
    try:
        with _limit_time():
            exec(compile(program, '<test>', 'exec'), {'__name__': 'test'})
    except (Exception, CallTimeout):
        return False
    return True


def _convert_doctests(request: Request) -> list[str]:
    """Return asserts for the doctests that are one expression with a literal value."""
    asserts = []
    for source, value in request['docs']:
        try:
            ast.parse(source.strip(), mode='eval')
            ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            continue
        asserts.append(f'assert {" ".join(source.split())} == {value.strip()}')
    return asserts


def _try_calls(request: Request) -> list[str]:
    """Return asserts for calls with simple values, one for each distinct literal result."""
    namespace: dict[str, Any] = {'__name__': 'test'}
    try:
        with _limit_time():
            exec(compile(request['prompt'] + request['body'], '<function>', 'exec'), namespace)
    except (Exception, CallTimeout):
        return []
    choices = list(itertools.product(range(len(ARGUMENT_VALUES)), repeat=request['arity']))
    random.Random(request['name']).shuffle(choices)
    asserts: dict[str, str] = {}
    for indices in choices[:MAX_CALLS]:
        arguments = [copy.deepcopy(ARGUMENT_VALUES[index]) for index in indices]
        call = f'{request["name"]}({", ".join(map(repr, arguments))})'
        try:
            with _limit_time():
                value = repr(namespace[request['name']](*arguments))
            is_short = len(value) <= MAX_VALUE_CHARACTERS and value != 'None'
            if is_short and repr(ast.literal_eval(value)) == value:
                asserts.setdefault(value, f'assert {call} == {value}')
        except (Exception, CallTimeout):
            continue
    return list(asserts.values())[: 2 * MAX_ASSERTS]


@contextlib.contextmanager
def _limit_time() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, CALL_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_timeout(*_: object) -> None:
    raise CallTimeout


if __name__ == '__main__':
    main()
