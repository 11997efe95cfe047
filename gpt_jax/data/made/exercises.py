"""How are short functions written that a test can run? Lists of whole numbers are sifted, changed and gathered up.

Each is a docstring, a body and asserts, put together from three tables: which numbers count, what is done to each, what
is made of them all. So a model can learn all of the parts from some of the functions and be tested on others.

What it is not: programming as people do it. There are as many as the tables' entries multiplied, and no more.
"""

import random
from collections.abc import Callable
from typing import Any

from gpt_jax.data.made.splits import Row

# words, name, expression in n, and the same as a function
SIFTED: tuple[tuple[str, str, str, Callable[[int], Any]], ...] = (
    ('numbers', 'all', '', lambda _: True),
    ('even numbers', 'even', 'n % 2 == 0', lambda n: n % 2 == 0),
    ('odd numbers', 'odd', 'n % 2 == 1', lambda n: n % 2 == 1),
    ('positive numbers', 'positive', 'n > 0', lambda n: n > 0),
    ('negative numbers', 'negative', 'n < 0', lambda n: n < 0),
    ('numbers above ten', 'large', 'n > 10', lambda n: n > 10),
    ('multiples of three', 'threes', 'n % 3 == 0', lambda n: n % 3 == 0),
    ('numbers other than zero', 'nonzero', 'n != 0', lambda n: n != 0),
)
CHANGED: tuple[tuple[str, str, str, Callable[[int], int]], ...] = (
    ('the {}', '', 'n', lambda n: n),
    ('the squares of the {}', 'squared', 'n * n', lambda n: n * n),
    ('twice the {}', 'doubled', '2 * n', lambda n: 2 * n),
    ('the {}, each plus one', 'next', 'n + 1', lambda n: n + 1),
    ('the {}, each with its sign turned', 'turned', '-n', lambda n: -n),
    ('the absolute values of the {}', 'absolute', 'abs(n)', abs),
    ('the last digits of the {}', 'digits', 'abs(n) % 10', lambda n: abs(n) % 10),
)
GATHERED: tuple[tuple[str, str, str, Callable[[list[int]], Any]], ...] = (
    ('Return the sum of {}.', 'sum', 'sum({})', sum),
    ('Return how many different ones there are among {}.', 'different', 'len(set({}))', lambda some: len(set(some))),
    ('Return the largest of {}, or 0.', 'largest', 'max({}, default=0)', lambda some: max(some, default=0)),
    ('Return the smallest of {}, or 0.', 'smallest', 'min({}, default=0)', lambda some: min(some, default=0)),
    ('Return {} in order, the smallest first.', 'sorted', 'sorted({})', sorted),
    ('Return {} in reverse.', 'reversed', '({})[::-1]', lambda some: some[::-1]),
    ('Return the first of {}, or None.', 'first', 'next(iter({}), None)', lambda some: next(iter(some), None)),
    ('Return whether there are more than two of {}.', 'many', 'len({}) > 2', lambda some: len(some) > 2),
    ('Return {} without the last one.', 'shortened', '({})[:-1]', lambda some: some[:-1]),
)
CHECKS = 4


def exercises() -> list[tuple[str, Row]]:
    """Rows with 'prompt' (a docstring's end), 'body', 'test', 'module' ('') and 'name', each with its key."""
    made = []
    for gathered in GATHERED:
        for changed in CHANGED:
            for sifted in SIFTED:
                name = '_'.join(part for part in (gathered[1], changed[1], sifted[1]) if part)
                made.append((name, _exercise(name, sifted, changed, gathered)))
    return made


def _exercise(name: str, sifted: Any, changed: Any, gathered: Any) -> Row:
    doc = gathered[0].format(changed[0].format(sifted[0]))
    inner = f'[{changed[2]} for n in numbers{" if " + sifted[2] if sifted[2] else ""}]'
    expression = gathered[2].format('numbers' if inner == '[n for n in numbers]' else inner)
    draw = random.Random(name)
    cases = [[], *([draw.randrange(-20, 30) for _ in range(draw.randrange(2, 8))] for _ in range(CHECKS - 1))]
    asserts = []
    for case in cases:
        value = gathered[3]([changed[3](n) for n in case if sifted[3](n)])
        asserts.append(f'assert {name}({case!r}) == {value!r}\n')
    return {'prompt': f'def {name}(numbers):\n    """{doc}"""\n', 'body': f'    return {expression}\n',
            'test': ''.join(asserts), 'module': '', 'name': name}  # fmt: skip
