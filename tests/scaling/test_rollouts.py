"""Backtests: which runs are fitted and forecast, the baselines, the scores, the widening."""

import math

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rollouts
from gpt_jax.scaling.rollouts import Rollout
from tests.scaling import synthetic


def make_rollout(predicted, low, high, reached=2.0, factor=10, origin=1e18, law='auto'):
    where = (law, factor, origin, 'x', 1e8, 2e9, 1.2e18)
    return Rollout(*where, reached, predicted, low, high)


def test_origins_have_enough_runs_below_and_others_above():
    flops = np.repeat(10.0 ** np.arange(17, 21), 3)
    # 1e17 has three runs; nothing is larger than 1e20.
    assert rollouts.find_origins(flops) == [1e18, 1e19]
    assert rollouts.find_origins(flops[:3]) == []


def test_targets_are_near_their_factor():
    flops = np.array([1e18, 2.9e18, 4e18, 1.1e19, 9e19, 1e21])
    targets = {factor: list(found) for factor, found in rollouts.find_targets(flops, 1e18).items()}
    assert targets == {3: [1, 2], 10: [3], 100: [4]}


def test_later_runs_do_not_change_a_forecast():
    runs = synthetic.isoflop(budgets=4, sizes=5)
    made = rollouts.run_backtest(runs, laws=('auto',))
    first = made[0].origin
    changed = runs.take(np.arange(len(runs)))
    changed.loss[changed.flops > first] *= 1.2
    again = rollouts.run_backtest(changed, laws=('auto',))
    forecasts = [
        [(r.law, r.name, r.predicted, r.low, r.high) for r in one if r.origin == first]
        for one in (made, again)
    ]
    np.testing.assert_equal(*forecasts)
    assert all(r.flops > r.origin for r in made)


def test_forecasts_of_a_true_law_are_inside_and_better_than_the_baselines():
    runs = synthetic.isoflop()
    rows = rollouts.summarize_rollouts(rollouts.run_backtest(runs, laws=('auto', 'chinchilla')))
    by_law = {row['law']: row for row in rows if row['factor'] == 10}
    assert by_law['auto']['inside'] == by_law['auto']['rollouts']
    assert by_law['chinchilla']['median_percent'] < 0.1
    assert by_law['auto']['median_percent'] < by_law['no change']['median_percent'] / 4
    assert by_law['line']['width_percent'] is None


def test_a_line_through_the_last_two_amounts_continues_a_power_law():
    n = np.geomspace(1e7, 1e10, 13)
    runs = synthetic.runs(n, 20 * n, 30 * (6 * n * 20 * n) ** -0.05)
    made = rollouts.run_backtest(runs, laws=())
    lines = [r for r in made if r.law == 'line']
    assert lines
    assert all(r.predicted == pytest.approx(r.reached, rel=1e-9) for r in lines)
    unchanged = [r for r in made if r.law == 'no change']
    assert all(r.predicted == runs.loss[runs.flops <= r.origin].min() for r in unchanged)


def test_scores_by_hand():
    made = [
        make_rollout(2.02, 1.9, 2.1),
        make_rollout(1.94, 1.92, 1.98, origin=2e18),
        make_rollout(2.2, math.nan, math.nan, law='line'),
    ]
    auto, line = rollouts.summarize_rollouts(made)
    assert (auto['rollouts'], auto['origins'], auto['inside']) == (2, 2, 1)
    assert auto['median_percent'] == pytest.approx((1 + 3) / 2)
    assert auto['bias_percent'] == pytest.approx((1 - 3) / 2)
    assert auto['worst_percent'] == pytest.approx(-3)
    assert auto['width_percent'] == pytest.approx((10 + 3) / 2)
    # Missed by 0.02, 1%; an interval of 95% is charged 40 times that.
    assert auto['score_percent'] == pytest.approx((10 + 3 + 40 * 1) / 2)
    assert line['inside'] is None
    assert line['bias_percent'] == pytest.approx(10)


def test_intervals_are_widened_until_the_rollouts_are_inside():
    # The errors are 2% and the half-widths 1%.
    made = [
        make_rollout(2.0 * sign, 2.0 * sign / 1.01, 2.0 * sign * 1.01, 2.0, origin=1e18 * k)
        for k, sign in enumerate([1.02, 1 / 1.02] * 5, 1)
    ]
    runs = synthetic.runs([1e8, 1e8], [1e9, 2e9], [3, 2])
    new = (1e9, 4e9)  # 20 times the compute
    widening, row = rollouts.find_widening(made, runs, *new)
    assert widening == pytest.approx(math.log(1.02) / math.log(1.01))
    assert (row['factor'], row['rollouts'], row['inside']) == (10, 10, 0)
    assert rollouts.find_widening(made[:7], runs, *new)[0] == 1  # too few
    inside = [r._replace(reached=r.predicted) for r in made]
    assert rollouts.find_widening(inside, runs, *new)[0] == 1
    assert rollouts.find_widening([], runs, *new) == (1.0, {})


def test_without_larger_runs_there_is_nothing_to_forecast():
    n = np.geomspace(1e8, 1.2e8, 8)
    with pytest.raises(UserError, match=r'needs 6 runs, and others of at least 1\.88 times'):
        rollouts.run_backtest(synthetic.runs(n, 20 * n, 3 - n / 1e9))
