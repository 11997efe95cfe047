"""The Huber objective of a fit and its gradient."""

import numpy as np
import pytest
from scipy import optimize

from gpt_jax.scaling.law_forms import LogData, make_power_form
from gpt_jax.scaling.robust_fit import SCALE, huber_objective
from tests.scaling.test_power_law import SIZES, truth


@pytest.mark.parametrize('count', [2, 3])
def test_gradient_equals_finite_differences(count):
    random = np.random.default_rng(0)
    z, log_loss = (
        np.log(SIZES) - np.log(SIZES).mean(),
        np.log(truth(SIZES)) + 0.02 * random.standard_normal(8),
    )
    form = make_power_form(log_loss, 0.0, with_irreducible=count == 3)
    data = LogData(z, z, z, log_loss)
    for delta in (1e-3, 0.05):
        theta = np.array([0.1, 0.3, 0.2])[:count]
        slope = optimize.approx_fprime(
            theta, lambda t, d=delta: huber_objective(t, form, data, d)[0], 1e-7
        )
        np.testing.assert_allclose(
            huber_objective(theta, form, data, delta)[1], slope, rtol=1e-3, atol=1e-3
        )


def test_objective_is_the_scaled_sum_of_huber_terms():
    residual = np.array([0.0005, -0.01])
    expected = 0.0005**2 / 2 + 1e-3 * (0.01 - 1e-3 / 2)
    form = make_power_form(-residual, 0.0, with_irreducible=False)
    data = LogData(np.zeros(2), np.zeros(2), np.zeros(2), -residual)
    value, _ = huber_objective(np.zeros(2), form, data, 1e-3)
    assert value == pytest.approx(SCALE * expected)
    weighted, _ = huber_objective(np.zeros(2), form, data, 1e-3, np.array([2.0, 0.0]))
    assert weighted == pytest.approx(SCALE * 0.0005**2)
