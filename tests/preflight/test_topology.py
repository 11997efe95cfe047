"""Is every word for a machine understood, and every other refused with one that is near?"""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.preflight.chips import CHIPS
from gpt_jax.preflight.topology import SLICES, machine


@pytest.mark.parametrize(
    ('word', 'name', 'chips'),
    [
        ('v5p:8x8x16', 'v5p:8x8x16', 1024),
        ('v5e-16', 'v5e:4x4', 16),
        ('v5litepod-256', None, 0),
        ('v6e-256', 'v6e:16x16', 256),
        ('v5p-512', 'v5p:4x8x8', 256),  # cores, two a chip
        ('V5E:2x4', 'v5e:2x4', 8),
        ('h100:8', 'h100:8', 8),
    ],
)
def test_words(word, name, chips):
    if name is None:
        with pytest.raises(UserError, match='v5'):
            machine(word)
        return
    one = machine(word)
    assert (one.name, one.chips) == (name, chips)


@pytest.mark.parametrize(
    ('word', 'near'),
    [
        ('v5x:4x4', 'v5'), ('v5p:4x4', 'v5p:2x2x4'), ('v5e-24', 'v5e:4x4'), ('v5e:4x4x4', 'v5e:8x8'),
        ('b300:8', 'h100:8'), ('h100:2x4', 'h100:8'), ('', 'v5p'),
    ],
)  # fmt: skip
def test_what_is_none_names_the_nearest(word, near):
    with pytest.raises(UserError, match='--topology=') as refused:
        machine(word)
    assert near in str(refused.value)


def test_every_slice_has_as_many_dims_as_its_torus():
    for generation, slices in SLICES.items():
        assert all(name.count('x') + 1 == CHIPS[generation].dims for name in slices)
