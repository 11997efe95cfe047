"""Code completion with tests: functions of Python's standard library, and generated exercises.

A row has a 'prompt' (the imports that the function needs, its first line and docstring) and a
'body', the reference solution. 'test' holds asserts that the body passes, from the docstring's
doctests and from calls with simple values, if the function needs only built-ins and PURE_MODULES;
otherwise it is ''. Exercises are added because a small model can solve them; all have a test.
'origin' is 'library' or 'exercise'.

Limits: this is not HumanEval. Most docstrings do not specify everything that the body does, and the
tests record what the body returned, not what its author intended. Exercises combine the entries of
three tables, so a model can see every part in training and be tested on new combinations, but they
are not programming as people do it. All rows of a module are in one split, chosen by the hash of
its path; the split of an exercise is chosen by the hash of its name.
"""

import ast
import builtins
import contextlib
import doctest
import json
import os
import random
import selectors
import subprocess
import symtable
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gpt_jax.tasks.synthetic import code_checks, library
from gpt_jax.tasks.synthetic.library import (
    LibraryFunction,
    Row,
    Splits,
    empty_splits,
    hash_to_split,
)

# Exercises on lists of integers. Columns: words for the docstring, part of the name, Python source
# with n or {}, and the same as a function.
FILTERS: tuple[tuple[str, str, str, Callable[[int], Any]], ...] = (
    ('numbers', 'all', '', lambda _: True),
    ('even numbers', 'even', 'n % 2 == 0', lambda n: n % 2 == 0),
    ('odd numbers', 'odd', 'n % 2 == 1', lambda n: n % 2 == 1),
    ('positive numbers', 'positive', 'n > 0', lambda n: n > 0),
    ('negative numbers', 'negative', 'n < 0', lambda n: n < 0),
    ('numbers above ten', 'large', 'n > 10', lambda n: n > 10),
    ('multiples of three', 'threes', 'n % 3 == 0', lambda n: n % 3 == 0),
    ('numbers other than zero', 'nonzero', 'n != 0', lambda n: n != 0),
)
TRANSFORMS: tuple[tuple[str, str, str, Callable[[int], int]], ...] = (
    ('the {}', '', 'n', lambda n: n),
    ('the squares of the {}', 'squared', 'n * n', lambda n: n * n),
    ('twice the {}', 'doubled', '2 * n', lambda n: 2 * n),
    ('the {}, each plus one', 'next', 'n + 1', lambda n: n + 1),
    ('the {}, each with its sign turned', 'turned', '-n', lambda n: -n),
    ('the absolute values of the {}', 'absolute', 'abs(n)', abs),
    ('the last digits of the {}', 'digits', 'abs(n) % 10', lambda n: abs(n) % 10),
)
REDUCTIONS: tuple[tuple[str, str, str, Callable[[list[int]], Any]], ...] = (
    ('Return the sum of {}.', 'sum', 'sum({})', sum),
    (
        'Return how many different ones there are among {}.',
        'different',
        'len(set({}))',
        lambda numbers: len(set(numbers)),
    ),
    (
        'Return the largest of {}, or 0.',
        'largest',
        'max({}, default=0)',
        lambda numbers: max(numbers, default=0),
    ),
    (
        'Return the smallest of {}, or 0.',
        'smallest',
        'min({}, default=0)',
        lambda numbers: min(numbers, default=0),
    ),
    ('Return {} in order, the smallest first.', 'sorted', 'sorted({})', sorted),
    ('Return {} in reverse.', 'reversed', '({})[::-1]', lambda numbers: numbers[::-1]),
    (
        'Return the first of {}, or None.',
        'first',
        'next(iter({}), None)',
        lambda numbers: next(iter(numbers), None),
    ),
    (
        'Return whether there are more than two of {}.',
        'many',
        'len({}) > 2',
        lambda numbers: len(numbers) > 2,
    ),
    ('Return {} without the last one.', 'shortened', '({})[:-1]', lambda numbers: numbers[:-1]),
)
ASSERTS_PER_EXERCISE = 4

MAX_CHARACTERS = 500  # of a function with its docstring
PURE_MODULES = (  # without side effects
    'math',
    're',
    'string',
    'itertools',
    'functools',
    'operator',
    'collections',
    'bisect',
    'heapq',
    'textwrap',
)
UNSAFE_BUILTINS = (  # with side effects, or with values that differ between processes
    'open',
    'exec',
    'eval',
    'compile',
    'input',
    'print',
    '__import__',
    'breakpoint',
    'globals',
    'locals',
    'vars',
    'getattr',
    'setattr',
    'delattr',
    'hash',
    'id',
    'exit',
    'quit',
    'help',
    'memoryview',
)
IMPURE_NODES = (
    ast.Import,
    ast.ImportFrom,
    ast.Global,
    ast.Nonlocal,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
)
MAX_ARGUMENTS = 3
ANSWER_SECONDS = 20.0  # a checking process that takes longer to answer is killed


def make_code_rows(stdlib: Path) -> Splits:
    """Return rows with 'prompt', 'body', 'test', 'module', 'name' and 'origin'."""
    splits = empty_splits()
    testable: list[tuple[Row, LibraryFunction]] = []
    modules = {module.path: module for module in library.parse_modules(stdlib)}
    for function in library.list_functions(stdlib):
        prompt = function.head + library.format_docstring(function.doc)
        if len(prompt) + len(function.body) > MAX_CHARACTERS:
            continue
        imports = _find_imports(function, modules[function.path].bindings)
        row = {
            'prompt': (imports or '') + prompt,
            'body': function.body,
            'test': '',
            'module': function.module,
            'name': function.name,
            'origin': 'library',
        }
        splits[function.split].append(row)
        if imports is not None:
            testable.append((row, function))
    for (row, _), test in zip(testable, make_tests(testable), strict=True):
        row['test'] = test
    for name, row in make_exercises():
        splits[hash_to_split(name)].append(row | {'origin': 'exercise'})
    return splits


def make_exercises() -> list[tuple[str, Row]]:
    """Return names and rows with 'prompt', 'body', 'test', 'module' ('') and 'name'."""
    rows = []
    for reduction in REDUCTIONS:
        for transform in TRANSFORMS:
            for number_filter in FILTERS:
                parts = reduction[1], transform[1], number_filter[1]
                name = '_'.join(part for part in parts if part)
                rows.append((name, _make_exercise(name, number_filter, transform, reduction)))
    return rows


def _make_exercise(name: str, number_filter: Any, transform: Any, reduction: Any) -> Row:
    filter_words, _, condition, keep = number_filter
    transform_words, _, item, apply = transform
    reduction_words, _, expression, reduce = reduction
    doc = reduction_words.format(transform_words.format(filter_words))
    numbers = f'[{item} for n in numbers{" if " + condition if condition else ""}]'
    if numbers == '[n for n in numbers]':
        numbers = 'numbers'
    rng = random.Random(name)
    cases: list[list[int]] = [[]]
    for _ in range(ASSERTS_PER_EXERCISE - 1):
        cases.append([rng.randrange(-20, 30) for _ in range(rng.randrange(2, 8))])
    asserts = ''
    for case in cases:
        value = reduce([apply(n) for n in case if keep(n)])
        asserts += f'assert {name}({case!r}) == {value!r}\n'
    return {
        'prompt': f'def {name}(numbers):\n    """{doc}"""\n',
        'body': f'    return {expression.format(numbers)}\n',
        'test': asserts,
        'module': '',
        'name': name,
    }


def _find_imports(
    function: LibraryFunction, bindings: tuple[tuple[str, str, str], ...]
) -> str | None:
    """Return the import statements that let the function run on its own.

    Args:
      function: a function of the library.
      bindings: the module's imports: bound name, statement, module.

    Returns:
      The statements; None if the function needs more than imports, or may have side effects.
    """
    source = function.head + function.body
    if function.owner or not _count_arguments(source):
        return None
    if any(isinstance(node, IMPURE_NODES) for node in ast.walk(ast.parse(source))):
        return None
    table = symtable.symtable(source, '<function>', 'exec')
    names = set(_list_globals(table))
    names |= {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_referenced() and not symbol.is_assigned()
    }
    statements = {name: line for name, line, module in bindings if module in PURE_MODULES}
    missing = {
        name
        for name in names - {function.name}
        if name in UNSAFE_BUILTINS or not hasattr(builtins, name)
    }
    if missing - statements.keys():
        return None
    lines = ''.join(f'{line}\n' for line in sorted(statements[name] for name in missing))
    return f'{lines}\n' if lines else ''


def _list_globals(table: symtable.SymbolTable) -> Iterator[str]:
    for child in table.get_children():
        yield from (symbol.get_name() for symbol in child.get_symbols() if symbol.is_global())
        yield from _list_globals(child)


def _count_arguments(source: str) -> int:
    """Return the number of required arguments; 0 if there are too many, or keyword-only ones."""
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    required = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
    is_positional = None not in node.args.kw_defaults and required <= MAX_ARGUMENTS
    return required if is_positional else 0


def make_tests(testable: list[tuple[Row, LibraryFunction]]) -> list[str]:
    """Return the asserts of each function, or '' if there are too few.

    A function whose asserts differ between two of Python's hash seeds gets ''.
    """
    requests = []
    for row, function in testable:
        try:
            examples = doctest.DocTestParser().get_examples(function.doc)
        except ValueError:  # '>>>' prompts that are not valid doctests
            examples = []
        request = {
            'prompt': row['prompt'],
            'body': row['body'],
            'name': row['name'],
            'docs': [(example.source, example.want) for example in examples],
            'arity': _count_arguments(function.head + function.body),
        }
        requests.append(json.dumps(request))
    first, second = (_run_checks(requests, hash_seed) for hash_seed in ('0', '1'))
    return [test if test == other else '' for test, other in zip(first, second, strict=True)]


def _run_checks(requests: list[str], hash_seed: str) -> list[str]:
    """Send each request to a process of code_checks.py; replace a process that hangs or dies."""
    tests: list[str] = []
    while len(tests) < len(requests):
        child = subprocess.Popen(
            [sys.executable, '-I', str(Path(code_checks.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {'PYTHONHASHSEED': hash_seed},
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            for request in requests[len(tests) :]:
                answer = _exchange_line(child.stdin, child.stdout, request)
                tests.append(json.loads(answer)['test'] if answer else '')
                if not answer:
                    break
        finally:
            child.kill()
            child.communicate()
    return tests


def _exchange_line(stdin: IO[str], stdout: IO[str], line: str) -> str:
    """Write a line and read the answer; '' if there is none in time."""
    with contextlib.suppress(BrokenPipeError), selectors.DefaultSelector() as selector:
        stdin.write(f'{line}\n')
        stdin.flush()
        selector.register(stdout, selectors.EVENT_READ)
        if selector.select(ANSWER_SECONDS):
            return stdout.readline()
    return ''
