"""The compute-optimal split of a law, and the cost of the runs."""

import dataclasses

import pytest

from gpt_jax.scaling import compute_optimal
from tests.scaling import synthetic


def test_optimal_split_is_a_minimum():
    for cost in (compute_optimal.COST_6ND, compute_optimal.ComputeCost(9.0, 0.93)):
        split = compute_optimal.compute_split(synthetic.TRUTH, cost)
        n, d = split.at(1e21)
        assert cost.k * n**cost.p * d == pytest.approx(1e21)
        lowest = synthetic.loss(n, d)
        for factor in (0.99, 1.01):
            other = n * factor
            assert synthetic.loss(other, 1e21 / (cost.k * other**cost.p)) > lowest


def test_cost_of_the_runs_is_fitted():
    runs = synthetic.grid()
    assert compute_optimal.fit_cost(runs) == pytest.approx(compute_optimal.COST_6ND)
    other = dataclasses.replace(runs, flops=11 * runs.params**0.9 * runs.tokens)
    assert compute_optimal.fit_cost(other) == pytest.approx((11, 0.9), rel=1e-6)
