"""Outliers are left out with their reason, whatever law is fitted."""

import numpy as np
import pytest

from gpt_jax.scaling import analysis, bootstrap, downstream, outliers, parametric_fit
from gpt_jax.scaling.forecast import forecast_run
from tests.scaling import synthetic


def ladder(factor=1.3):
    n = np.geomspace(1e7, 1e10, 9)
    loss = 1.5 + 30 * n**-0.2
    loss[4] *= factor
    return synthetic.runs(n, np.full(9, 1e10), loss)


@pytest.mark.parametrize('factor', [1.3, 0.7])
def test_power_law_is_fitted_to_the_others(factor):
    result = analysis.analyze_power_law(ladder(factor), 'N', irreducible=True, delta=1e-3, draws=20)
    assert [row['row'] for row in result['left_out']] == [5]
    assert result['law']['exponent'] == pytest.approx(0.2, rel=1e-4)
    assert result['intervals']['exponent']['low'] == pytest.approx(0.2, rel=1e-3)
    assert result['forecast']['x_column'] == 'params'


def test_runs_without_outliers_are_unchanged():
    runs = ladder(1.0)
    assert outliers.drop_power_law_outliers('N', runs, irreducible=True, delta=1e-3) is runs


def test_ladder_forecast_leaves_out_outliers():
    result = forecast_run(ladder(), 1e11, 1e10, law='power', draws=20, seed=0, name='x')
    assert [row['row'] for row in result['left_out']] == [5]
    assert result['loss'] == pytest.approx(1.5 + 30 * 1e11**-0.2, rel=1e-3)


def test_downstream_law_is_fitted_without_outliers():
    runs = synthetic.grid(sizes=6, lengths=6)
    runs.extra['error'] = 0.85 - 2.1 * np.exp(-0.75 * runs.loss)
    runs.loss[10] *= 1.3
    result = analysis.analyze_parametric(runs, draws=20)['downstream']
    assert result['runs'] == 35
    assert (result['eps'], result['k'], result['gamma']) == pytest.approx(
        (0.85, 2.1, 0.75), rel=1e-3
    )
    assert set(result['intervals']) == {'eps', 'k', 'gamma'}
    assert downstream.fit_downstream(runs, draws=0, seed=0)['intervals'] == {}


def test_bootstrap_of_repeated_data_refits_only_a_free_base_law():
    truth = synthetic.TRUTH | {'R_D': 15.0, 'R_N': 5.0}
    n, d = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 3e11, 6), indexing='ij')
    n, d = n.ravel(), d.ravel()
    unique = np.where(np.arange(36) % 2, d, np.minimum(d, 5e9))
    law = parametric_fit.from_constants('repeated', truth)
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(36))
    runs = synthetic.runs(n, d, law.predict(n, d, unique) * noise, unique_tokens=unique)
    data = parametric_fit.to_log_data(runs)
    fitted = parametric_fit.fit_parametric_law('repeated', data)
    resamples = bootstrap.draw_resamples(runs, 6, 0)[0]
    free = bootstrap.refit_resamples(fitted, data, resamples)
    fixed = bootstrap.refit_resamples(fitted, data, resamples, fixed_base=True)
    assert np.std([row['alpha'] for row in free]) > 1e-3
    # The standard deviation of equal numbers may be a rounding error; their range is 0.
    assert np.ptp([row['alpha'] for row in fixed]) == 0
