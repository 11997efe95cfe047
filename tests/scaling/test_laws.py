"""Are known truths recovered, in every unit, and is the gradient the objective's?"""

import numpy as np
import pytest
from scipy import optimize

from gpt_jax.errors import UserError
from gpt_jax.scaling import intervals, laws

SIZES = np.geomspace(1e3, 1e6, 8)


def truth(x, floor=1.1, amplitude=25.0, exponent=0.4):
    return floor + amplitude * x**-exponent


@pytest.mark.parametrize(('floor', 'exponent'), [(1.1, 0.4), (0.3, 0.15), (1.69, 0.8), (0.0, 0.08)])
def test_noise_free_law_is_recovered(floor, exponent):
    law = laws.fit(SIZES, truth(SIZES, floor, 4.0, exponent), with_irreducible=floor > 0)
    assert law.exponent == pytest.approx(exponent, rel=1e-6)
    assert law.amplitude == pytest.approx(4.0, rel=1e-6)
    assert law.irreducible == pytest.approx(floor, rel=1e-6)
    assert law.starts_reached > 0
    assert law.note == ''


def test_irreducible_term_that_is_not_there_is_dropped_and_said():
    law = laws.fit(SIZES, truth(SIZES, floor=0.0, exponent=0.1), with_irreducible=True)
    assert law.irreducible == 0
    assert not law.with_irreducible
    assert law.exponent == pytest.approx(0.1, rel=1e-6)
    assert 'went to zero' in law.note


def test_three_sizes_do_not_carry_the_irreducible_term():
    law = laws.fit(SIZES[:3], truth(SIZES[:3]), with_irreducible=True)
    assert not law.with_irreducible
    assert 'fitted without E' in law.note


@pytest.mark.parametrize('count', [2, 3])
def test_gradient_is_the_objectives(count):
    random = np.random.default_rng(0)
    z, log_loss = np.log(SIZES) - np.log(SIZES).mean(), np.log(truth(SIZES)) + 0.02 * random.standard_normal(8)
    for delta in (1e-3, 0.05):
        theta = np.array([0.1, 0.3, 0.2])[:count]
        slope = optimize.approx_fprime(theta, lambda t, d=delta: laws.objective(t, z, log_loss, d)[0], 1e-7)
        np.testing.assert_allclose(laws.objective(theta, z, log_loss, delta)[1], slope, rtol=1e-3, atol=1e-3)


def test_objective_is_the_scaled_sum_of_huber_terms():
    residual = np.array([0.0005, -0.01])
    expected = 0.0005**2 / 2 + 1e-3 * (0.01 - 1e-3 / 2)
    value, _ = laws.objective(np.array([0.0, 0.0]), np.zeros(2), -residual, 1e-3)
    assert value == pytest.approx(laws.SCALE * expected)


def test_flat_minimum_is_called_not_identified():
    # Signs + - - + of four even steps balance both parameters, so exponents over a whole range do equally well.
    z = np.array([-1.5, -0.5, 0.5, 1.5])
    loss = np.exp(np.array([1.0, -1.0, -1.0, 1.0]) * 0.05 - 0.1 * z)
    assert 'not identified: exponents from' in laws.fit(np.exp(z), loss, with_irreducible=False, delta=1e-3).note
    assert laws.fit(np.exp(z), loss, with_irreducible=False, delta=0.2).note == ''


@pytest.mark.parametrize('with_irreducible', [False, True])
def test_unit_of_x_changes_nothing_but_the_amplitude(with_irreducible):
    loss = truth(SIZES) * np.exp(0.01 * np.random.default_rng(1).standard_normal(8))
    ones = laws.fit(SIZES, loss, with_irreducible=with_irreducible, delta=0.2)
    millions = laws.fit(SIZES / 1e6, loss, with_irreducible=with_irreducible, delta=0.2)
    assert millions.exponent == pytest.approx(ones.exponent, rel=1e-5)
    assert millions.irreducible == pytest.approx(ones.irreducible, rel=1e-5)
    assert millions.objective == pytest.approx(ones.objective, rel=1e-9)
    assert millions.amplitude == pytest.approx(ones.amplitude * 1e6**-ones.exponent, rel=1e-5)
    np.testing.assert_allclose(laws.predict(millions, 2.0), laws.predict(ones, 2e6), rtol=1e-7)


def test_one_outlier_does_not_bend_the_law():
    loss = truth(SIZES)
    loss[3] *= 1.2
    law = laws.fit(SIZES, loss, with_irreducible=True)
    assert law.exponent == pytest.approx(0.4, rel=0.01)
    assert law.irreducible == pytest.approx(1.1, rel=0.01)


def test_noisy_truth_lies_in_the_bootstrap_interval():
    random = np.random.default_rng(2)
    x = np.geomspace(1e3, 1e7, 40)
    loss = truth(x) * np.exp(0.005 * random.standard_normal(40))

    def read(x, loss):
        law = laws.fit(x, loss, with_irreducible=True, tries=1)
        return np.array([law.exponent, law.irreducible])

    values = intervals.bootstrap(x, loss, read, draws=100, seed=0, sizes=5)
    exponent, floor = (intervals.interval(column, runs=40, seed=0, sizes=5) for column in values.T)
    assert exponent['low'] < 0.4 < exponent['high']
    assert floor['low'] < 1.1 < floor['high']
    assert exponent['high'] - exponent['low'] < 0.05
    assert exponent['note'] == ''
    assert 'runs, with replacement' in exponent['resampled']


def test_bootstrap_repeats_with_its_seed_and_keeps_enough_sizes():
    seen = []

    def read(x, loss):
        seen.append(np.unique(x).size)
        return loss.mean()

    first, again, other = (
        intervals.bootstrap(SIZES[:5], truth(SIZES[:5]), read, draws=200, seed=seed, sizes=4) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (200, 1)
    assert min(seen) == 4
    # Five runs have 126 resamples in all, of which 21 keep four sizes or more: each is read once.
    assert len(seen) <= 3 * 21


def test_few_runs_are_called_too_few():
    assert 'too few' in intervals.interval(np.arange(10.0), runs=4, seed=0, sizes=3)['note']
    with pytest.raises(UserError, match='3 sizes, and the statistic needs 4'):
        intervals.bootstrap(SIZES[:3], truth(SIZES[:3]), np.minimum, draws=1, seed=0, sizes=4)


@pytest.mark.parametrize(
    ('x', 'loss', 'message'),
    [
        ([1, 2, 3], [1, 2], 'one length'),
        ([1, 2, 0], [3, 2, 1], r'x\[2\] = 0.0'),
        ([1, 2, 3], [3, float('nan'), 1], r'loss\[1\] = nan'),
        ([5, 5, 5], [3, 2, 1], '1 distinct x'),
    ],
)
def test_what_no_power_law_can_have_is_refused(x, loss, message):
    with pytest.raises(UserError, match=message):
        laws.fit(x, loss, with_irreducible=False)


def test_rising_loss_is_said():
    assert 'the end of its range' in laws.fit(SIZES, SIZES**0.1, with_irreducible=False).note


def test_formula():
    law = laws.fit(SIZES, truth(SIZES), with_irreducible=True)
    assert laws.formula(law) == '1.10 + 25.0 N^-0.400'
