"""The expected optimum of a new budget is near the truth, and from the best usable source."""

import numpy as np
import pytest

from gpt_jax.scaling import compute_optimal
from gpt_jax.scaling.plan import isoflop_plan, trial_rows
from tests.scaling import sweep_records, synthetic

SMALL = {1e14: (64, 96, 128, 160, 192), 2e14: (64, 96, 128, 160, 224)}
TRUE = compute_optimal.compute_split(sweep_records.LAW)


def test_two_small_budgets_recentre_the_large_ones(tmp_path):
    path, _ = sweep_records.write(tmp_path, SMALL)
    source = isoflop_plan.guess_from_runs(trial_rows.read_previous_runs(path, {}, '').runs)
    assert source.words.startswith('approach 2, the line through 2 minima')
    for flops in (8e14, 2e15):
        assert source.split.at(flops)[0] == pytest.approx(TRUE.at(flops)[0], rel=0.05)
        assert source.split.at(flops)[1] == pytest.approx(TRUE.at(flops)[1], rel=0.05)
        assert (
            abs(np.log(isoflop_plan.guess_from_literature().split.at(flops)[0] / TRUE.at(flops)[0]))
            > 0.1
        )  # it did move


def test_one_minimum_falls_back_to_the_parametric_law(tmp_path):
    path, _ = sweep_records.write(tmp_path, {1e14: SMALL[1e14], 2e14: (160, 192, 224, 256)})
    source = isoflop_plan.guess_from_runs(trial_rows.read_previous_runs(path, {}, '').runs)
    assert source.words.startswith('the parametric law through 9 runs')
    assert '1 of 2 curves have their minimum inside' in source.passed_over[0]
    assert source.split.at(2e15)[0] == pytest.approx(TRUE.at(2e15)[0], rel=0.1)


def test_one_budget_gives_its_minimum_and_a_half_power(tmp_path):
    path, _ = sweep_records.write(tmp_path, {1e14: SMALL[1e14]})
    source = isoflop_plan.guess_from_runs(trial_rows.read_previous_runs(path, {}, '').runs)
    assert source.words == 'the minima of budgets done (1), N* ~ C^0.5 assumed'
    assert len(source.passed_over) == 2
    for flops in (1e14, 4e14):
        best = TRUE.at(1e14)[0] * (flops / 1e14) ** 0.5
        assert source.split.at(flops)[0] == pytest.approx(best, rel=0.05)
        assert source.split.at(flops)[1] == pytest.approx(flops / (6 * best), rel=0.05)


def test_without_a_minimum_the_best_run_is_used(tmp_path):
    path, _ = sweep_records.write(tmp_path, {1e14: (160, 192, 224, 256)})
    runs = trial_rows.read_previous_runs(path, {}, '').runs
    source = isoflop_plan.guess_from_runs(runs)
    assert source.words == 'the best runs of budgets done (1), N* ~ C^0.5 assumed'
    assert source.split.at(4e14)[0] == pytest.approx(2 * runs.params.min(), rel=0.01)


def test_impossible_exponent_is_passed_over():
    flops = np.repeat([1e18, 2e18], 5)
    factors = np.tile([0.25, 0.5, 1, 2, 4], 2)
    best = np.where(flops == 1e18, 1e8, 3e7)  # a larger budget with a smaller optimum
    losses = 3 + 0.1 * np.log(factors) ** 2
    runs = synthetic.runs(best * factors, flops / (6 * best * factors), losses, budget=flops)
    source = isoflop_plan.guess_from_runs(runs)
    assert 'an exponent that no optimum has' in source.passed_over[0]
    assert 0 < source.split.a < 1
