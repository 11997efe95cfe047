"""Generated tests of functions: they pass for the function only; unsafe functions do not run."""

import pytest

from gpt_jax.tasks.synthetic import code, code_checks
from gpt_jax.tasks.synthetic.code import make_exercises

LIBRARY = '''import os
import math
import re as _re

def good(text, upper=False):
    """Say it.

    >>> good('abc')
    'cba'
    >>> good('')
    'wrong'
    """
    return text[::-1]

def counted(a, b):
    """Use a plain module."""
    return [math.gcd(a, b), _re.sub('a', 'b', str(a))]

def harm(name):
    """Open a file."""
    return open(name, 'w').write('harm')

def hidden(name):
    """Import inside."""
    import os
    return os.remove(name)

def outside(name):
    """Use what is imported."""
    return os.listdir(name)

def endless(n):
    """Never end."""
    while n != 12345:
        pass
    return n

def huge(n):
    """Take all memory."""
    return len(str(9 ** (9 ** (9 ** (n + 2)))))

def ordered(text):
    """Depend on the seed of hashes."""
    return list(set(text))

def helped(n):
    """Want another function."""
    return good(n)

def last(n):
    """Come after the endless one."""
    return n * 2
'''


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp('library')
    (root / 'egg.py').write_text(LIBRARY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, 'ANSWER_SECONDS', 2.0)
        splits = code.make_code_rows(root)
    return {row['name']: row for rows in splits.values() for row in rows}


def passes(row, body):
    try:
        exec(f'{row["prompt"]}{body}\n{row["test"]}', {})
    except Exception:
        return False
    return True


def test_pure_functions_have_tests(rows):
    assert "assert good('abc') == 'cba'\n" in rows['good']['test']  # its correct doctest
    assert 'wrong' not in rows['good']['test']
    imports = 'import math\nimport re as _re\n\n'
    assert rows['counted']['prompt'].startswith(f'{imports}def counted(a, b):\n    """Use')
    for name in ('good', 'counted', 'last'):
        assert rows[name]['test'].count('assert ') >= code_checks.MIN_ASSERTS
        assert passes(rows[name], rows[name]['body'])
        assert not passes(rows[name], '    return None\n')


@pytest.mark.parametrize(
    'name', ['harm', 'hidden', 'outside', 'endless', 'huge', 'ordered', 'helped']
)
def test_other_functions_have_no_tests(rows, name):
    assert rows[name]['test'] == ''
    assert rows[name]['origin'] == 'library'


def test_exercises_pass_their_tests():
    exercises = [row for _, row in make_exercises()]
    assert len({row['name'] for row in exercises}) == len(exercises) == 9 * 7 * 8
    assert all(passes(row, row['body']) for row in exercises)
    wrong = ('    return numbers\n', '    return 0\n', '    return sum(numbers)\n')
    assert sum(passes(row, body) for row in exercises for body in wrong) < len(exercises) // 10
    (example,) = [row for row in exercises if row['name'] == 'sum_squared_even']
    assert example['prompt'] == (
        'def sum_squared_even(numbers):\n'
        '    """Return the sum of the squares of the even numbers."""\n'
    )
