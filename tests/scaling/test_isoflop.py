"""IsoFLOP minima and envelopes: optima of known laws, edges, noise and interpolated curves."""

import dataclasses

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import compute_optimal, interpolated_runs, isoflop
from tests.scaling import simulated_sweeps, synthetic

ASYMMETRIC = {'E': 1.7, 'A': 60.0, 'B': 60000.0, 'alpha': 0.25, 'beta': 0.48}


def plain_parabola(runs):
    """The usual fit: one parabola through all points of a budget."""
    logs = []
    for _, group in isoflop.group_by_budget(runs):
        x = np.log(runs.params[group])
        b2, b1, _ = np.polyfit(x - x.mean(), runs.loss[group], 2)
        logs.append((np.log(runs.flops[group][0]), x.mean() - b1 / (2 * b2)))
    return compute_optimal.fit_split_line(
        *np.array(logs).T, np.ones(len(logs)), compute_optimal.COST_6ND
    )


def test_asymmetric_loss_does_not_shift_the_minimum():
    # The higher the budget, the narrower the sweep around the guess: the parabola's shift changes
    # with it.
    flops = np.geomspace(1e18, 1e21, 5)
    best, _ = compute_optimal.compute_split(ASYMMETRIC).at(flops)
    n, c = [], []
    for budget, middle, reach in zip(flops, best, (30, 24, 16, 8, 4), strict=True):
        sizes = middle * np.geomspace(1 / reach, reach, 15)
        n, c = [*n, *sizes], [*c, *([budget] * 15)]
    n, c = np.array(n), np.array(c)
    runs = synthetic.runs(n, c / (6 * n), synthetic.loss(n, c / (6 * n), ASYMMETRIC), budget=c)
    truth, _ = compute_optimal.compute_split(ASYMMETRIC).at(1e24)
    naive, _ = plain_parabola(runs).at(1e24)
    minima = isoflop.find_minima(runs)
    ours, _ = isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND).at(1e24)
    akima, _ = isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND, akima=True).at(1e24)
    assert abs(np.log(naive / truth)) > np.log(1.2)
    assert abs(np.log(ours / truth)) < np.log(1.05)
    assert abs(np.log(akima / truth)) < np.log(1.05)


def test_minimum_on_the_edge_does_not_count():
    runs = synthetic.isoflop()
    first = runs.extra['budget'] == runs.extra['budget'].min()
    smallest = np.sort(runs.params[first])[:4]
    cut = runs.take(~first | np.isin(runs.params, smallest))
    minima = isoflop.find_minima(cut)
    assert 'largest size is the best' in minima[0].note
    assert all(not minimum.note for minimum in minima[1:])
    assert isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND).a == pytest.approx(
        compute_optimal.compute_split(synthetic.TRUTH).a, abs=0.01
    )


def test_runs_are_grouped_by_equal_flops():
    runs = synthetic.isoflop()
    more = {name: values for name, values in runs.extra.items() if name != 'budget'}
    assert len(isoflop.group_by_budget(dataclasses.replace(runs, extra=more))) == 6
    with pytest.raises(UserError, match='needs at least two'):
        isoflop.find_minima(runs.take(runs.flops < 2e18))


def test_spread_of_noise_draws_covers_the_error():
    random = np.random.default_rng(0)
    runs = synthetic.isoflop()
    noisy = synthetic.runs(
        runs.params,
        runs.tokens,
        runs.loss * np.exp(0.003 * random.standard_normal(len(runs))),
        budget=runs.extra['budget'],
    )
    minima = isoflop.find_minima(noisy)
    truth, _ = compute_optimal.compute_split(synthetic.TRUTH).at(
        [minimum.flops for minimum in minima]
    )
    z = [
        np.log(minimum.params / n) / minimum.spread
        for minimum, n in zip(minima, truth, strict=True)
    ]
    assert np.abs(z).max() < 4
    assert all(minimum.spread > 0.005 for minimum in minima)


def test_budget_column_labels_the_curves_under_every_count():
    """Under another count of parameters the runs of one budget have different FLOPs."""
    runs = synthetic.isoflop(budgets=9, sizes=9)
    blocks = runs.params - 40 * runs.params ** (2 / 3)
    other = dataclasses.replace(
        runs, params=blocks, flops=6 * blocks * runs.tokens, extra={'budget': runs.flops}
    )
    minima, labelled = isoflop.find_minima(runs), isoflop.find_minima(other)
    assert len(labelled) == 9
    for minimum, given in zip(labelled, minima, strict=True):
        assert [minimum.loss, minimum.tokens] == pytest.approx([given.loss, given.tokens], rel=0.05)
        assert minimum.flops == pytest.approx(6 * minimum.params * minimum.tokens, rel=0.01)
    # FLOPs that the user asks for by name are another cost: the labels are no curves under it.
    other = dataclasses.replace(other, provenance=other.provenance | {'flops': 'with_attention'})
    assert np.array_equal(isoflop.budget_per_run(other), other.flops)


def trunks(sizes=12, lengths=8):
    """Every size at the same lengths, like cooldown branches of trunks; no two of one compute."""
    n, d = np.meshgrid(
        np.geomspace(1e8, 1e11, sizes), np.geomspace(1e9, 1e13, lengths), indexing='ij'
    )
    return synthetic.runs(n.ravel(), d.ravel(), synthetic.loss(n.ravel(), d.ravel()))


def test_interpolated_curves_find_the_optimum_of_the_law():
    interpolated, between = interpolated_runs.interpolate_isoflop_runs(trunks())
    assert between
    minima = isoflop.find_minima(interpolated)
    assert len(minima) == interpolated_runs.INTERPOLATED_BUDGETS
    truth = compute_optimal.compute_split(synthetic.TRUTH, compute_optimal.COST_6ND)
    inside = [minimum for minimum in minima if not minimum.note]
    assert len(inside) >= 3
    for minimum in inside:
        assert minimum.params == pytest.approx(float(truth.at(minimum.flops)[0]), rel=0.1)
    assert isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND).a == pytest.approx(
        truth.a, abs=0.03
    )


def test_interpolated_losses_follow_the_law():
    interpolated, _ = interpolated_runs.interpolate_isoflop_runs(trunks(lengths=12))
    np.testing.assert_allclose(
        interpolated.loss, synthetic.loss(interpolated.params, interpolated.tokens), rtol=2e-3
    )
    np.testing.assert_allclose(
        interpolated.flops, 6 * interpolated.params * interpolated.tokens, rtol=1e-9
    )


def test_planned_curves_and_short_grids_are_not_interpolated():
    planned = synthetic.isoflop()
    assert interpolated_runs.interpolate_isoflop_runs(planned) == (planned, False)
    few = trunks(lengths=2)
    assert interpolated_runs.interpolate_isoflop_runs(few)[1] is False


@pytest.mark.parametrize('shape', ['parabola', 'cubic', 'akima'])
@pytest.mark.parametrize('window', [isoflop.WINDOW, np.inf])
def test_every_curve_finds_the_optimum_of_an_even_sweep(shape, window):
    runs = synthetic.isoflop()
    minima = isoflop.describe_minima(
        isoflop.fit_curves(runs, isoflop.CurveOptions(shape, window)), runs
    )
    truth = compute_optimal.compute_split(synthetic.TRUTH)
    for minimum in minima:
        assert minimum.params == pytest.approx(float(truth.at(minimum.flops)[0]), rel=0.06)
    split = isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND)
    assert split.a == pytest.approx(truth.a, abs=0.01)


def test_cubic_follows_an_asymmetric_curve():
    z = np.linspace(-1.5, 1.5, 9)
    y = 0.02 * (z - 0.3) ** 2 + 0.004 * (z - 0.3) ** 3
    place, exists = isoflop._find_vertex(np.polyfit(z, y, 3), -1.5, 1.5)
    assert exists
    assert place == pytest.approx(0.3, abs=1e-9)
    shifted, _ = isoflop._find_vertex(np.polyfit(z, y, 2), -1.5, 1.5)
    assert abs(shifted - 0.3) > 0.05
    _, exists = isoflop._find_vertex(np.array([-1.0, 0.0, 0.0]), -1.0, 1.0)
    assert not exists


def test_all_sizes_and_equal_weights_are_the_usual_fit():
    """One parabola in log D through all points of a budget, as Llama 3's authors fitted them."""
    random = np.random.default_rng(0)
    runs = simulated_sweeps.make_sweep(simulated_sweeps.chinchilla, 6, 9, 0.002, random)
    log_tokens = []
    budgets = np.unique(runs.extra['budget'])
    for budget in budgets:
        group = runs.extra['budget'] == budget
        x, y = np.log(runs.tokens[group]), np.log(runs.loss[group])
        b2, b1, _ = np.polyfit(x - x.mean(), y, 2)
        log_tokens.append(x.mean() - b1 / (2 * b2))
    slope, level = np.polyfit(np.log(budgets), log_tokens, 1)
    curves = isoflop.fit_curves(runs, isoflop.CurveOptions(window=np.inf))
    minima = isoflop.describe_minima(curves, runs)
    split = isoflop.fit_isoflop_minima(minima, compute_optimal.COST_6ND, equal_weights=True)
    assert [split.b, split.d_coefficient] == pytest.approx([slope, np.exp(level)], rel=1e-6)


def test_one_rerun_does_not_set_the_noise():
    random = np.random.default_rng(1)
    runs = simulated_sweeps.make_sweep(simulated_sweeps.chinchilla, 5, 5, 0.005, random)
    row = np.append(np.arange(25), 12)  # one run twice, with nearly the same loss
    again = dataclasses.replace(runs.take(row), loss=np.append(runs.loss, runs.loss[12] * 1.00001))
    alone, with_rerun = isoflop.fit_curves(runs), isoflop.fit_curves(again)
    assert with_rerun.noise > 0.8 * alone.noise


@pytest.mark.parametrize('law', simulated_sweeps.LAWS)
@pytest.mark.parametrize(
    ('budgets', 'noise', 'replicates'),
    [
        (5, 0.003, 30),
        *(
            pytest.param(budgets, noise, 200, marks=pytest.mark.slow)
            for budgets in (5, 7)
            for noise in (0.003, 0.01)
        ),
    ],
)
def test_intervals_hold(law, budgets, noise, replicates):
    """The 95% intervals of a and of N* at 10 times the compute."""
    truth, random, inside = simulated_sweeps.LAWS[law], np.random.default_rng(0), []
    for _ in range(replicates):
        made = simulated_sweeps.make_sweep(truth, budgets, 5, noise, random)
        curves = isoflop.fit_curves(made)
        minima = isoflop.describe_minima(curves, made)
        drawn = isoflop.draw_split_lines(curves, minima, compute_optimal.COST_6ND, 400, 0)
        inside.append(simulated_sweeps.is_inside(truth, made, drawn))
    shares = np.mean(inside, axis=0)
    assert shares.min() >= (0.85 if replicates < 100 else 0.9), shares
