"""How does the function go on? Real functions of Python's library by their first line and docstring, and exercises.

'prompt' is what stands before the body (with the imports that it wants), 'body' is what was written. 'test' holds
asserts which that body passes, made of the docstring's doctests and of calls with plain values, where the function
needs nothing but built-ins and plain modules (PLAIN); else it is ''. For some of the rows to be within a small model's
reach, there are exercises beside (made/exercises.py), all with a test; 'origin' says 'library' or 'exercise'.

What it is not: HumanEval. Most docstrings do not say all that the body does, and the tests are what the body gave, not
what somebody wanted. A module is in one split as a whole, by the hash of its path; exercises by their names.
"""

import ast
import builtins
import contextlib
import doctest
import json
import os
import selectors
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gpt_jax.data.made import checks, library
from gpt_jax.data.made.exercises import exercises
from gpt_jax.data.made.library import Function
from gpt_jax.data.made.splits import Row, Splits, empty, split_of

LONGEST = 500  # characters of a function
# Modules that change nothing outside; and built-ins that do, or whose value is another at every start.
PLAIN = ('math', 're', 'string', 'itertools', 'functools', 'operator', 'collections', 'bisect', 'heapq', 'textwrap')
UNSAFE = ('open', 'exec', 'eval', 'compile', 'input', 'print', '__import__', 'breakpoint', 'globals', 'locals', 'vars',
          'getattr', 'setattr', 'delattr', 'hash', 'id', 'exit', 'quit', 'help', 'memoryview')  # fmt: skip
OUTSIDE = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Await)
PATIENCE = 20.0  # seconds without an answer after which a child is given up
MOST_ARGUMENTS = 3


def rows(stdlib: Path) -> Splits:
    """Rows with 'prompt', 'body', 'test', 'module', 'name' and 'origin'."""
    made, wanted = empty(), []
    modules = {module.path: module for module in library.modules(stdlib)}
    for function in library.functions(stdlib):
        prompt = function.head + library.docstring(function.doc)
        if len(prompt) + len(function.body) > LONGEST:
            continue
        imports = _imports(function, modules[function.path].bound)
        row = {'prompt': (imports or '') + prompt, 'body': function.body, 'test': '', 'module': function.module,
               'name': function.name, 'origin': 'library'}  # fmt: skip
        made[function.split].append(row)
        if imports is not None:
            wanted.append((row, function))
    for (row, _), test in zip(wanted, tests(wanted), strict=True):
        row['test'] = test
    for key, row in exercises():
        made[split_of(key)].append(row | {'origin': 'exercise'})
    return made


def _imports(function: Function, bound: tuple[tuple[str, str, str], ...]) -> str | None:
    """The imports that the function wants to stand alone; None: it wants more, or could touch what is outside it."""
    source = function.head + function.body
    if function.owner or not _arity(source) or any(isinstance(node, OUTSIDE) for node in ast.walk(ast.parse(source))):
        return None
    table = symtable.symtable(source, '<function>', 'exec')
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and not symbol.is_assigned()}
    names |= set(_globals(table))
    plain = {name: statement for name, statement, module in bound if module in PLAIN}
    missing = {name for name in names - {function.name} if name in UNSAFE or not hasattr(builtins, name)}
    if missing - plain.keys():
        return None
    lines = ''.join(f'{line}\n' for line in sorted(plain[name] for name in missing))
    return f'{lines}\n' if lines else ''


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    for child in table.get_children():
        yield from (symbol.get_name() for symbol in child.get_symbols() if symbol.is_global())
        yield from _globals(child)


def _arity(source: str) -> int:
    """How many arguments a call must give; 0 where that is none, too many or not positions alone."""
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    named = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
    good = None not in node.args.kw_defaults and named <= MOST_ARGUMENTS
    return named if good else 0


def tests(wanted: list[tuple[Row, Function]]) -> list[str]:
    """The asserts of each function ('' for too few), the same under two seeds of Python's hashes."""
    asked = []
    for row, function in wanted:
        try:
            examples = doctest.DocTestParser().get_examples(function.doc)
        except ValueError:  # prompts that are no doctest
            examples = []
        docs = [(example.source, example.want) for example in examples]
        about = {'prompt': row['prompt'], 'body': row['body'], 'name': row['name'], 'docs': docs}
        asked.append(about | {'arity': _arity(function.head + function.body)})
    first, second = (_answers([json.dumps(about) for about in asked], seed) for seed in ('0', '1'))
    return [one if one == other else '' for one, other in zip(first, second, strict=True)]


def _answers(lines: list[str], seed: str) -> list[str]:
    """What children that run checks.py say to each line; after one that hangs or dies, another takes the next."""
    found: list[str] = []
    while len(found) < len(lines):
        command = [sys.executable, '-I', str(Path(checks.__file__))]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 env=os.environ | {'PYTHONHASHSEED': seed}, text=True)  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            for line in lines[len(found) :]:
                answer = _asked(child.stdin, child.stdout, line)
                found.append(json.loads(answer)['test'] if answer else '')
                if not answer:
                    break
        finally:
            child.kill()
            child.communicate()
    return found


def _asked(stdin: IO[str], stdout: IO[str], line: str) -> str:
    """The answer's line; '' where none comes."""
    with contextlib.suppress(BrokenPipeError), selectors.DefaultSelector() as selector:
        stdin.write(f'{line}\n')
        stdin.flush()
        selector.register(stdout, selectors.EVENT_READ)
        if selector.select(PATIENCE):
            return stdout.readline()
    return ''
