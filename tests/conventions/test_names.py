"""Names and heads of modules: unique, and noun phrases."""

import ast
import collections
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / 'gpt_jax').glob('**/*.py'))
# Parallels, where the same name says the same thing: a command and the module that does its work.
PARALLEL = {'__init__', '__main__', 'forecast', 'launch', 'report'}


def test_module_names_are_unique():
    counts = collections.Counter(path.stem for path in MODULES)
    assert not {name for name, count in counts.items() if count > 1} - PARALLEL


def test_public_class_names_are_unique():
    counts = collections.Counter(
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_')
    )
    assert not [name for name, count in counts.items() if count > 1]


def test_module_heads_are_statements():
    for path in MODULES:
        head = (ast.get_docstring(ast.parse(path.read_text())) or '').split('\n')[0]
        assert '?' not in head, path
        assert head or path.name == '__init__.py', path
