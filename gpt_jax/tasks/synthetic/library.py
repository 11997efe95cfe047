"""Documented functions and classes of Python's standard library, parsed from its sources.

Nothing is imported or run.
"""

import ast
import functools
import hashlib
import io
import random
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.data.stdlib import assign_split, read_documents

Row = dict[str, Any]
Splits = dict[str, list[Row]]  # rows of 'train', 'validation' and 'test'

SPLIT_OF_TENTH = {0: 'validation', 1: 'test'}  # two of ten parts; the other eight are train


def hash_to_split(key: str) -> str:
    """Return 'train' (about 80% of keys), 'validation' or 'test' (10% each), by the key's hash."""
    number = int.from_bytes(hashlib.sha256(key.encode('utf-8')).digest()[:8])
    return SPLIT_OF_TENTH.get(number % 10, 'train')


def empty_splits() -> Splits:
    """Return splits without rows."""
    return {'train': [], 'validation': [], 'test': []}


def draw_rows(
    draw_row: Callable[[random.Random], tuple[str, Row]], count: int, seed: int
) -> Splits:
    """Draw rows with distinct keys.

    Args:
      draw_row: draws a key and a row; rows with a repeated key are dropped.
      count: number of rows.
      seed: seed of the random numbers.

    Returns:
      `count` rows, or fewer if 20 draws per row do not give enough distinct keys.
    """
    rng, keys, splits = random.Random(seed), set[str](), empty_splits()
    for _ in range(20 * count):
        key, row = draw_row(rng)
        if key not in keys:
            keys.add(key)
            splits[hash_to_split(key)].append(row)
        if len(keys) == count:
            break
    return splits


TOPICS_FILE = 'pydoc_data/topics.py'


class LibraryFunction(NamedTuple):
    """A documented function or method.

    Attributes:
      path: path of its file, relative to the library.
      module: dotted name of its module.
      owner: name of its class; '' for a module-level function.
      name: name of the function.
      arguments: names of its arguments.
      head: the source before the docstring, without decorators and dedented to the left margin.
      doc: the docstring without its indentation.
      body: the source after the docstring, indented by four spaces.
      split: split of its module: 'train', 'validation' or 'test'.
    """

    path: str
    module: str
    owner: str
    name: str
    arguments: tuple[str, ...]
    head: str
    doc: str
    body: str
    split: str


class LibraryModule(NamedTuple):
    """A module with its documented functions.

    Attributes:
      path: path of its file, relative to the library.
      name: its dotted name.
      doc: its docstring, or ''.
      classes: names and docstrings of its classes.
      functions: its documented functions.
      defined: names of all its functions, documented or not.
      imported: names of the modules that it imports.
      bindings: its top-level imports: bound name, statement, module.
      split: 'train', 'validation' or 'test'.
    """

    path: str
    name: str
    doc: str
    classes: tuple[tuple[str, str], ...]
    functions: tuple[LibraryFunction, ...]
    defined: tuple[str, ...]
    imported: tuple[str, ...]
    bindings: tuple[tuple[str, str, str], ...]
    split: str


@functools.cache
def parse_modules(root: Path) -> tuple[LibraryModule, ...]:
    """Return the library's modules that Python can parse, ordered by path."""
    modules = []
    for path, text in read_documents(root)[0]:
        if path == TOPICS_FILE:
            continue
        try:
            with warnings.catch_warnings(action='ignore'):  # about deprecated syntax
                tree = ast.parse(text)
        except (SyntaxError, ValueError):  # templates are not Python until they are filled in
            continue
        modules.append(_parse_module(path, text, tree))
    return tuple(modules)


def _parse_module(path: str, text: str, tree: ast.Module) -> LibraryModule:
    name = path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    # Lines as the parser counts them; str.splitlines would also split at a form feed.
    lines = io.StringIO(text).readlines()
    classes, defined, imported, imported_from = [], [], [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            classes.append((node.name, ast.get_docstring(node) or ''))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined.append(node.name)
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported_from.append(node.module)
    return LibraryModule(
        path=path,
        name=name,
        doc=ast.get_docstring(tree) or '',
        classes=tuple(classes),
        functions=tuple(_parse_functions(path, name, lines, tree)),
        defined=tuple(dict.fromkeys(defined)),
        imported=tuple(dict.fromkeys([*imported, *imported_from])),
        bindings=tuple(_list_bindings(tree)),
        split=assign_split(path),
    )


def _list_bindings(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition('.')[0]
                yield name, ast.unparse(ast.Import([alias])), alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                statement = ast.unparse(ast.ImportFrom(node.module, [alias], 0))
                yield alias.asname or alias.name, statement, node.module


def _parse_functions(
    path: str, module: str, lines: list[str], tree: ast.Module
) -> Iterator[LibraryFunction]:
    owners: list[tuple[str, ast.Module | ast.ClassDef]] = [('', tree)]
    owners += [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner, holder in owners:
        for node in holder.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            doc = ast.get_docstring(node)
            source = _split_source(node, lines) if doc and len(node.body) > 1 else None
            if doc and source:
                arguments = node.args.posonlyargs, node.args.args, node.args.kwonlyargs
                yield LibraryFunction(
                    path=path,
                    module=module,
                    owner=owner,
                    name=node.name,
                    arguments=tuple(argument.arg for group in arguments for argument in group),
                    head=source[0],
                    doc=doc,
                    body=source[1],
                    split=assign_split(path),
                )


def _split_source(node: ast.FunctionDef, lines: list[str]) -> tuple[str, str] | None:
    """Return the source before and after the docstring; None if it cannot be split by lines."""
    docstring = node.body[0]
    assert docstring.end_lineno is not None  # true of a parsed tree
    assert node.end_lineno is not None
    if docstring.lineno == node.lineno or node.body[1].lineno == docstring.end_lineno:
        return None  # all on one line
    head = textwrap.dedent(''.join(lines[node.lineno - 1 : docstring.lineno - 1])).rstrip() + '\n'
    body = textwrap.dedent(''.join(lines[docstring.end_lineno : node.end_lineno])).strip('\n')
    body = textwrap.indent(body, '    ') + '\n'
    return (head, body) if _has_same_body(head + body, node) else None


def _has_same_body(source: str, node: ast.FunctionDef) -> bool:
    """Return whether the reindented source still has the function's body.

    Reindenting changes multi-line strings.
    """
    if not any(mark in source for mark in ("'''", '"""', '\\\n')):
        return True
    try:
        parsed = ast.parse(source).body[0]
    except SyntaxError:
        return False
    statements = parsed.body if isinstance(parsed, ast.FunctionDef) else []
    return [ast.dump(item) for item in statements] == [ast.dump(item) for item in node.body[1:]]


def list_functions(root: Path) -> list[LibraryFunction]:
    """Return all documented functions; of those with equal docstring and body, only the first."""
    functions: dict[tuple[str, str], LibraryFunction] = {}
    for module in parse_modules(root):
        for function in module.functions:
            functions.setdefault((function.doc, function.body), function)
    return list(functions.values())


def read_help_topics(root: Path) -> dict[str, str]:
    """Return the documentation sections that `help()` shows, by name; empty if there are none."""
    path = root / TOPICS_FILE
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_text('utf-8')).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return dict(ast.literal_eval(node.value))
    return {}


def format_docstring(doc: str) -> str:
    """Return a docstring as it would be in a function's source, indented by four spaces."""
    escaped = doc.replace('\\', '\\\\').replace('"""', '\\"\\"\\"')
    quoted = f'"""{escaped}"""' if '\n' not in escaped else f'"""{escaped}\n"""'
    return textwrap.indent(quoted, '    ', lambda line: bool(line.strip())) + '\n'


def extract_first_sentence(doc: str) -> str:
    """Return the first paragraph of a docstring up to its first full stop, on one line."""
    paragraph = ' '.join(doc.split('\n\n')[0].split())
    end = paragraph.find('. ')
    return paragraph if end < 0 else paragraph[: end + 1]
