"""Names of machines, and the nearest machine in error messages."""

import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.core.hardware import CHIPS
from gpt_jax.preflight.topology import SLICES, parse_machine


@pytest.mark.parametrize(
    ('text', 'name', 'chips'),
    [
        ('v5p:8x8x16', 'v5p:8x8x16', 1024),
        ('v5e-16', 'v5e:4x4', 16),
        ('v6e-256', 'v6e:16x16', 256),
        ('v5p-512', 'v5p:4x8x8', 256),  # two cores per chip
        ('V5E:2x4', 'v5e:2x4', 8),
        ('h100:8', 'h100:8', 8),
    ],
)
def test_machines_by_name(text, name, chips):
    machine = parse_machine(text)
    assert (machine.name, machine.chips) == (name, chips)


@pytest.mark.parametrize(
    ('text', 'nearest'),
    [
        ('v5litepod-256', 'v5'),
        ('v5x:4x4', 'v5'),
        ('v5p:4x4', 'v5p:2x2x4'),
        ('v5e-24', 'v5e:4x4'),
        ('v5e:4x4x4', 'v5e:8x8'),
        ('b300:8', 'h100:8'),
        ('h100:2x4', 'h100:8'),
        ('', 'v5p'),
    ],
)
def test_an_unknown_machine_names_the_nearest(text, nearest):
    with pytest.raises(UserError, match='--topology:') as error:
        parse_machine(text)
    assert nearest in str(error.value)


def test_slices_have_the_dimensions_of_their_torus():
    for generation, slices in SLICES.items():
        assert all(name.count('x') + 1 == CHIPS[generation].torus_dims for name in slices)
