"""Is a run that follows no law left out, with its reason, by whatever law is fitted?"""

import numpy as np
import pytest

from gpt_jax.scaling import analysis, confidence, downstream, ledger, outliers, surface
from tests.scaling import synthetic


def ladder(factor=1.3):
    n = np.geomspace(1e7, 1e10, 9)
    loss = 1.5 + 30 * n**-0.2
    loss[4] *= factor
    return synthetic.runs(n, np.full(9, 1e10), loss)


@pytest.mark.parametrize('factor', [1.3, 0.7])
def test_a_power_law_is_fitted_to_the_others(factor):
    result = analysis.power(ladder(factor), 'N', irreducible=True, delta=1e-3, draws=20)
    assert [one['row'] for one in result['left_out']] == [5]
    assert result['law']['exponent'] == pytest.approx(0.2, rel=1e-4)
    assert result['intervals']['exponent']['low'] == pytest.approx(0.2, rel=1e-3)
    assert result['forecast']['x_column'] == 'params'


def test_nothing_is_left_out_where_all_follow_the_law():
    given = ladder(1.0)
    assert outliers.along('N', given, irreducible=True, delta=1e-3) is given


def test_a_ladders_forecast_leaves_them_out_too():
    made = ledger.forecast(ladder(), 1e11, 1e10, law='power', draws=20, seed=0, name='x')
    assert [one['row'] for one in made['left_out']] == [5]
    assert made['loss'] == pytest.approx(1.5 + 30 * 1e11**-0.2, rel=1e-3)


def test_the_downstream_law_is_fitted_to_the_runs_that_are_kept():
    given = synthetic.grid(sizes=6, lengths=6)
    given.more['error'] = 0.85 - 2.1 * np.exp(-0.75 * given.loss)
    given.loss[10] *= 1.3
    made = analysis.fit(given, draws=20)['downstream']
    assert made['runs'] == 35
    assert (made['eps'], made['k'], made['gamma']) == pytest.approx((0.85, 2.1, 0.75), rel=1e-3)
    assert set(made['intervals']) == {'eps', 'k', 'gamma'}
    assert downstream.fit(given, draws=0, seed=0)['intervals'] == {}


def test_the_bootstrap_of_repeated_data_moves_a_base_law_that_was_fitted():
    truth = synthetic.TRUTH | {'R_D': 15.0, 'R_N': 5.0}
    n, d = np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 3e11, 6), indexing='ij')
    n, d = n.ravel(), d.ravel()
    unique = np.where(np.arange(36) % 2, d, np.minimum(d, 5e9))
    law = surface.Surface('repeated', truth, 0, 0, 0, 0, 0)
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(36))
    made = synthetic.runs(n, d, law.predict(n, d, unique) * noise, unique_tokens=unique)
    given = surface.data(made)
    found = surface.fit('repeated', given)
    resamples = confidence.counts(made, 6, 0)[0]
    free = confidence.bootstrap(found, given, resamples)
    held = confidence.bootstrap(found, given, resamples, held=True)
    assert np.std([one['alpha'] for one in free]) > 1e-3
    assert np.ptp([one['alpha'] for one in held]) == 0  # the deviation of equal numbers may be a rounding
