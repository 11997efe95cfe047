"""Compute multipliers of simulated recipes, whose truth is known."""

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import comparison, compute_optimal, frontier_fit
from tests.scaling import simulated_recipes, synthetic
from tests.scaling.simulated_recipes import MULTIPLIER, chinchilla, isoflop, ladder, skaling


def pair(design, law, noise=0.0, seeds=(1, 1), saves=(1.0, MULTIPLIER), seed=0):
    random = np.random.default_rng(seed)
    return [
        simulated_recipes.recipe(design, law, saved, random, noise=noise, seeds=count)
        for saved, count in zip(saves, seeds, strict=True)
    ]


def log_width(result):
    return np.log(result['recipes'][1]['overall']['high'] / result['recipes'][1]['overall']['low'])


@pytest.mark.parametrize(
    ('design', 'law'), [(isoflop(4, 4), chinchilla), (isoflop(4, 4), skaling), (ladder(6), skaling)]
)
def test_interval_collapses_to_the_truth_without_noise(design, law):
    result = comparison.compare_recipes(pair(design, law), draws=100)
    assert result['warning'] == ''
    assert result['failed'] == 0
    for low, high in zip(result['low'], result['high'], strict=True):
        assert 0.998 * MULTIPLIER < low <= high < 1.002 * MULTIPLIER
    at_budget = result['at_cost'][0]['recipes'][1]
    assert at_budget['multiplier'] == pytest.approx(MULTIPLIER, rel=1e-3)
    assert at_budget['p_best'] == 1


def test_frontier_is_the_least_loss_over_sizes():
    """The constants are those of the law itself, minimized over N in closed form."""
    truth = {'E': 1.8172, 'A': 482.01, 'B': 2085.43, 'alpha': 0.3478, 'beta': 0.3658}
    result = comparison.compare_recipes(pair(isoflop(4, 4), chinchilla), draws=10)
    frontier = result['recipes'][0]['frontier']
    n, d = compute_optimal.compute_split(truth).at(np.array(frontier['cost']))
    assert frontier['loss'] == pytest.approx(chinchilla(n, d), rel=1e-5)
    law = result['recipes'][0]['law']
    assert law['E'] == pytest.approx(1.8172, rel=1e-3)
    assert law['a'] == pytest.approx(0.3658 / (0.3478 + 0.3658), rel=1e-3)
    assert law['kappa'] == pytest.approx(1, rel=0.01)
    assert law['G'] * 1e19 ** law['a'] == pytest.approx(
        float(compute_optimal.compute_split(truth).at(np.array(1e19))[0]), rel=1e-3
    )


def test_gradient_is_that_of_the_law():
    random = np.random.default_rng(0)
    cost, size = random.normal(size=(2, 9))
    points = frontier_fit.Points(cost, size, size, np.ones(9), 0.0, 0.0, 1.1, False)
    theta = np.array([[0.4, 0.1, -1.7, 0.1, 0.3, -0.4]])
    _, gradient = frontier_fit.predict(theta, points)
    for constant in range(6):
        step = np.zeros(6)
        step[constant] = 1e-6
        above, below = (frontier_fit.predict(theta + s * step, points)[0] for s in (1, -1))
        assert gradient[..., constant] == pytest.approx((above - below) / 2e-6, abs=1e-8)


@pytest.mark.parametrize(
    ('design', 'law', 'noise'), [(ladder(6), skaling, 0.003), (isoflop(3, 4), chinchilla, 0.01)]
)
def test_intervals_hold(design, law, noise):
    """Of 15 comparisons, 13 or more are inside: fewer has a probability of 4% if 95% hold."""
    inside, width = simulated_recipes.measure_coverage(
        design, law, noise=noise, seeds=1, replicates=15, draws=120
    )
    assert (15 * inside >= 13).all()
    assert (width < 1.8).all()  # the standard deviation of 15 has an error of 19%


@pytest.mark.slow
@pytest.mark.parametrize('noise', [0.003, 0.01])
@pytest.mark.parametrize('law', [chinchilla, skaling])
@pytest.mark.parametrize(
    ('design', 'seeds'), [(isoflop(5, 5), 1), (ladder(5), 1), (ladder(6), 1), (ladder(5), 3)]
)
def test_intervals_hold_in_200_comparisons(design, seeds, law, noise):
    inside, width = simulated_recipes.measure_coverage(
        design, law, noise=noise, seeds=seeds, replicates=200, draws=400
    )
    assert (inside >= 0.90).all()
    assert (width < 1.65).all()  # Student's t of 4 degrees of freedom needs 1.33 on average
    assert 0.92 <= inside[3] <= 0.99
    assert width[3] < 1.45


def test_seeds_save_nothing():
    """Equal recipes, one with five seeds of each run: the mean over replicates is 1."""
    logs = []
    for seed in range(8):
        given = pair(isoflop(4, 4), chinchilla, 0.005, seeds=(5, 1), saves=(1, 1), seed=seed)
        made = comparison.compare_recipes(given, draws=0)['recipes'][1]
        logs.append(np.log(made['overall']['multiplier']))
    assert abs(np.mean(logs)) < 0.02  # its standard error is 0.01; the best of five saves 7%


def test_only_the_last_checkpoint_of_a_run_counts():
    first, second = pair(isoflop(3, 4), chinchilla, 0.002)
    early = simulated_recipes.recipe(
        isoflop(3, 4), chinchilla, 1.0, np.random.default_rng(0), noise=0.1
    )
    early.tokens[:] /= 2
    both = synthetic.runs(
        *(
            np.concatenate([getattr(one, name) for one in (first, early)])
            for name in ('params', 'tokens', 'loss')
        )
    )
    both.clusters[:] = np.tile(np.arange(12), 2)
    result = comparison.compare_recipes([both, second], draws=0)
    assert len(result['left_out'][0]) == 12
    alone = comparison.compare_recipes([first, second], draws=0)
    assert result['multiplier'] == pytest.approx(alone['multiplier'])


def test_what_recipes_share_cancels():
    """With the same noise in both recipes, the interval is far narrower, and equal runs are 1."""
    first, second = pair(isoflop(4, 4), chinchilla, 0.005)
    independent = comparison.compare_recipes([first, second], draws=150)
    noise = first.loss / chinchilla(first.params, first.tokens)
    clean = pair(isoflop(4, 4), chinchilla)[1]
    clean.loss[:] *= noise * np.exp(0.0005 * np.random.default_rng(1).standard_normal(16))
    paired = comparison.compare_recipes([first, clean], draws=150)
    assert paired['correlation'] > 0.9
    assert independent['correlation'] < 0.5
    assert log_width(paired) < 0.3 * log_width(independent)
    assert paired['recipes'][1]['overall']['multiplier'] == pytest.approx(MULTIPLIER, rel=0.03)
    same = comparison.compare_recipes([first, first], draws=50)
    assert same['multiplier'] == pytest.approx([1] * len(same['loss']))
    assert log_width(same) < 0.005
    assert [row['p_best'] for row in same['at_loss'][0]['recipes']] == pytest.approx(
        [0.5, 0.5], abs=0.25
    )


def test_without_degrees_of_freedom_there_is_no_interval():
    few = pair(ladder(3), chinchilla, 0.003)
    result = comparison.compare_recipes(few, draws=50)
    assert '6 runs leave no degree of freedom beside the 6 constants' in result['no_interval']
    assert np.isnan(result['low']).all()
    assert np.isfinite(result['multiplier']).all()
    assert result['at_loss'][0]['recipes'][0]['p_best'] is None
    shared = comparison.compare_recipes(few, draws=50, shared_exponents=True)
    assert shared['no_interval'] == ''
    # Student's t of about one degree of freedom, not a normal distribution.
    seeds = comparison.compare_recipes(pair(ladder(3), chinchilla, 0.003, seeds=(3, 3)), draws=50)
    assert seeds['freedom'] == pytest.approx(12, abs=1)


def test_failed_refits_widen_the_interval(monkeypatch):
    given = pair(ladder(6), chinchilla, 0.003)
    assert comparison.compare_recipes(given, draws=50)['failed'] == 0
    monkeypatch.setattr(frontier_fit, 'MAX_STEPS', 1)
    result = comparison.compare_recipes(given, draws=50)
    assert result['failed'] == 50
    assert result['low'] == [0] * len(result['loss'])
    assert np.isinf(result['high']).all()


def test_seeds_that_reject_the_law_do_not_set_its_noise():
    def broken(n, d):
        return chinchilla(n, d) * (1 + 0.02 * np.sin(2.5 * np.log(n)))

    result = comparison.compare_recipes(pair(isoflop(4, 4), broken, 0.001, seeds=(3, 3)), draws=50)
    assert result['is_rejected']
    assert result['lack_of_fit'] > 20
    assert result['noise'][0] > 0.005


def test_recipes_are_ranked():
    random = np.random.default_rng(0)
    recipes = [
        simulated_recipes.recipe(isoflop(4, 4), chinchilla, saves, random, noise=0.002)
        for saves in (1.0, 0.7, 1.5, 1.45)
    ]
    result = comparison.compare_recipes(recipes, draws=100, at_loss=[2.8, 2.6], at_cost=[1e20])
    assert result['ranking'][2:] == ['A', 'B']
    for point in (*result['at_loss'], *result['at_cost']):
        chances = {row['name']: row['p_best'] for row in point['recipes']}
        assert sum(chances.values()) == pytest.approx(1)
        assert chances['A'] == chances['B'] == 0
        assert min(chances['C'], chances['D']) > 0.01
    needed = {row['name']: row['cost'] for row in result['at_loss'][0]['recipes']}
    assert needed['A'] / needed['B'] == pytest.approx(0.7, rel=0.06)


def test_seconds_are_a_cost_of_their_own():
    """B saves no FLOPs, but its FLOPs are 1.25 times as fast; small models are slower in both."""
    design, random = isoflop(4, 4), np.random.default_rng(0)
    recipes = [
        simulated_recipes.recipe(
            design, chinchilla, 1.0, random, seconds=6 * design[0] ** 0.8 * design[1] / speed
        )
        for speed in (1e12, 1.25e12)
    ]
    by_flops = comparison.compare_recipes(recipes, draws=20)
    by_seconds = comparison.compare_recipes(recipes, draws=20, by='seconds')
    assert by_flops['multiplier'] == pytest.approx([1] * 25, rel=1e-6)
    assert by_seconds['multiplier'] == pytest.approx([1.25] * 25, rel=1e-4)
    frontier = by_seconds['recipes'][0]['frontier']
    n = np.geomspace(1e6, 1e11, 20001)
    least = [
        chinchilla(n, seconds * 1e12 / (6 * n**0.8)).min() for seconds in frontier['cost'][::8]
    ]
    assert frontier['loss'][::8] == pytest.approx(least, rel=1e-4)


def test_recipes_without_a_shared_loss_get_a_warning():
    random = np.random.default_rng(0)
    n, d = ladder(4)
    recipes = [
        simulated_recipes.recipe((n * scale, d * scale), chinchilla, 1.0, random, noise=1e-4)
        for scale in (1, 1000)
    ]
    result = comparison.compare_recipes(recipes, draws=20)
    assert 'this extrapolates' in result['warning']
    assert result['at_loss'][0]['is_beyond']


def test_too_few_runs_are_rejected():
    few = pair(ladder(5), chinchilla)[0].take(np.arange(2))
    with pytest.raises(UserError, match='A: needs runs of at least 3 different flops, got 2'):
        comparison.compare_recipes([few, few])


def test_outlier_does_not_change_the_multiplier():
    """A run of A with 0.7 times its loss is left out, and the multiplier is as without it."""
    first, second = pair(isoflop(4, 4), chinchilla, 0.002)
    clean = comparison.compare_recipes([first, second], draws=0)
    first.loss[10] *= 0.7
    result = comparison.compare_recipes([first, second], draws=0)
    assert [one['row'] for one in result['left_out'][0]] == [11]
    assert np.interp(3.0, clean['loss'], clean['multiplier']) == pytest.approx(
        np.interp(3.0, result['loss'], result['multiplier']), rel=0.02
    )


def test_many_runs_are_averaged():
    n, d = np.meshgrid(np.geomspace(1e8, 3e10, 30), np.geomspace(1e9, 1e12, 30))
    random = np.random.default_rng(0)
    recipes = [
        synthetic.runs(n.ravel(), d.ravel(), chinchilla(n, d * saves).ravel() * noise)
        for saves, noise in zip(
            (1, 1.3), np.exp(0.005 * random.standard_normal((2, 900))), strict=True
        )
    ]
    result = comparison.compare_recipes(recipes, draws=50)
    assert len(result['recipes'][0]['runs']['cost']) <= comparison.MAX_CONFIGURATIONS
    assert result['recipes'][1]['overall']['multiplier'] == pytest.approx(1.3, rel=0.02)
