"""Do collectives take the seconds of their bytes over the links that there are?"""

import itertools

import pytest

from gpt_jax.compiled.collectives import Collective
from gpt_jax.preflight.chips import CHIPS
from gpt_jax.preflight.links import HOP, seconds, wraps

CUBE = list(itertools.product(range(4), range(4), range(4)))
SQUARE = list(itertools.product(range(4), range(4)))


def sent(kind, groups, wire, size=0):
    return Collective(
        'c', 'main', kind, size or wire, wire, len(groups[0]), tuple(map(tuple, groups)), 1, '', 'f32', False
    )


def test_rings_close_in_whole_cubes_and_at_sixteen():
    assert wraps((4, 4, 8)) == [True] * 3
    assert wraps((2, 2, 4)) == [False] * 3
    assert wraps((8, 16)) == [False, True]


@pytest.mark.parametrize(
    ('group', 'links', 'hops'),
    [
        (range(64), 6, 6),  # the whole cube: both directions of three rings
        (range(4), 2, 2),  # one ring
        (range(2), 1, 1),  # half of one
        (range(16), 4, 4),
    ],
)
def test_a_cube_sends_over_all_of_its_rings(group, links, hops):
    chip = CHIPS['v5p']
    expected = 6e9 / (links * chip.link) + hops * HOP
    assert seconds(sent('all-gather', [group], 6e9), chip, CUBE) == pytest.approx(expected)


def test_a_flat_slice_without_rings_has_lines():
    chip = CHIPS['v5e']
    assert seconds(sent('all-reduce', [range(16)], 1e9), chip, SQUARE) == pytest.approx(1e9 / (2 * chip.link) + 6 * HOP)


def test_a_permutation_pays_for_its_way():
    chip = CHIPS['v5p']
    near, far = (seconds(sent('collective-permute', [(0, to)], 1e9), chip, CUBE) for to in (1, 2))
    assert far == pytest.approx(2 * near)


def test_gpus_are_slower_beyond_their_host():
    chip = CHIPS['h100']
    inside, beyond = (seconds(sent('all-reduce', [range(n)], 1e9), chip, []) for n in (8, 16))
    assert beyond > 8 * inside


def test_a_group_of_one_takes_nothing():
    assert seconds(sent('all-reduce', [range(1)], 0), CHIPS['v5p'], CUBE) == 0
