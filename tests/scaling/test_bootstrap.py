"""Bootstrap intervals of a statistic contain the truth and are reproducible."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import bootstrap, power_law
from tests.scaling.test_power_law import SIZES, truth


def test_interval_contains_the_truth():
    random = np.random.default_rng(2)
    x = np.geomspace(1e3, 1e7, 40)
    loss = truth(x) * np.exp(0.005 * random.standard_normal(40))

    def compute(x, loss):
        law = power_law.fit_power_law(x, loss, with_irreducible=True, tries=1)
        return np.array([law.exponent, law.irreducible])

    values = bootstrap.bootstrap_statistic(x, loss, compute, draws=100, seed=0, sizes=5)
    exponent, floor = (
        bootstrap.summarize_draws(column, runs=40, seed=0, sizes=5) for column in values.T
    )
    assert exponent['low'] < 0.4 < exponent['high']
    assert floor['low'] < 1.1 < floor['high']
    assert exponent['high'] - exponent['low'] < 0.05
    assert exponent['note'] == ''
    assert 'runs, with replacement' in exponent['resampled']


def test_draws_are_reproducible_and_have_enough_sizes():
    seen = []

    def compute(x, loss):
        seen.append(np.unique(x).size)
        return loss.mean()

    first, again, other = (
        bootstrap.bootstrap_statistic(
            SIZES[:5], truth(SIZES[:5]), compute, draws=200, seed=seed, sizes=4
        )
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (200, 1)
    assert min(seen) == 4
    # Five runs have 126 resamples, of which 21 have four sizes or more: each is computed once.
    assert len(seen) <= 3 * 21


def test_few_runs_get_a_note():
    assert 'too few' in bootstrap.summarize_draws(np.arange(10.0), runs=4, seed=0, sizes=3)['note']
    with pytest.raises(UserError, match='needs at least 4 sizes, got 3'):
        bootstrap.bootstrap_statistic(
            SIZES[:3], truth(SIZES[:3]), np.minimum, draws=1, seed=0, sizes=4
        )
