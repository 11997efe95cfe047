"""The Huber objective of a fit, its gradient and the search for its minimum."""

import numpy as np
import pytest
from scipy import optimize

from gpt_jax.scaling import parametric_fit
from gpt_jax.scaling.law_forms import LAW_FORMS, LogData, make_power_form
from gpt_jax.scaling.robust_fit import huber_objective, search, search_all
from tests.scaling import synthetic
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
    assert value == pytest.approx(expected)
    weighted, _ = huber_objective(np.zeros(2), form, data, 1e-3, np.array([2.0, 0.0]))
    assert weighted == pytest.approx(0.0005**2)


def test_search_finds_no_worse_optimum_than_scipy():
    """Huber losses with a small delta, weights as of a resample, and least squares."""
    random = np.random.default_rng(3)
    runs = synthetic.grid(6, 6, noise=0.01, seed=1)
    data, form = parametric_fit.to_log_data(runs), LAW_FORMS['chinchilla']
    start = form.pack(synthetic.TRUTH)
    weights = np.bincount(random.integers(36, size=36), minlength=36).astype(float)
    for delta in (1e-3, np.inf):
        _, found = search(start, form, data, delta, weights)

        def objective(theta, delta=delta):
            value, gradient = huber_objective(theta, form, data, delta, weights)
            return 1e4 * value, 1e4 * gradient

        options = {'maxiter': 2000, 'maxfun': 9000, 'ftol': 1e-14}
        reference = optimize.minimize(
            objective, start, jac=True, bounds=form.bounds, options=options
        )
        assert found <= reference.fun / 1e4 * (1 + 1e-9)


def test_searches_on_a_part_of_many_runs_are_continued_on_all():
    runs = synthetic.grid(40, 40, noise=0.01)
    data, form = parametric_fit.to_log_data(runs), LAW_FORMS['chinchilla']
    solution = search_all(form, data, 1e-3, parametric_fit.make_settings(len(runs)), tries=6)
    _, full = search(form.pack(synthetic.TRUTH), form, data, 1e-3)
    assert solution.objective == pytest.approx(full, rel=1e-9)
    assert solution.starts == 6
    assert len(solution.reached) > 1
