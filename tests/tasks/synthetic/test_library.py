"""Parsing of the standard library: modules, functions, docstrings, help topics."""

import ast
import inspect

from gpt_jax.tasks.synthetic import library

SOURCE = '''"""A module. It does little."""
import math
from os import path as way

@property
def first(a, *, b=2):
    r"""Say \\d. And more.

      Indented.
    Then.
    """
    # a comment
    return a

class Egg:
    def second(self): return 1

    def third(self,
              x):
        """Third."""

        def inner():
            return "\f"
        return inner

def long():
    """Hold a text of several lines."""
    return \'\'\'
  which begins further left\'\'\'

def fourth():
    """Nothing but this."""

def fifth(): """On one line."""; return 5
'''


def parse(tmp_path):
    (tmp_path / 'egg.py').write_text(SOURCE)
    (module,) = library.parse_modules(tmp_path)
    return module


def test_parsed_module(tmp_path):
    module = parse(tmp_path)
    assert (module.name, module.doc) == ('egg', 'A module. It does little.')
    assert module.classes == (('Egg', ''),)
    assert module.defined == ('first', 'long', 'fourth', 'fifth', 'second', 'third', 'inner')
    assert module.imported == ('math', 'os')
    assert module.bindings == (
        ('math', 'import math', 'math'),
        ('way', 'from os import path as way', 'os'),
    )


def test_parsed_functions(tmp_path):
    first, third = parse(tmp_path).functions
    assert (first.name, first.owner, first.arguments) == ('first', '', ('a', 'b'))
    assert first.head == 'def first(a, *, b=2):\n'
    assert first.doc == 'Say \\d. And more.\n\n  Indented.\nThen.'
    assert first.body == '    # a comment\n    return a\n'
    assert (third.name, third.owner, third.arguments) == ('third', 'Egg', ('self', 'x'))
    assert third.head == 'def third(self,\n          x):\n'


def test_parts_of_a_function_reassemble_to_it(small_stdlib):
    count = 0
    for module in library.parse_modules(small_stdlib):
        tree = ast.parse((small_stdlib / module.path).read_text('utf-8'))
        nodes = [(node.name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
        real = {
            (owner, node.name, node.lineno): node
            for owner, holder in [('', tree), *nodes]
            for node in holder.body
            if isinstance(node, ast.FunctionDef)
        }
        expected = {(owner, name, _dump(node)) for (owner, name, _), node in real.items()}
        for function in module.functions:
            source = function.head + library.format_docstring(function.doc) + function.body
            (node,) = ast.parse(source).body
            assert (function.owner, function.name, _dump(node)) in expected
            count += 1
    assert count > 500


def _dump(node):
    """Dumps a function without its decorators and its docstring's indentation."""
    node.decorator_list = []
    text = node.body[0].value if isinstance(node.body[0], ast.Expr) else None
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        text.value = inspect.cleandoc(text.value).strip()
    return ast.dump(node)


def test_first_sentence():
    assert library.extract_first_sentence('Say\n  it. Then\nmore.\n\nAnd on.') == 'Say it.'
    assert library.extract_first_sentence('Say e.g.this\n\nmore. x') == 'Say e.g.this'


def test_help_topics(small_stdlib, stdlib_root):
    topics = library.read_help_topics(small_stdlib)
    assert topics['assert'].startswith('The "assert" statement')
    assert library.read_help_topics(stdlib_root) == {}
