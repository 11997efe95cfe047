"""Do the three approaches agree with the truth, also where a plain parabola does not?"""

import dataclasses

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, approaches, optimal
from tests.scaling import synthetic

ASYMMETRIC = {'E': 1.7, 'A': 60.0, 'B': 60000.0, 'alpha': 0.25, 'beta': 0.48}


def test_each_approach_finds_the_exponent():
    result = analysis.fit(synthetic.isoflop(), which=('1', '2', '3'), draws=40, starts=16, at_flops=(1e23,))
    truth = optimal.split(synthetic.TRUTH)
    for number, slack in (('1', 0.04), ('2', 0.005), ('3', 0.001)):
        assert result['approaches'][number]['a'] == pytest.approx(truth.a, abs=slack), number
    n, d = truth.at(1e23)
    at = result['approaches']['3']['at'][0]
    assert at['params'] == pytest.approx(float(n), rel=1e-3)
    assert at['tokens'] == pytest.approx(float(d), rel=1e-3)
    assert at['loss'] == pytest.approx(float(synthetic.loss(n, d)), rel=1e-5)
    assert result['disagreements'] == []


def plain_parabola(given):
    """What is usually done: one parabola through all points of a budget."""
    logs = []
    for _, group in approaches.budgets(given):
        x = np.log(given.params[group])
        b2, b1, _ = np.polyfit(x - x.mean(), given.loss[group], 2)
        logs.append((np.log(given.flops[group][0]), x.mean() - b1 / (2 * b2)))
    return optimal.from_line(*np.array(logs).T, np.ones(len(logs)), optimal.SIX)


def test_an_asymmetric_surface_does_not_mislead():
    # The higher the budget, the narrower the sweep around what was guessed: the parabola's shift changes with it.
    flops = np.geomspace(1e18, 1e21, 5)
    best, _ = optimal.split(ASYMMETRIC).at(flops)
    n, c = [], []
    for budget, middle, reach in zip(flops, best, (30, 24, 16, 8, 4), strict=True):
        sizes = middle * np.geomspace(1 / reach, reach, 15)
        n, c = [*n, *sizes], [*c, *([budget] * 15)]
    n, c = np.array(n), np.array(c)
    given = synthetic.runs(n, c / (6 * n), synthetic.loss(n, c / (6 * n), ASYMMETRIC), budget=c)
    truth, _ = optimal.split(ASYMMETRIC).at(1e24)
    naive, _ = plain_parabola(given).at(1e24)
    found = approaches.minima(given)
    ours, _ = approaches.isoflop(found, optimal.SIX).at(1e24)
    akima, _ = approaches.isoflop(found, optimal.SIX, akima=True).at(1e24)
    assert abs(np.log(naive / truth)) > np.log(1.2)
    assert abs(np.log(ours / truth)) < np.log(1.05)
    assert abs(np.log(akima / truth)) < np.log(1.05)


def test_a_minimum_on_the_edge_is_said_and_does_not_count():
    given = synthetic.isoflop()
    first = given.more['budget'] == given.more['budget'].min()
    smallest = np.sort(given.params[first])[:4]
    cut = given.take(~first | np.isin(given.params, smallest))
    found = approaches.minima(cut)
    assert 'largest size is the best' in found[0].note
    assert all(not one.note for one in found[1:])
    assert approaches.isoflop(found, optimal.SIX).a == pytest.approx(optimal.split(synthetic.TRUTH).a, abs=0.01)


def test_budgets_are_found_by_their_flops():
    given = synthetic.isoflop()
    more = {name: values for name, values in given.more.items() if name != 'budget'}
    assert len(approaches.budgets(dataclasses.replace(given, more=more))) == 6
    with pytest.raises(UserError, match='it takes at least two'):
        approaches.minima(given.take(given.flops < 2e18))


def test_noise_draws_give_the_spread():
    random = np.random.default_rng(0)
    given = synthetic.isoflop()
    noisy = synthetic.runs(given.params, given.tokens, given.loss * np.exp(0.003 * random.standard_normal(len(given))),
                           budget=given.more['budget'])  # fmt: skip
    found = approaches.minima(noisy)
    truth, _ = optimal.split(synthetic.TRUTH).at([one.flops for one in found])
    z = [np.log(one.params / n) / one.spread for one, n in zip(found, truth, strict=True)]
    assert np.abs(z).max() < 4
    assert all(one.spread > 0.005 for one in found)


def test_the_runs_own_cost():
    given = synthetic.grid()
    assert optimal.cost(given) == pytest.approx(optimal.SIX)
    other = dataclasses.replace(given, flops=11 * given.params**0.9 * given.tokens)
    assert optimal.cost(other) == pytest.approx((11, 0.9), rel=1e-6)


def test_budgets_of_another_count_are_no_isoflop_curves():
    """Under another count of parameters the runs of one budget have different FLOPs: read between runs instead."""
    given = synthetic.isoflop(budgets=9, sizes=9)
    blocks = given.params - 40 * given.params ** (2 / 3)
    other = dataclasses.replace(given, params=blocks, flops=6 * blocks * given.tokens, more={'budget': given.flops})
    assert np.array_equal(approaches.budget(dataclasses.replace(given, more={'budget': given.flops})), given.flops)
    assert np.array_equal(approaches.budget(other), other.flops)


def test_the_envelope_takes_one_run_of_a_budget_wherever_it_lies():
    """Budgets whose runs spread by 3% about the edge of a bin: only the best of each is on the envelope."""
    random = np.random.default_rng(0)
    given = synthetic.isoflop(budgets=6, sizes=9)
    flops = given.flops * np.exp(0.03 * random.uniform(-1, 1, len(given)))
    tokens = flops / (6 * given.params)
    moved = synthetic.runs(given.params, tokens, synthetic.loss(given.params, tokens))
    assert len(approaches.envelope(moved)) == 6
    named = dataclasses.replace(moved, more={'budget': given.flops})
    assert len(approaches.envelope(named)) == 6
