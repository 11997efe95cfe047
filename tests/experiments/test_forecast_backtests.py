"""experiments/forecast_backtests: the protocols, their tables and figures."""

import sys

import numpy as np
import pytest

from experiments.forecast_backtests import calibration, optimal_size, protocol
from gpt_jax.core import files
from gpt_jax.scaling import compute_optimal, law_posterior
from tests.scaling import synthetic


def test_only_the_smaller_runs_are_fitted_and_only_the_largest_forecast():
    runs = synthetic.isoflop(budgets=5, sizes=5)  # budgets a factor 10 apart
    made = protocol.forecast_set(runs, 'auto', 100)
    assert len(made) == 5
    assert all(r.flops == pytest.approx(1e22) and r.origin == pytest.approx(1e20) for r in made)
    assert protocol.forecast_set(runs.take(runs.flops > 2e19), 'auto', 100) == []
    many = synthetic.grid(10, 8)
    largest = many.flops >= many.flops.max() / protocol.NEAR_LARGEST
    assert len(protocol.forecast_set(many, 'auto', 10)) == largest.sum() <= protocol.MAX_TARGETS


def test_tables_and_figure(tmp_path, capsys):
    runs = synthetic.isoflop(budgets=4, sizes=5)
    path = synthetic.write_csv(tmp_path / 'made.csv', synthetic.rows(runs))
    rows = protocol.measure_files([path])
    assert {row['set'] for row in rows} == {'made'}
    protocol.print_tables(rows)
    out = capsys.readouterr().out
    assert '| made | 0.' in out
    auto = [row for row in rows if row['law'] == 'auto']
    inside = np.sum([row['low'] <= row['reached'] <= row['high'] for row in auto])
    assert f'{inside} of {len(auto)} inside' in out
    for figure in protocol.draw_figure(rows, tmp_path / 'figure.png'):
        assert figure.stat().st_size > 5000


def test_the_peer_is_given_the_same_runs(tmp_path, monkeypatch):
    """A stand-in for the peer answers with the number of fitted runs and each target's size."""
    (tmp_path / 'peer.py').write_text(
        'import json, sys\n'
        'for line in sys.stdin:\n'
        '    question = json.loads(line)\n'
        '    runs = len(question["columns"]["loss"])\n'
        '    print(json.dumps({"forecasts": [[0, runs, n] for n, d in question["targets"]]}))\n'
    )
    monkeypatch.setattr(protocol.simulate, 'HERE', tmp_path)
    monkeypatch.setattr(protocol, 'FACTORS', (10,))
    runs = synthetic.isoflop(budgets=4, sizes=5)
    path = synthetic.write_csv(tmp_path / 'made.csv', synthetic.rows(runs))
    rows = protocol.measure_peer([path], sys.executable)
    assert [row['predicted'] for row in rows] == pytest.approx(runs.params[-5:])
    assert [row['reached'] for row in rows] == pytest.approx(runs.loss[-5:])
    assert {(row['law'], row['high']) for row in rows} == {(protocol.PEER, 15)}


def test_calibration_makes_the_forecasts_of_the_protocol(tmp_path, monkeypatch):
    runs = synthetic.isoflop(budgets=4, sizes=5)
    path = synthetic.write_csv(tmp_path / 'made.csv', synthetic.rows(runs))
    numbers = tuple(getattr(law_posterior, name) for name in calibration.NUMBERS)
    assert numbers in calibration.GRID
    expected = protocol.forecast_set(runs, 'auto', 10)
    monkeypatch.setattr(protocol, 'FACTORS', (10,))
    monkeypatch.setattr(calibration, 'GRID', (numbers,))
    for name, value in zip(calibration.NUMBERS, calibration.NEUTRAL, strict=True):
        monkeypatch.setattr(law_posterior, name, value)
    monkeypatch.setattr(law_posterior, 'GRID', calibration.GRID_POINTS)
    made = calibration.forecast_targets(calibration.predict_targets([path]))[numbers]
    ends = [[(r.predicted, r.low, r.high) for r in group] for group in (made, expected)]
    np.testing.assert_allclose(*ends, rtol=1e-4)


def test_every_committed_set_has_a_source():
    sets = {row['set'] for row in files.read_jsonl(protocol.HERE / 'results.jsonl')}
    sources = calibration.find_sources()
    assert sets == set(sources)
    assert len(set(sources.values())) == 10


def test_optimal_sizes_of_a_known_law(tmp_path, monkeypatch, capsys):
    runs = synthetic.isoflop(budgets=5, sizes=7)
    path = synthetic.write_csv(tmp_path / 'made.csv', synthetic.rows(runs))
    monkeypatch.setattr(optimal_size, 'FACTORS', (10,))
    monkeypatch.setattr(optimal_size, 'DRAWS', 10)
    rows = optimal_size.measure_files([path])
    assert [row['method'] for row in rows] == list(optimal_size.METHODS)  # one target
    best = compute_optimal.compute_split(synthetic.TRUTH).at(1e22)[0]
    for row in rows:
        assert row['runs'] == 28
        assert row['reached'] == pytest.approx(best, rel=0.05)
        assert row['predicted'] == pytest.approx(best, rel=0.15)
    assert optimal_size.is_inside(rows[0], 0)
    moved = rows[0] | {'reached': 1.1 * rows[0]['high'], 'reached_sd': 0.06}
    assert (optimal_size.is_inside(moved, 0), optimal_size.is_inside(moved, 2)) == (False, True)
    optimal_size.print_tables(rows)
    assert '1 (1) of 1' in capsys.readouterr().out
    for figure in optimal_size.draw_figure(rows, tmp_path / 'figure.png'):
        assert figure.stat().st_size > 5000
