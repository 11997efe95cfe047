"""The posterior behind `--law=auto`: its law and its predictions.

The coverage of its intervals is in tests/experiments/test_forecast_coverage.py.
"""

import numpy as np
import pytest

from experiments.forecast_coverage.worlds import CHINCHILLA, DESIGNS, compute_chinchilla
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import law_posterior, parametric_fit
from gpt_jax.scaling.law_forms import LAW_FORMS, LogData
from tests.scaling import synthetic


def make_data(params, tokens, loss):
    return LogData(*(np.log(np.asarray(a, float)) for a in (params, tokens, tokens, loss)))


def test_the_law_with_kappa_1_is_that_of_chinchilla():
    form = LAW_FORMS['chinchilla']
    theta = form.pack(CHINCHILLA)
    rng = np.random.default_rng(0)
    points = rng.uniform(15, 30, size=(20, 2))
    expected, _ = form.predict(theta, LogData(*points.T, points[:, 1], points[:, 0]))
    found, _ = law_posterior.predict_law(np.append(theta, 0.0), points)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_gradient_of_the_law_equals_finite_differences():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(7, 2))
    theta = np.array([0.3, -0.5, -0.2, 0.3, 0.4, -0.9])
    _, gradient = law_posterior.predict_law(theta, points)
    for i, step in enumerate(1e-6 * np.eye(6)):
        up, down = (law_posterior.predict_law(theta + s, points)[0] for s in (step, -step))
        np.testing.assert_allclose(gradient[:, i], (up - down) / 2e-6, rtol=1e-6, atol=1e-9)


def test_the_constants_predict_as_the_member_does():
    n, d, *_ = DESIGNS['isoflop']
    posterior = law_posterior.fit_posterior(make_data(n, d, compute_chinchilla(n, d)))
    c = posterior.describe_constants()
    size, length = 1e9, 3e10
    inner = (c['A'] / size ** c['alpha']) ** (1 / c['kappa'])
    inner += (c['B'] / length ** c['beta']) ** (1 / c['kappa'])
    by_constants = c['E'] + inner ** c['kappa']
    assert by_constants == pytest.approx(compute_chinchilla(size, length), rel=0.01)
    point = np.log([size, length]) - posterior.centre
    best = posterior.members[int(np.argmax(posterior.weights))]
    law, _ = law_posterior.predict_law(best.theta, point[None])
    assert by_constants == pytest.approx(np.exp(law[0]), rel=1e-10)


def test_between_the_runs_their_residuals_are_followed():
    """A smooth deviation from every law, of 3%, is predicted to a fifth of it."""
    n, d, *_ = DESIGNS['isoflop']
    bump = lambda n, d: np.exp(0.03 * np.sin(np.log(n * d) / 2))
    data = make_data(n, d, compute_chinchilla(n, d) * bump(n, d))
    posterior = law_posterior.fit_posterior(data)
    size = np.sqrt(2.2e19 / 120)
    truth = compute_chinchilla(size, 20 * size) * bump(size, 20 * size)
    median, low, high = posterior.predict(size, 20 * size).compute_quantiles(0.5, 0.025, 0.975)
    assert median == pytest.approx(truth, rel=0.006)
    assert low < truth < high


def test_intervals_grow_with_the_extrapolation():
    n, d, *_ = DESIGNS['isoflop']
    rng = np.random.default_rng(0)
    loss = compute_chinchilla(n, d) * np.exp(0.005 * rng.standard_normal(n.size))
    posterior = law_posterior.fit_posterior(make_data(n, d, loss))
    widths = []
    for factor in (1, 10, 100, 1000):
        size = np.sqrt(factor * 1e20 / 120)
        low, high = posterior.predict(size, 20 * size).compute_quantiles(0.025, 0.975)
        widths.append(high / low - 1)
    assert widths == sorted(widths)
    assert widths[0] > 3 * 0.005  # at least the noise of a run
    assert widths[3] > 4 * widths[0]


def test_many_runs_are_averaged_over_cells():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(16, 20, 3000)), np.exp(rng.uniform(19, 24, 3000))
    loss = compute_chinchilla(n, d) * np.exp(0.01 * rng.standard_normal(3000))
    posterior = law_posterior.fit_posterior(make_data(n, d, loss))
    assert len(posterior.points) <= law_posterior.MAX_POINTS
    predicted, low, high = posterior.predict(4e8, 2e10).compute_quantiles(0.5, 0.025, 0.975)
    truth = compute_chinchilla(4e8, 2e10)
    assert predicted == pytest.approx(truth, rel=0.01)
    assert low < truth < high


def test_a_run_that_went_wrong_is_an_outlier():
    runs = synthetic.isoflop()
    loss = runs.loss.copy()
    loss[7] *= 1.3
    data = parametric_fit.to_log_data(runs)._replace(log_loss=np.log(loss))
    assert list(law_posterior.find_outliers(data)) == [7]
    assert 'its loss differs by +' in law_posterior.find_outliers(data)[7]
    assert law_posterior.find_outliers(parametric_fit.to_log_data(runs)) == {}


def test_too_few_runs_are_refused():
    with pytest.raises(UserError, match='needs at least 4 runs of 3 sizes or lengths, got 3'):
        law_posterior.fit_posterior(make_data([1e7, 1e8, 1e9], [1e9, 1e9, 1e9], [4, 3, 2.5]))
