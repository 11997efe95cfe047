"""experiments/forecast_backtests: the protocol, its tables and its figure."""

import numpy as np
import pytest

from experiments.forecast_backtests import protocol
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
