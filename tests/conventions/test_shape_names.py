"""Tensor names agree with their einsum terms, in the letters of the legend."""

import ast
import re
from pathlib import Path

from gpt_jax.model.weights import SHAPE_LETTERS

ROOT = Path(__file__).parents[2]


def calls():
    """Yields (place, terms, operands, name of the result or None) of every einsum."""
    for path in sorted((ROOT / 'gpt_jax').glob('**/*.py')):
        tree = ast.parse(path.read_text())
        results = {
            id(node.value): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            name = (
                getattr(node.func, 'attr', getattr(node.func, 'id', ''))
                if isinstance(node, ast.Call)
                else ''
            )
            if name in ('einsum', 'einsum_float32') and isinstance(node.args[0], ast.Constant):
                yield (
                    f'{path.name}:{node.lineno}',
                    node.args[0].value,
                    node.args[1:],
                    results.get(id(node)),
                )


def suffix(node: ast.AST) -> str | None:
    """Returns the letters of a tensor's name, also under a cast or a slice."""
    if isinstance(node, ast.Subscript):
        return suffix(node.value)
    if isinstance(node, ast.Name):
        match = re.search(r'_([A-Z]+)$', node.id)
        return match[1] if match else None
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == 'astype'
    ):
        return suffix(node.func.value)
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'param':
        return node.args[1].value
    return None


def test_einsum_terms_are_the_tensors_names():
    found = list(calls())
    assert len(found) >= 8
    for place, terms, operands, result in found:
        inputs, output = terms.split('->')
        for term, node in zip(inputs.split(','), operands, strict=False):
            assert suffix(node) == term, f'{place}: {ast.unparse(node)} in {terms}'
        if result is not None:
            assert result.rsplit('_', 1)[1] == output, f'{place}: {result} = {terms}'


def test_every_letter_is_in_the_legend():
    for path in sorted((ROOT / 'gpt_jax').glob('**/*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            name = (
                node.id
                if isinstance(node, ast.Name)
                else node.arg
                if isinstance(node, ast.arg)
                else ''
            )
            match = re.fullmatch(r'[a-z]\w*_([A-Z]+)', name)
            if match:
                assert set(match[1]) <= set(SHAPE_LETTERS), f'{path.name}:{node.lineno}: {name}'
