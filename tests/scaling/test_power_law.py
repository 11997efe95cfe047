"""Power laws over one variable: known laws are recovered, in every unit."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import power_law

SIZES = np.geomspace(1e3, 1e6, 8)


def truth(x, floor=1.1, amplitude=25.0, exponent=0.4):
    return floor + amplitude * x**-exponent


@pytest.mark.parametrize(('floor', 'exponent'), [(1.1, 0.4), (0.3, 0.15), (1.69, 0.8), (0.0, 0.08)])
def test_noise_free_law_is_recovered(floor, exponent):
    law = power_law.fit_power_law(
        SIZES, truth(SIZES, floor, 4.0, exponent), with_irreducible=floor > 0
    )
    assert law.exponent == pytest.approx(exponent, rel=1e-6)
    assert law.amplitude == pytest.approx(4.0, rel=1e-6)
    assert law.irreducible == pytest.approx(floor, rel=1e-6)
    assert law.starts_reached > 0
    assert law.note == ''


def test_absent_irreducible_loss_is_dropped_with_a_note():
    law = power_law.fit_power_law(
        SIZES, truth(SIZES, floor=0.0, exponent=0.1), with_irreducible=True
    )
    assert law.irreducible == 0
    assert not law.with_irreducible
    assert law.exponent == pytest.approx(0.1, rel=1e-6)
    assert 'went to zero' in law.note


def test_three_sizes_are_fitted_without_irreducible_loss():
    law = power_law.fit_power_law(SIZES[:3], truth(SIZES[:3]), with_irreducible=True)
    assert not law.with_irreducible
    assert 'fitted without E' in law.note


def test_flat_minimum_is_not_identified():
    # Signs + - - + of four even steps balance both parameters, so exponents over a whole range
    # fit equally well.
    z = np.array([-1.5, -0.5, 0.5, 1.5])
    loss = np.exp(np.array([1.0, -1.0, -1.0, 1.0]) * 0.05 - 0.1 * z)
    assert (
        'not identified: exponents from'
        in power_law.fit_power_law(np.exp(z), loss, with_irreducible=False, delta=1e-3).note
    )
    assert power_law.fit_power_law(np.exp(z), loss, with_irreducible=False, delta=0.2).note == ''


@pytest.mark.parametrize('with_irreducible', [False, True])
def test_unit_of_x_changes_only_the_amplitude(with_irreducible):
    loss = truth(SIZES) * np.exp(0.01 * np.random.default_rng(1).standard_normal(8))
    ones = power_law.fit_power_law(SIZES, loss, with_irreducible=with_irreducible, delta=0.2)
    millions = power_law.fit_power_law(
        SIZES / 1e6, loss, with_irreducible=with_irreducible, delta=0.2
    )
    assert millions.exponent == pytest.approx(ones.exponent, rel=1e-5)
    assert millions.irreducible == pytest.approx(ones.irreducible, rel=1e-5)
    assert millions.objective == pytest.approx(ones.objective, rel=1e-9)
    assert millions.amplitude == pytest.approx(ones.amplitude * 1e6**-ones.exponent, rel=1e-5)
    np.testing.assert_allclose(
        power_law.predict_loss(millions, 2.0), power_law.predict_loss(ones, 2e6), rtol=1e-7
    )


def test_one_outlier_does_not_change_the_law():
    loss = truth(SIZES)
    loss[3] *= 1.2
    law = power_law.fit_power_law(SIZES, loss, with_irreducible=True)
    assert law.exponent == pytest.approx(0.4, rel=0.01)
    assert law.irreducible == pytest.approx(1.1, rel=0.01)


@pytest.mark.parametrize(
    ('x', 'loss', 'message'),
    [
        ([1, 2, 3], [1, 2], 'the same length'),
        ([1, 2, 0], [3, 2, 1], r'x\[2\] must be finite and above zero .*got 0.0'),
        ([1, 2, 3], [3, float('nan'), 1], r'loss\[1\] must be finite and above zero .*got nan'),
        ([5, 5, 5], [3, 2, 1], 'at least 2 distinct x, got 1'),
    ],
)
def test_invalid_points_are_rejected(x, loss, message):
    with pytest.raises(UserError, match=message):
        power_law.fit_power_law(x, loss, with_irreducible=False)


def test_rising_loss_is_not_identified():
    assert (
        'the end of its range'
        in power_law.fit_power_law(SIZES, SIZES**0.1, with_irreducible=False).note
    )


def test_format_law():
    law = power_law.fit_power_law(SIZES, truth(SIZES), with_irreducible=True)
    assert power_law.format_law(law) == '1.10 + 25.0 N^-0.400'
