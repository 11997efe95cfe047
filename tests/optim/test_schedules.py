"""Each schedule has the values that its paper states."""

import dataclasses

import numpy as np
import pytest

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
    middle = 2.0 * (0.1 + 0.9 / 2)  # half way from step 10 to 100
    np.testing.assert_allclose(rates[55], middle, rtol=1e-5)
    progress = (99 - 10) / 90
    last = 2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
    np.testing.assert_allclose(rates[99], last, rtol=1e-5)
    ended = compute_rates(dataclasses.replace(config, decay_end_fraction=0.8))
    np.testing.assert_allclose(ended[80:], 0.2, rtol=1e-6)


def test_linear(config):
    rates = compute_rates(dataclasses.replace(config, schedule='linear'))
    np.testing.assert_allclose(np.diff(rates[10:]), -2.0 * 0.9 / 90, rtol=1e-3)


def test_wsd_is_constant_and_then_one_minus_sqrt(config):
    wsd = dataclasses.replace(config, schedule='wsd', cooldown_fraction=0.2, final_lr_fraction=0.0)
    rates = compute_rates(wsd)
    np.testing.assert_allclose(rates[10:82], 2.0, rtol=1e-6)
    # Half of the cooldown of 18 steps.
    np.testing.assert_allclose(rates[91], 2.0 * (1 - np.sqrt(0.5)), rtol=1e-4)


def test_constant(config):
    rates = compute_rates(dataclasses.replace(config, schedule='constant'))
    np.testing.assert_allclose(rates[10:], 2.0)
