"""Do the tests of functions hold for them and not for others, and is nothing run that could do harm?"""

import pytest

from gpt_jax.data.made import checks, code
from gpt_jax.data.made.exercises import exercises

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
    root = tmp_path_factory.mktemp('harm')
    (root / 'egg.py').write_text(LIBRARY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, 'PATIENCE', 2.0)
        made = code.rows(root)
    return {row['name']: row for split in made.values() for row in split}


def passes(row, body):
    space = {}
    try:
        exec(f'{row["prompt"]}{body}\n{row["test"]}', space)
    except Exception:
        return False
    return True


def test_plain_functions_have_tests(rows):
    assert "assert good('abc') == 'cba'\n" in rows['good']['test']  # its own doctest, where it is right
    assert 'wrong' not in rows['good']['test']
    assert rows['counted']['prompt'].startswith('import math\nimport re as _re\n\ndef counted(a, b):\n    """Use')
    for name in ('good', 'counted', 'last'):
        assert rows[name]['test'].count('assert ') >= checks.FEWEST
        assert passes(rows[name], rows[name]['body'])
        assert not passes(rows[name], '    return None\n')


@pytest.mark.parametrize('name', ['harm', 'hidden', 'outside', 'endless', 'huge', 'ordered', 'helped'])
def test_others_have_none(rows, name):
    assert rows[name]['test'] == ''
    assert rows[name]['origin'] == 'library'


def test_exercises_pass_their_tests():
    found = [row for _, row in exercises()]
    assert len({row['name'] for row in found}) == len(found) == 9 * 7 * 8
    assert all(passes(row, row['body']) for row in found)
    wrong = ('    return numbers\n', '    return 0\n', '    return sum(numbers)\n')
    assert sum(passes(row, body) for row in found for body in wrong) < len(found) // 10
    assert next(row for row in found if row['name'] == 'sum_squared_even')['prompt'] == (
        'def sum_squared_even(numbers):\n    """Return the sum of the squares of the even numbers."""\n'
    )
