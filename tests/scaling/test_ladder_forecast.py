"""The largest run is forecast from the others alone, on ladders of several shapes."""

import dataclasses
import json

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import ladder_forecast, power_law

SIZES = np.geomspace(6e3, 1e6, 6)


def flattening(x, random):
    floor, exponent = random.uniform(0.5, 1.15), random.uniform(0.12, 0.5)
    return floor + (2.5 - floor) * (x / 1e3) ** -exponent


def straight(x, random):
    return 2.5 * (x / 1e3) ** -random.uniform(0.06, 0.12)


def late(x, random):
    """Small models gain little from size, then much, then little again."""
    floor, knee, exponent = (
        random.uniform(0.9, 1.2),
        10 ** random.uniform(3.8, 5),
        random.uniform(0.5, 0.9),
    )
    return floor + (2.45 - floor) / (1 + (x / knee) ** exponent)


def starved(x, random):
    """The largest models have too few tokens."""
    return flattening(x, random) + random.uniform(0.02, 0.12) * (x / 1e6) ** 0.4


SHAPES = (flattening, straight, late, starved)


def ladder(shape, seed, count=6):
    random = np.random.default_rng(seed)
    x = 10 ** random.uniform(3, 3.7) * 3.0 ** np.arange(count)
    return x, shape(x, random) * np.exp(0.005 * random.standard_normal(count))


def errors(choose, count):
    """Relative errors of forecasting the largest of simulated ladders, [shapes, ladders]."""

    def one(shape, seed):
        x, loss = ladder(shape, seed, count)
        return abs(power_law.predict_loss(choose(x[:-1], loss[:-1]), x[-1]) / loss[-1] - 1)

    return np.array([[one(shape, seed) for seed in range(15)] for shape in SHAPES])


@pytest.mark.parametrize('count', [5, 7])
def test_rule_is_within_two_percent_more_often_than_either_law(count):
    rule = errors(lambda x, loss: ladder_forecast.choose_law(x, loss, tries=1), count)
    within = (rule < 0.02).mean()
    assert within > 0.6
    assert np.median(rule) < 0.015
    for flag in (False, True):
        plain = errors(
            lambda x, loss, flag=flag: power_law.fit_power_law(
                x, loss, with_irreducible=flag, tries=1
            ),
            count,
        )
        assert within >= (plain < 0.02).mean()


def test_forecast_is_independent_of_the_largest():
    x, loss = ladder(flattening, 0)
    first = ladder_forecast.leave_largest_out(x, loss)
    loss[-1] *= 0.8
    other = ladder_forecast.leave_largest_out(x, loss)
    assert other['law'] == first['law']
    assert other['band'] == first['band']
    assert other['held_out']['predicted'] == first['held_out']['predicted']
    assert other['held_out']['relative_error'] > first['held_out']['relative_error'] + 0.2


def test_exact_law_gives_an_exact_forecast():
    fit = ladder_forecast.leave_largest_out(SIZES, 1.1 + 25 * SIZES**-0.4)
    assert fit['held_out']['relative_error'] == pytest.approx(0, abs=1e-7)
    assert fit['held_out']['within'] is True
    assert fit['law']['exponent'] == pytest.approx(0.4, rel=1e-5)
    assert fit['law']['fitted_x'] == SIZES[1:5].tolist()
    assert abs(fit['both']['power']['relative_error']) > 0.02
    assert fit['both']['power_and_irreducible']['relative_error'] == pytest.approx(0, abs=1e-7)
    assert fit['falls_strictly'] is True
    assert fit['rises_at'] == []


def test_result_survives_json_and_reordering():
    x, loss = ladder(late, 1)
    fit = ladder_forecast.leave_largest_out(x, loss)
    assert json.loads(json.dumps(fit, allow_nan=False)) == fit
    mixed = np.random.default_rng(0).permutation(len(x))
    assert ladder_forecast.leave_largest_out(x[mixed], loss[mixed]) == fit
    held, band = fit['held_out'], fit['band']
    assert held['interval']['low'] == band['low'][-1]
    assert held['interval']['high'] == band['high'][-1]
    assert band['x'][-1] == pytest.approx(held['x'])


def test_rule_chooses_the_law_by_curvature():
    bent = ladder_forecast.choose_law(SIZES, 1.1 + 25 * SIZES**-0.4)
    assert bent.with_irreducible
    assert bent.points == 4
    steepening = ladder_forecast.choose_law(SIZES, 2.5 - 0.1 * np.log(SIZES / 1e3))
    assert not steepening.with_irreducible
    assert steepening.points == 3


def test_several_seeds_per_size():
    x = np.repeat(SIZES, 2)
    loss = (1.1 + 25 * x**-0.4) * np.tile([0.99, 1.01], len(SIZES))
    fit = ladder_forecast.leave_largest_out(x, loss)
    assert fit['law']['points'] == 8
    assert len(fit['law']['fitted_x']) == 8
    assert max(fit['law']['fitted_x']) < SIZES[-1]
    assert fit['held_out']['reached'] == pytest.approx(1.1 + 25 * SIZES[-1] ** -0.4)
    assert abs(fit['held_out']['relative_error']) < 0.011


def test_size_that_is_no_better_is_named():
    x, loss = ladder(straight, 0)
    loss[3] = loss[2]
    fit = ladder_forecast.leave_largest_out(x, loss)
    assert fit['falls_strictly'] is False
    assert fit['rises_at'] == [x[3]]
    assert ladder_forecast.describe_forecast(fit)[-1] == f'bigger is not better at {x[3]:,.0f}'


def test_three_sizes_are_enough_and_two_are_not():
    fit = ladder_forecast.leave_largest_out(SIZES[:3], SIZES[:3] ** -0.1)
    assert fit['held_out']['relative_error'] == pytest.approx(0, abs=1e-6)
    assert 'too few' in fit['held_out']['interval']['note']
    with pytest.raises(UserError, match='at least 3 sizes to leave out the largest, got 2'):
        ladder_forecast.leave_largest_out(SIZES[:2], SIZES[:2] ** -0.1)


def test_description_has_law_forecast_and_outcome():
    x, loss = ladder(flattening, 0)
    fit = ladder_forecast.leave_largest_out(x, loss)
    text = '\n'.join(ladder_forecast.describe_forecast(fit))
    assert power_law.format_law(power_law.law_from_dict(fit['law'])) in text
    assert f'{fit["held_out"]["predicted"]:.4f}' in text
    assert f'{loss[-1]:.4f}' in text
    assert '95% interval from' in text
    assert 'baselines: no change' in text
    assert 'bigger is better' in text
    assert dataclasses.asdict(power_law.law_from_dict(fit['law'])).items() <= fit['law'].items()
