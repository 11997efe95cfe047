"""Each schedule has the values that its paper states."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from gpt_jax.core.errors import UserError
from gpt_jax.optim.schedules import make_schedule


@pytest.fixture
def config(settings):
    fields = {
        'optimizer.learning_rate': 2.0,
        'optimizer.warmup_fraction': 0.1,
        'optimizer.final_lr_fraction': 0.1,
    }
    return settings(fields).optimizer


def compute_rates(config, steps=100):
    schedule = make_schedule(config, steps, config.learning_rate)
    return np.array([float(schedule(count)) for count in range(steps)])


def test_warmup_rises_to_the_peak_from_a_positive_rate(config):
    rates = compute_rates(config)
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    assert rates.argmax() in (9, 10)


def test_cosine(config):
    rates = compute_rates(config)
    decayed = np.arange(1, 91) / 90  # of update 10 to the last
    cosine = 2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * decayed)) / 2)
    np.testing.assert_allclose(rates[10:], cosine, rtol=1e-5)
    ended = compute_rates(dataclasses.replace(config, decay_end_fraction=0.8))
    assert ended[78] > 0.2001
    np.testing.assert_allclose(ended[79:], 0.2, rtol=1e-6)


def test_linear(config):
    rates = compute_rates(dataclasses.replace(config, schedule='linear'))
    np.testing.assert_allclose(np.diff(rates[9:]), -2.0 * 0.9 / 90, rtol=1e-3)


def test_wsd_is_constant_and_then_one_minus_sqrt(config):
    wsd = dataclasses.replace(config, schedule='wsd', cooldown_fraction=0.2, final_lr_fraction=0.0)
    rates = compute_rates(wsd)
    np.testing.assert_allclose(rates[9:80], 2.0, rtol=1e-6)
    np.testing.assert_allclose(
        rates[80:], 2.0 * (1 - np.sqrt(np.arange(1, 21) / 20)), rtol=1e-5, atol=1e-6
    )


def test_constant(config):
    rates = compute_rates(dataclasses.replace(config, schedule='constant'))
    np.testing.assert_allclose(rates[10:], 2.0)


FRACTIONS = st.floats(0, 0.5, allow_subnormal=False)


@hypothesis.settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    schedule=st.sampled_from(['cosine', 'linear', 'wsd']),
    steps=st.integers(2, 10**7),
    warmup=FRACTIONS,
    cooldown=FRACTIONS.filter(bool),
    final=st.floats(0, 1, allow_subnormal=False),
)
def test_every_schedule_is_what_its_fields_say(config, schedule, steps, warmup, cooldown, final):
    config = dataclasses.replace(
        config,
        schedule=schedule,
        warmup_fraction=warmup,
        cooldown_fraction=cooldown,
        final_lr_fraction=final,
    )
    rise, fall = round(warmup * steps), round(cooldown * steps)
    counts = [
        0,
        max(rise, 1) - 1,
        max(steps - fall - 1, 0),
        min(steps - fall, steps - 1),
        steps - 1,
    ]
    first, peak, flat, falling, last = make_schedule(config, steps, 1.0)(np.array(counts))
    assert last == pytest.approx(final, abs=1e-6)
    assert peak == pytest.approx(1)
    assert first == pytest.approx(1 / max(rise, 1))
    if schedule == 'wsd' and 0 < fall < steps - rise:
        assert flat == pytest.approx(1)
        assert falling == pytest.approx(1 - (1 - final) * fall**-0.5, abs=1e-6)


def test_a_cooldown_and_a_warmup_fit_into_the_run(config):
    fields = {'schedule': 'wsd', 'warmup_fraction': 0.5, 'cooldown_fraction': 0.6}
    with pytest.raises(
        UserError, match=r'cooldown_fraction: and .*warmup_fraction must not exceed'
    ):
        dataclasses.replace(config, **fields).check()
