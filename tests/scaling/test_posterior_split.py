"""N* by the posterior: its draws, its intervals, and what it says of runs that do not tell."""

import numpy as np
import pytest

from gpt_jax.scaling import compute_optimal, law_posterior, parametric_fit, posterior_split
from tests.scaling import synthetic


def fit(runs):
    return law_posterior.fit_posterior(parametric_fit.to_log_data(runs))


@pytest.fixture(scope='module')
def posterior():
    return fit(synthetic.isoflop(budgets=4, sizes=5))


def test_draws_have_the_mean_and_spread_of_the_prediction(posterior):
    params, tokens = np.array([1e9, 2e9]), np.array([1e11, 5e10])
    draws = posterior.draw_losses(params, tokens, 4000, 0)
    for column, n, d in zip(draws.T, params, tokens, strict=True):
        mixture = posterior.predict(n, d)  # at the compute of the runs: no drift
        mean = mixture.weights @ mixture.means
        variance = mixture.weights @ (mixture.sds**2 + (mixture.means - mean) ** 2)
        assert column.mean() == pytest.approx(mean, abs=4 * (variance / 4000) ** 0.5)
        assert column.var() < 1.1 * variance  # without the noise of a run
    assert np.corrcoef(draws.T)[0, 1] > 0.2  # one surface


def test_the_optimum_of_runs_that_follow_the_law(posterior):
    flops = [1e21, 1e23]
    drawn = posterior_split.draw_optima(posterior, compute_optimal.COST_6ND, flops)
    truth, tokens = compute_optimal.compute_split(synthetic.TRUTH).at(flops)
    np.testing.assert_allclose(drawn.median, truth, rtol=0.15)
    np.testing.assert_allclose(drawn.tokens_for(truth), tokens)
    low, high = np.quantile(drawn.params, [0.025, 0.975], axis=0)
    assert ((low < truth) & (truth < high)).all()
    assert (high / low < 3).all()


def test_a_ladder_does_not_identify_the_optimum():
    n = np.geomspace(1e7, 1e9, 8)
    split = posterior_split.describe_split(
        fit(synthetic.runs(n, 20 * n, synthetic.loss(n, 20 * n))),
        compute_optimal.COST_6ND,
        1.2e20,
        (1e21,),
        level=0.95,
        draws=100,
    )
    assert not split['at'][0]['identified']
