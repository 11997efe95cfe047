"""Does each schedule pass through the values that its paper says?"""

import dataclasses

import numpy as np
import pytest

from gpt_jax.optim.schedules import schedule


@pytest.fixture
def config(settings):
    fields = {'optimizer.learning_rate': 2.0, 'optimizer.warmup_fraction': 0.1, 'optimizer.final_fraction': 0.1}
    return settings(fields).optimizer


def rates(config, steps=100):
    return np.array([float(schedule(config, steps, config.learning_rate)(count)) for count in range(steps)])


def test_warmup_rises_to_the_peak_and_the_first_update_counts(config):
    values = rates(config)
    np.testing.assert_allclose(values[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    assert values.argmax() in (9, 10)


def test_cosine(config):
    values = rates(config)
    np.testing.assert_allclose(values[55], 2.0 * (0.1 + 0.9 / 2), rtol=1e-5)  # half way from 10 to 100
    progress = (99 - 10) / 90
    np.testing.assert_allclose(values[99], 2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2), rtol=1e-5)
    ended = rates(dataclasses.replace(config, decay_fraction=0.8))
    np.testing.assert_allclose(ended[80:], 0.2, rtol=1e-6)


def test_linear(config):
    values = rates(dataclasses.replace(config, schedule='linear'))
    np.testing.assert_allclose(np.diff(values[10:]), -2.0 * 0.9 / 90, rtol=1e-3)


def test_wsd_is_constant_and_then_one_minus_sqrt(config):
    values = rates(dataclasses.replace(config, schedule='wsd', cooldown_fraction=0.2, final_fraction=0.0))
    np.testing.assert_allclose(values[10:82], 2.0, rtol=1e-6)
    np.testing.assert_allclose(values[91], 2.0 * (1 - np.sqrt(0.5)), rtol=1e-4)  # half of the cooldown of 18 steps


def test_constant(config):
    np.testing.assert_allclose(rates(dataclasses.replace(config, schedule='constant'))[10:], 2.0)
