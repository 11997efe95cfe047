"""Does the profile say which constants the runs identify, and which could be anything?"""

import numpy as np
import pytest

from gpt_jax.scaling import profiles, surface
from tests.scaling import synthetic


def found(law, runs, tries=8):
    given = surface.data(runs)
    fitted = surface.fit(law, given, tries=tries)
    return {name: profiles.profile(fitted, given, name) for name in profiles.NAMES[law]}


def test_exact_runs_over_both_identify_everything():
    made = found('chinchilla', synthetic.grid(6, 6))
    for name, one in made.items():
        assert one['identified'], name
        assert not one['note']
        assert one['low'] == pytest.approx(synthetic.TRUTH[name], rel=1e-3)
        assert one['high'] == pytest.approx(synthetic.TRUTH[name], rel=1e-3)
        assert len(one['values']) == len(one['objective']) == len(one['statistic'])


def test_few_lengths_with_noise_do_not_identify_the_exponents():
    """A decade of N and a factor of two in D, 1% noise: the bootstrap's exponents span a factor of 15 and more."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e9, 5), np.geomspace(1e10, 2e10, 5)))
    noise = np.random.default_rng(0).standard_normal(n.size)
    made = found('chinchilla', synthetic.runs(n, d, synthetic.loss(n, d) * np.exp(0.01 * noise)), tries=12)
    assert not made['beta']['identified']
    assert 'not identified: beta from' in made['beta']['note']
    assert not made['alpha']['identified']


def test_noise_that_the_grid_bears_leaves_the_truth_inside():
    inside = 0
    for seed in range(6):
        made = found('chinchilla', synthetic.grid(7, 6, noise=0.005, seed=seed), tries=3)
        assert all(one['identified'] for one in made.values())
        inside += made['alpha']['low'] < synthetic.TRUTH['alpha'] < made['alpha']['high']
    assert inside >= 4  # 95% of them


def test_an_irreducible_loss_that_may_be_none_is_not_identified():
    """Where the loss is one power of N plus one of D without E, anything small is as good."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.exp(0.005 * np.random.default_rng(1).standard_normal(n.size))
    made = found('chinchilla', synthetic.runs(n, d, (30 / n**0.15 + 40 / d**0.15) * noise), tries=12)
    assert made['E']['low'] is None
    assert 'from below' in made['E']['note']


@pytest.mark.parametrize(('law', 'names'), [('tied', ['E', 'A', 'B', 'alpha']), ('kaplan', ['alphaN', 'alphaD'])])
def test_other_laws_have_profiles_too(law, names):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    loss = {
        'tied': 1.7 + 300 / n**0.3 + 500 / d**0.3,
        'kaplan': ((9e13 / n) ** (0.076 / 0.095) + 5e13 / d) ** 0.095,
    }[law]
    made = found(law, synthetic.runs(n, d, loss))
    assert all(made[name]['identified'] for name in names)
    if law == 'kaplan':
        assert made['alphaN']['low'] == pytest.approx(0.076, rel=1e-3)
