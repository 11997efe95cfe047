"""Profiles identify the constants that the runs determine, and no others."""

import numpy as np
import pytest

from gpt_jax.scaling import parametric_fit, profiles
from tests.scaling import synthetic


def profile_all(law, runs, tries=8):
    data = parametric_fit.to_log_data(runs)
    fitted = parametric_fit.fit_parametric_law(law, data, tries=tries)
    return {
        name: profiles.profile_constant(fitted, data, name)
        for name in profiles.PROFILED_CONSTANTS[law]
    }


def test_exact_grid_identifies_all_constants():
    results = profile_all('chinchilla', synthetic.grid(6, 6))
    for name, result in results.items():
        assert result['identified'], name
        assert not result['note']
        assert result['low'] == pytest.approx(synthetic.TRUTH[name], rel=1e-3)
        assert result['high'] == pytest.approx(synthetic.TRUTH[name], rel=1e-3)
        assert len(result['values']) == len(result['objective']) == len(result['statistic'])


def test_few_noisy_lengths_do_not_identify_the_exponents():
    """A decade of N, a factor of two in D, 1% noise: bootstrap exponents span a factor of 15."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e9, 5), np.geomspace(1e10, 2e10, 5)))
    noise = np.random.default_rng(0).standard_normal(n.size)
    results = profile_all(
        'chinchilla', synthetic.runs(n, d, synthetic.loss(n, d) * np.exp(0.01 * noise)), tries=12
    )
    assert not results['beta']['identified']
    assert 'not identified: beta from' in results['beta']['note']
    assert not results['alpha']['identified']


@pytest.mark.slow
def test_range_of_a_noisy_grid_contains_the_truth():
    inside = 0
    for seed in range(3):
        results = profile_all('chinchilla', synthetic.grid(7, 6, noise=0.005, seed=seed), tries=3)
        assert all(result['identified'] for result in results.values())
        inside += results['alpha']['low'] < synthetic.TRUTH['alpha'] < results['alpha']['high']
    assert inside >= 2  # 95% of them


def test_irreducible_loss_near_zero_is_not_identified():
    """Where the loss is a power of N plus one of D, any small E fits as well."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.005 * np.random.default_rng(1).standard_normal(n.size))
    results = profile_all(
        'chinchilla', synthetic.runs(n, d, (30 / n**0.15 + 40 / d**0.15) * noise), tries=12
    )
    assert results['E']['low'] is None
    assert 'from below' in results['E']['note']


@pytest.mark.parametrize(
    ('law', 'names'), [('tied', ['E', 'A', 'B', 'alpha']), ('kaplan', ['alphaN', 'alphaD'])]
)
def test_other_laws_have_profiles_too(law, names):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    loss = {
        'tied': 1.7 + 300 / n**0.3 + 500 / d**0.3,
        'kaplan': ((9e13 / n) ** (0.076 / 0.095) + 5e13 / d) ** 0.095,
    }[law]
    results = profile_all(law, synthetic.runs(n, d, loss))
    assert all(results[name]['identified'] for name in names)
    if law == 'kaplan':
        assert results['alphaN']['low'] == pytest.approx(0.076, rel=1e-3)
