"""Draws of constants: their intervals hold with few runs, and there is none without freedom."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import forecast, lack_of_fit, outliers, parametric_fit, refits
from tests.scaling import synthetic

NAMES = ('E', 'A', 'B', 'alpha', 'beta')


def make_runs(sizes, lengths, noise, seed, *, seeds=1):
    """Every size at every length, several times."""
    n, d = (a.ravel() for a in np.meshgrid(sizes, lengths))
    clusters = np.repeat(np.arange(n.size), seeds)
    n, d = np.repeat(n, seeds), np.repeat(d, seeds)
    random = np.random.default_rng(seed)
    losses = synthetic.loss(n, d) * np.exp(noise * random.standard_normal(n.size))
    runs = synthetic.runs(n, d, losses)
    runs.clusters[:] = clusters
    return runs


def fit(runs):
    runs, delta, _ = outliers.clean_runs('chinchilla', runs)
    data = parametric_fit.to_log_data(runs)
    return runs, parametric_fit.fit_parametric_law('chinchilla', data, delta=delta, tries=6)


def count_covered(replicates, *, sizes, lengths, noise, seeds=1, draws=60):
    """Return how many intervals of each constant contain the truth."""
    covered = np.zeros(len(NAMES), int)
    for seed in range(replicates):
        runs, law = fit(make_runs(sizes, lengths, noise, seed, seeds=seeds))
        drawn = refits.draw_refits(runs, law, draws, seed)
        values = np.array([[constants[name] for name in NAMES] for constants in drawn.constants])
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        truth = np.array([synthetic.TRUTH[name] for name in NAMES])
        covered += (low <= truth) & (truth <= high)
    return covered


def test_intervals_from_nine_runs_hold():
    covered = count_covered(
        12, sizes=np.geomspace(2e7, 2e9, 3), lengths=np.geomspace(5e8, 5e10, 3), noise=0.005
    )
    assert (covered >= 9).all()  # 12 of 95%: 8 or fewer have a probability of .0002


@pytest.mark.slow
@pytest.mark.parametrize('noise', [0.003, 0.01])
@pytest.mark.parametrize(('sizes', 'lengths'), [(3, 3), (4, 3), (5, 5)])
def test_coverage_of_constants(sizes, lengths, noise):
    covered = count_covered(
        200,
        sizes=np.geomspace(2e7, 2e9, sizes),
        lengths=np.geomspace(5e8, 5e10, lengths),
        noise=noise,
        draws=300,
    )
    print(sizes, lengths, noise, covered / 200)
    assert (covered >= 180).all()


def test_no_interval_without_degrees_of_freedom():
    n = np.geomspace(2e7, 2e9, 5)
    runs = synthetic.runs(n, 20 * n[[1, 0, 3, 2, 4]], synthetic.loss(n, 20 * n[[1, 0, 3, 2, 4]]))
    law = parametric_fit.from_constants('chinchilla', synthetic.TRUTH)
    drawn = refits.draw_refits(runs, law, 20, 0)
    assert not drawn.constants
    assert 'no interval: 5 constants take all degrees of freedom of 5 configurations' in drawn.words


def test_many_clusters_are_resampled_and_few_redrawn():
    runs, law = fit(make_runs(np.geomspace(2e7, 2e9, 8), np.geomspace(5e8, 5e10, 8), 0.003, 0))
    assert 'with replacement' in refits.draw_refits(runs, law, 5, 0).words
    few = runs.take(np.arange(len(runs)) % 3 == 0)
    assert 'losses redrawn about the law' in refits.draw_refits(few, law, 5, 0).words


def test_noise_of_a_cluster_is_shared_where_the_law_is_rejected():
    """Seeds that agree about a wrong law are no evidence of a small error of it."""
    runs = make_runs(np.geomspace(2e7, 2e9, 4), np.geomspace(5e8, 5e10, 3), 1e-4, 0, seeds=4)
    bent = np.random.default_rng(1).normal(size=12)[runs.clusters] * 0.02
    bent_runs = synthetic.runs(runs.params, runs.tokens, runs.loss * np.exp(bent))
    bent_runs.clusters[:] = runs.clusters
    kept, law = fit(bent_runs)
    words = refits.draw_refits(kept, law, 20, 0).words
    assert 'known from 7 degrees of freedom' in words
    true_runs, true_law = fit(runs)
    assert 'from 43 degrees' in refits.draw_refits(true_runs, true_law, 20, 0).words


def test_lack_of_fit_of_a_true_and_of_a_wrong_law():
    runs = make_runs(np.geomspace(2e7, 2e9, 4), np.geomspace(5e8, 5e10, 3), 0.003, 3, seeds=3)
    _, law = fit(runs)
    residual = np.log(runs.loss / law.predict(runs.params, runs.tokens))
    test = lack_of_fit.test_lack_of_fit(runs, residual, 5)
    assert test['degrees_of_freedom'] == 7
    assert test['noise_degrees_of_freedom'] == 24
    assert 0.1 < test['chi_square_per_dof'] < 3
    assert not test['rejected']
    assert test['noise_sd'] == pytest.approx(0.003, rel=0.4)
    wrong = lack_of_fit.test_lack_of_fit(runs, residual + 0.02 * np.sin(runs.clusters), 5)
    assert wrong['rejected']
    assert wrong['chi_square_per_dof'] > 10
    assert wrong['noise_sd'] == pytest.approx(test['noise_sd'])
    assert lack_of_fit.test_lack_of_fit(synthetic.grid(3, 3), np.zeros(9), 5) is None


def test_a_named_law_refuses_to_forecast_without_degrees_of_freedom():
    runs = synthetic.grid(3, 3).take(np.array([0, 1, 2, 4, 8, 3]))
    runs.clusters[:] = [0, 1, 2, 3, 4, 4]
    with pytest.raises(UserError, match='no interval: 5 constants'):
        forecast.fit_forecaster(runs, 'chinchilla', draws=20, seed=0)
