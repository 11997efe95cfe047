"""Approach 1: crossings of the curves of sizes, best runs of budgets, and what is left out."""

import dataclasses

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import envelope, runs
from gpt_jax.scaling.compute_optimal import COST_6ND, compute_split
from tests.scaling import simulated_sweeps, synthetic
from tests.scaling.test_parametric_fit import case


def test_envelope_has_one_run_per_budget():
    """Runs of a budget that spread by 3% about the edge of a bin give one point."""
    random = np.random.default_rng(0)
    runs = synthetic.isoflop(budgets=6, sizes=9)
    flops = runs.flops * np.exp(0.03 * random.uniform(-1, 1, len(runs)))
    tokens = flops / (6 * runs.params)
    moved = synthetic.runs(runs.params, tokens, synthetic.loss(runs.params, tokens))
    assert len(envelope.find_envelope(moved)) == 6
    named = dataclasses.replace(moved, extra={'budget': runs.flops})
    assert len(envelope.find_envelope(named)) == 6


def test_sizes_that_share_few_budgets_are_compared_where_their_curves_cross():
    """Five sizes of 5 to 80 tokens per parameter: the best of each budget is always at an edge."""
    given = runs.read_runs(case('reports/grid_noise_free.csv'))
    fitted = envelope.fit_envelope(given, COST_6ND)
    assert fitted.between_runs
    assert fitted.split.a == pytest.approx(0.5126, abs=0.003)
    drawn = [split.a for split in envelope.draw_envelope_lines(fitted, COST_6ND, 400, 0)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert low < 0.5126 < high


def test_crossings_of_a_grid_follow_the_law():
    fitted = envelope.fit_envelope(synthetic.grid(), COST_6ND)
    truth = compute_split(synthetic.TRUTH)
    assert fitted.split.a == pytest.approx(truth.a, abs=0.002)
    expected = np.log(truth.at(np.exp(fitted.log_flops))[0])
    np.testing.assert_allclose(fitted.log_params, expected, atol=0.15)


def test_budgets_whose_best_size_is_at_the_edge_are_left_out():
    given = synthetic.isoflop()
    budget = given.extra['budget']
    first, second = np.unique(budget)[:2]
    smallest = np.sort(given.params[budget == first])[:4]
    cut = given.take((budget != first) | np.isin(given.params, smallest))
    fitted = envelope.fit_envelope(cut, COST_6ND)
    assert fitted.left_out == pytest.approx([first])
    assert len(fitted.log_flops) == 5
    with pytest.raises(UserError, match='got 1 of 2'):
        envelope.fit_envelope(cut.take(cut.extra['budget'] <= second), COST_6ND)


@pytest.mark.parametrize('law', simulated_sweeps.LAWS)
def test_intervals_hold(law):
    """At least 26 of 30; see test_isoflop.py for more."""
    truth, random = simulated_sweeps.LAWS[law], np.random.default_rng(0)
    inside = []
    for _ in range(30):
        made = simulated_sweeps.make_sweep(truth, 5, 5, 0.003, random)
        fitted = envelope.fit_envelope(made, COST_6ND)
        drawn = envelope.draw_envelope_lines(fitted, COST_6ND, 400, 0)
        inside.append(simulated_sweeps.is_inside(truth, made, drawn))
    assert np.mean(inside, axis=0).min() >= 0.85
