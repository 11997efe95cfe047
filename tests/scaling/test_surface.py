"""Does a fit over parameters and tokens find the truth that runs were made from, and the optimum that others found?"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling import forms, optimal, outliers, runs, surface
from tests.scaling import synthetic

CASES = Path(__file__).parents[3] / 'shared' / 'cases'


def case(name):
    if not (CASES / name).exists():
        pytest.skip(f'{name} is not at hand')
    return str(CASES / name)


@pytest.mark.parametrize('law', list(forms.LAWS))
def test_gradients_are_those_of_differences(law):
    random = np.random.default_rng(0)
    n, d = random.uniform(12, 22, 30), random.uniform(16, 26, 30)
    given = forms.Data(n, d, d - random.uniform(0.01, 2, 30), random.uniform(0.7, 1.2, 30))
    theta = {
        'chinchilla': [0.6, 6.0, 7.0, 0.34, 0.3], 'tied': [0.6, 6.0, 7.0, 0.32], 'kaplan': [20.0, 28.0, 0.8, 0.1],
        'repeated': [0.6, 6.0, 7.0, 0.34, 0.3, 2.7, 1.7],
    }[law]  # fmt: skip
    rule, theta = forms.LAWS[law], np.array(theta)
    loss, gradient = rule.predict(theta, given)
    assert loss.shape == n.shape
    moved = range(len(theta)) if law != 'repeated' else (5, 6)  # its base is held
    for row, i in zip(gradient, moved, strict=True):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        difference = (rule.predict(theta + step, given)[0] - rule.predict(theta - step, given)[0]) / 2e-6
        np.testing.assert_allclose(row, difference, rtol=1e-4, atol=1e-7)


def test_constants_go_in_and_come_out():
    for law, rule in forms.LAWS.items():
        named = {'E': 1.5, 'A': 300.0, 'B': 900.0, 'alpha': 0.3, 'beta': 0.3, 'R_D': 15.0, 'R_N': 5.0,
                 'Nc': 8.8e13, 'Dc': 5.4e13, 'alphaN': 0.076, 'alphaD': 0.095}  # fmt: skip
        back = rule.unpack(rule.pack(named))
        assert back == pytest.approx({name: named[name] for name in back}), law


def test_the_truth_is_recovered_exactly():
    found = surface.fit('chinchilla', surface.data(synthetic.grid()), tries=24)
    assert found.constants == pytest.approx(synthetic.TRUTH, rel=1e-3)
    assert found.objective < 1e-9


def test_the_tied_law_and_kaplans():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e10, 9), np.geomspace(1e8, 1e12, 9)))
    tied = {'E': 1.7, 'A': 200.0, 'B': 300.0, 'alpha': 0.28, 'beta': 0.28}
    found = surface.fit('tied', surface.data(synthetic.runs(n, d, synthetic.loss(n, d, tied))))
    assert found.constants == pytest.approx(tied, rel=1e-3)
    kaplan = {'Nc': 6.4e13, 'Dc': 1.8e13, 'alphaN': 0.076, 'alphaD': 0.103}
    losses = ((kaplan['Nc'] / n) ** (kaplan['alphaN'] / kaplan['alphaD']) + kaplan['Dc'] / d) ** kaplan['alphaD']
    found = surface.fit('kaplan', surface.data(synthetic.runs(n, d, losses)))
    assert found.constants == pytest.approx(kaplan, rel=0.02)
    assert found.predict(n, d) == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize('given', [True, False], ids=['base given', 'base fitted'])
def test_repeated_data(given):
    truth = synthetic.TRUTH | {'R_D': 15.4, 'R_N': 5.3}
    rule = forms.LAWS['repeated']
    rows = []
    for n, unique, epochs in itertools.product(np.geomspace(1e7, 1e10, 6), np.geomspace(1e8, 1e11, 4),
                                               (1, 2, 4, 16, 64)):  # fmt: skip
        rows.append((n, unique * epochs, unique))
    n, d, unique = np.array(rows).T
    log_loss, _ = rule.predict(rule.pack(truth), forms.Data(np.log(n), np.log(d), np.log(unique), np.log(n)))
    made = synthetic.runs(n, d, np.exp(log_loss), unique_tokens=unique)
    found = surface.fit('repeated', surface.data(made), constants=truth if given else None)
    assert found.constants['R_D'] == pytest.approx(15.4, rel=0.02)
    assert found.constants['R_N'] == pytest.approx(5.3, rel=0.02)
    assert found.constants['alpha'] == pytest.approx(truth['alpha'], rel=0.01)


def test_too_few_runs_are_refused():
    with pytest.raises(UserError, match='cannot carry 5 constants'):
        surface.fit('chinchilla', surface.data(synthetic.grid(2, 2)))


def test_the_visible_synthetic_case():
    found = surface.fit('chinchilla', surface.data(runs.read(case('synth_exact_visible.csv'))))
    assert found.constants['E'] == pytest.approx(1.9, rel=1e-3)
    assert found.constants['alpha'] == pytest.approx(0.31, rel=1e-3)
    assert found.constants['beta'] == pytest.approx(0.34, rel=1e-3)
    assert found.constants['A'] == pytest.approx(300, rel=0.01)
    assert found.constants['B'] == pytest.approx(900, rel=0.01)


def test_chinchilla_as_epoch_refitted_it():
    read = runs.read(case('chinchilla_epoch245.csv'), drop_highest=5)
    kept = outliers.beyond('chinchilla', read, delta=1e-3)
    assert len(kept) == 240, kept.left_out
    found = surface.fit('chinchilla', surface.data(kept))
    assert found.objective <= 1.0190e-3
    assert found.constants['alpha'] == pytest.approx(0.3473, abs=0.0015)
    assert found.constants['beta'] == pytest.approx(0.3668, abs=0.0025)
    assert found.constants['E'] == pytest.approx(1.8172, abs=0.002)
    assert found.constants['A'] == pytest.approx(478, rel=0.02)
    assert found.constants['B'] == pytest.approx(2130, rel=0.035)
    n, d = optimal.split(found.constants).at(5.88e23)
    assert 17 < d / n < 19.5


def test_the_optimal_split_is_a_minimum():
    for cost in (optimal.SIX, optimal.Cost(9.0, 0.93)):
        split = optimal.split(synthetic.TRUTH, cost)
        n, d = split.at(1e21)
        assert cost.k * n**cost.p * d == pytest.approx(1e21)
        there = synthetic.loss(n, d)
        for factor in (0.99, 1.01):
            other = n * factor
            assert synthetic.loss(other, 1e21 / (cost.k * other**cost.p)) > there
