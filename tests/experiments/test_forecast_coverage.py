"""experiments/forecast_coverage: its draws, its scores, and the coverage of forecasts."""

import argparse
import sys

import numpy as np
import pytest

from experiments.forecast_coverage import intervals, report, simulate, worlds
from experiments.forecast_coverage.intervals import Interval
from gpt_jax.scaling import analysis, compute_optimal


def test_draws_have_the_noise_that_is_asked_for():
    made, truth = worlds.DESIGNS['seeds'], worlds.TRUTHS['skaling']
    draws = [worlds.draw_runs('seeds', 'skaling', noise=0.01, replicate=i) for i in range(60)]
    errors = [np.log(draw.columns['loss'] / truth(made.params, made.tokens)) for draw in draws]
    assert np.std(errors) == pytest.approx(0.01, rel=0.05)
    ends = [np.log(draw.reached / truth(*made.target)) for draw in draws]
    assert np.std(ends) == pytest.approx(0.01, rel=0.25)
    again = worlds.draw_runs('seeds', 'skaling', noise=0.01, replicate=3)
    np.testing.assert_array_equal(again.columns['loss'], draws[3].columns['loss'])
    assert not np.array_equal(draws[2].columns['loss'], draws[3].columns['loss'])


def test_checkpoints_share_the_error_of_their_run():
    made = worlds.DESIGNS['checkpoints']
    draw = worlds.draw_runs('checkpoints', 'chinchilla', noise=0.01, replicate=0)
    error = np.log(draw.columns['loss'] / worlds.compute_chinchilla(made.params, made.tokens))
    by_run = error.reshape(7, worlds.CHECKPOINTS)
    assert by_run.std(axis=1).mean() < 0.5 * by_run.mean(axis=1).std()
    assert by_run.std(axis=1).min() > 0


def test_forecasts_are_at_ten_times_the_largest_compute():
    for design in worlds.DESIGNS.values():
        n, d = design.target
        assert n * d == pytest.approx(10 * (design.params * design.tokens).max())
    isoflop = worlds.DESIGNS['isoflop']
    np.testing.assert_allclose(6 * isoflop.params * isoflop.tokens, isoflop.columns['budget'])


def test_the_forecast_of_repeated_data_repeats_too():
    n, d = worlds.DESIGNS['repeated'].target
    reached = worlds.draw_runs('repeated', 'chinchilla', noise=0.0, replicate=0).reached
    unique = worlds.DESIGNS['repeated'].target_unique
    assert worlds.compute_chinchilla(n, d) < reached < worlds.compute_chinchilla(n, unique)


def test_constants_and_optima_are_those_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, 'DRAWS', 20)
    monkeypatch.setattr(intervals, 'STARTS', 4)
    cell = ('isoflop', 'chinchilla', 0.003, 1, tmp_path)
    outcome = intervals.measure_constants(*cell) | intervals.measure_optimum(*cell)
    draw = worlds.draw_runs('isoflop', 'chinchilla', noise=0.003, replicate=1)
    flops = worlds.DESIGNS['isoflop'].flops
    result = analysis.analyze_parametric(
        intervals.read_draw(draw, tmp_path),
        draws=intervals.DRAWS,
        seed=1,
        at_flops=(flops,),
        which=('3', '2'),
        starts=intervals.STARTS,
    )
    for name in worlds.CHINCHILLA:
        ends = result['intervals'][name]
        assert (outcome[name].low, outcome[name].high) == (ends['low'], ends['high'])
        assert outcome[name].centre == result['fit']['constants'][name]
    for name in ('approach 3', 'approach 2', 'auto'):
        (at,) = result['approaches'][name.removeprefix('approach ')]['at']
        found = outcome[f'N* by {name}']
        assert (found.low, found.high) == (at['params_low'], at['params_high'])
        assert found.centre == pytest.approx(at['params'])


def test_the_better_recipe_saves_compute_at_every_loss():
    """At equal D/N, its loss at C is the other's at SAVING x C."""
    draws = [
        worlds.draw_runs('six', 'broken', noise=0.0, replicate=0, saving=saving)
        for saving in (1.0, worlds.SAVING)
    ]
    scaled = worlds.DESIGNS['six'].params * np.sqrt(worlds.SAVING)
    tokens = worlds.DESIGNS['six'].tokens * np.sqrt(worlds.SAVING)
    np.testing.assert_allclose(draws[1].columns['loss'], worlds.compute_broken(scaled, tokens))
    assert (draws[1].columns['loss'] < draws[0].columns['loss']).all()


def test_the_optimum_is_that_of_the_law():
    n, _ = compute_optimal.compute_split(worlds.CHINCHILLA).at(1e21)
    assert worlds.find_optimal_params('chinchilla', 1e21) == pytest.approx(n, rel=1e-4)


def test_outcomes_are_scored():
    outcomes = [
        {'x': Interval(0.9, 1.2, 1.1, 1.0)},
        {'x': Interval(1.1, 1.3, 1.2, 1.0)},
        {'x': 'too few runs'},
        {'x': 'too few runs'},
    ]
    (row,) = simulate.summarize_outcomes(outcomes)
    assert (row['replicates'], row['intervals'], row['inside']) == (4, 2, 1)
    assert row['none'] == {'too few runs': 2}
    assert row['mean_width_percent'] == pytest.approx(25)
    assert row['median_error_percent'] == pytest.approx(15)


def make_flags(tmp_path, **changed) -> argparse.Namespace:
    flags = {
        'replicates': 2,
        'peer_python': '',
        'peer_replicates': 0,
        'measures': ['forecast'],
        'designs': ['six'],
        'truths': ['chinchilla'],
        'noises': [0.003],
        'output': str(tmp_path / 'results.jsonl'),
    }
    return argparse.Namespace(**(flags | changed))


def test_cells_are_appended_and_resumed(tmp_path, capsys):
    for replicates, lines in ((1, 1), (1, 1), (2, 2)):
        simulate.main(make_flags(tmp_path, replicates=replicates))
        assert len((tmp_path / 'results.jsonl').read_text().splitlines()) == lines
    output = capsys.readouterr()
    assert '| six | 100% (100), ' in output.out
    assert 'simple-scaling-laws is skipped' in output.err
    assert (tmp_path / 'forecast_coverage.png').stat().st_size > 5000


def test_the_peer_is_given_the_same_draws(tmp_path, monkeypatch):
    """A stand-in for the peer answers with each draw's last loss."""
    script = tmp_path / 'peer.py'
    script.write_text(
        'import json, sys\n'
        'for line in sys.stdin:\n'
        '    draw = json.loads(line)\n'
        '    loss = draw["columns"]["loss"]\n'
        '    print(json.dumps({"forecasts": [[loss[-1], len(loss), draw["targets"][0][0]]]}))\n'
    )
    monkeypatch.setattr(simulate, 'HERE', tmp_path)
    outcomes = simulate.measure_peer(sys.executable, 'checkpoints', 'chinchilla', 0.003, 2)
    draws = [
        worlds.draw_runs('checkpoints', 'chinchilla', noise=0.003, replicate=i) for i in range(2)
    ]
    found = [outcome['forecast'] for outcome in outcomes]
    assert [one.low for one in found] == [draw.columns['loss'][-1] for draw in draws]
    assert [one.high for one in found] == [7, 7]  # one row per run
    assert [one.truth for one in found] == [draw.reached for draw in draws]


def measure_coverage(measure, design, truth, noise, replicates) -> dict:
    outcomes = simulate.measure_cell(measure, design, truth, noise, replicates)
    (row,) = simulate.summarize_outcomes(outcomes)
    print(f'\n{design}, {truth}, {100 * noise:g}%: {report.format_cells([row])}')
    return row


@pytest.mark.parametrize(('design', 'draws', 'least'), [('six', 8, 6), ('ladder6', 8, 6)])
def test_forecasts_hold(design, draws, least):
    """Fewer inside have a probability of at most 0.006 at 95%."""
    row = measure_coverage('forecast', design, 'chinchilla', 0.01, draws)
    assert row['inside'] >= least
    assert row['intervals'] == draws
    assert row['median_error_percent'] < 2.5
    assert row['median_width_percent'] < 16


@pytest.mark.slow
@pytest.mark.parametrize('truth', list(worlds.TRUTHS))
@pytest.mark.parametrize('design', list(worlds.DESIGNS))
def test_forecasts_have_their_coverage(design, truth):
    """200 draws each: fewer than 180 inside has probability 0.001 at 95%."""
    row = measure_coverage('forecast', design, truth, 0.003, 200)
    assert row['inside'] >= 180
