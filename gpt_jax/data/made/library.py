"""Which documented functions and classes has Python's standard library? Read from its sources; nothing is imported."""

import ast
import functools
import io
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpt_jax.data.stdlib_files import documents, split_of

TOPICS = 'pydoc_data/topics.py'


class Function(NamedTuple):
    """A documented function or method.

    head: what stands before its docstring, decorators left out; begins at the left margin, as does the rest.
    doc: the docstring without its indentation. body: what stands behind the docstring, indented by four spaces.
    owner: the name of its class; '' for a function of a module.
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


class Module(NamedTuple):
    """A module: its docstring, the names of what it defines and imports, and its documented functions."""

    path: str
    name: str
    doc: str
    classes: tuple[tuple[str, str], ...]  # each with its docstring
    functions: tuple[Function, ...]
    defined: tuple[str, ...]  # names of all functions, documented or not
    imported: tuple[str, ...]
    bound: tuple[tuple[str, str, str], ...]  # by imports outside functions: name, statement, module
    split: str


@functools.cache
def modules(root: Path) -> tuple[Module, ...]:
    """The library's modules that Python can parse, in the order of their paths."""
    found = []
    for path, text in documents(root)[0]:
        if path == TOPICS:
            continue
        try:
            with warnings.catch_warnings(action='ignore'):  # of what a later Python will no longer take
                tree = ast.parse(text)
        except (SyntaxError, ValueError):  # of templates that are no Python yet
            continue
        found.append(_module(path, text, tree))
    return tuple(found)


def _module(path: str, text: str, tree: ast.Module) -> Module:
    name = path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    lines = io.StringIO(text).readlines()  # as the parser counts them; splitlines would end one at a form feed too
    nodes = list(ast.walk(tree))
    functions = tuple(_functions(path, name, lines, tree))
    classes = [(node.name, ast.get_docstring(node) or '') for node in nodes if isinstance(node, ast.ClassDef)]
    defined = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return Module(path, name, ast.get_docstring(tree) or '', tuple(classes), functions, tuple(dict.fromkeys(defined)),
                  tuple(dict.fromkeys(imported)), tuple(_bound(tree)), split_of(path))  # fmt: skip


def _bound(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            for one in node.names:
                yield one.asname or one.name.partition('.')[0], ast.unparse(ast.Import([one])), one.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                yield one.asname or one.name, ast.unparse(ast.ImportFrom(node.module, [one], 0)), node.module


def _functions(path: str, module: str, lines: list[str], tree: ast.Module) -> Iterator[Function]:
    owners: list[tuple[str, ast.Module | ast.ClassDef]] = [('', tree)]
    owners += [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner, holder in owners:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)) and len(node.body) > 1:
                text = node.body[0]
                assert text.end_lineno is not None  # in a tree that was parsed
                assert node.end_lineno is not None
                if text.lineno == node.lineno or node.body[1].lineno == text.end_lineno:
                    continue  # all on one line
                head = textwrap.dedent(''.join(lines[node.lineno - 1 : text.lineno - 1])).rstrip() + '\n'
                body = textwrap.dedent(''.join(lines[text.end_lineno : node.end_lineno])).strip('\n')
                body = textwrap.indent(body, '    ') + '\n'
                if not _same(head + body, node):
                    continue
                arguments = tuple(one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
                yield Function(path, module, owner, node.name, arguments, head, doc, body, split_of(path))


def _same(source: str, node: ast.FunctionDef) -> bool:
    """Whether the text means what the function did: indented anew, a text of several lines inside it may be another."""
    if not any(mark in source for mark in ("'''", '"""', '\\\n')):
        return True
    try:
        made = ast.parse(source).body[0]
    except SyntaxError:
        return False
    statements = made.body if isinstance(made, ast.FunctionDef) else []
    return [ast.dump(one) for one in statements] == [ast.dump(one) for one in node.body[1:]]


def functions(root: Path) -> list[Function]:
    """All documented functions and methods; of several with the same docstring and body the first alone."""
    seen: set[tuple[str, str]] = set()
    found = []
    for module in modules(root):
        for function in module.functions:
            if (function.doc, function.body) not in seen:
                seen.add((function.doc, function.body))
                found.append(function)
    return found


def topics(root: Path) -> dict[str, str]:
    """The sections of Python's own documentation that `help()` shows, by name; empty where this Python has none."""
    path = root / TOPICS
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_text('utf-8')).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return dict(ast.literal_eval(node.value))
    return {}


def docstring(doc: str) -> str:
    """A docstring as it stands in a function's source, indented by four spaces."""
    escaped = doc.replace('\\', '\\\\').replace('"""', '\\"\\"\\"')
    quoted = f'"""{escaped}"""' if '\n' not in escaped else f'"""{escaped}\n"""'
    return textwrap.indent(quoted, '    ', lambda line: bool(line.strip())) + '\n'


def first_sentence(doc: str) -> str:
    """The first paragraph of a docstring up to the end of its first sentence, on one line."""
    paragraph = ' '.join(doc.split('\n\n')[0].split())
    end = paragraph.find('. ')
    return paragraph if end < 0 else paragraph[: end + 1]
