"""Forecasts are recorded tamper-evidently, and scored against the real run."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import forecast_ledger
from gpt_jax.scaling.forecast import forecast_run
from tests.scaling import synthetic

TARGET = (5e10, 2e12)


def make_forecast(tmp_path, seed=0, noise=0.002):
    forecast = forecast_run(
        synthetic.grid(noise=noise, seed=seed),
        *TARGET,
        law='chinchilla',
        draws=60,
        seed=0,
        name='x',
    )
    return forecast, str(tmp_path / 'forecasts.jsonl')


def test_forecast_is_accurate_and_names_its_source(tmp_path):
    forecast, path = make_forecast(tmp_path)
    truth = float(synthetic.loss(*TARGET))
    assert forecast['loss'] == pytest.approx(truth, rel=0.01)
    assert forecast['low'] < truth < forecast['high']
    assert forecast['high'] - forecast['low'] < 0.1 * truth
    line = forecast_ledger.append_forecast(path, forecast)
    assert line['previous'] == forecast_ledger.FIRST_HASH
    assert line['date'][:2] == '20'
    assert {'data', 'constants', 'law', 'level', 'resampled'} <= set(line)
    forecast_ledger.append_forecast(path, forecast | {'name': 'y'})
    assert [each['name'] for each in forecast_ledger.read_ledger(path)] == ['x', 'y']


def test_changed_line_is_detected(tmp_path):
    forecast, path = make_forecast(tmp_path)
    for _ in range(3):
        forecast_ledger.append_forecast(path, forecast)
    file = Path(path)
    text = file.read_text()
    first, rest = text.split('\n', 1)
    forged = json.dumps(json.loads(first) | {'loss': 1.0})
    file.write_text(f'{forged}\n{rest}')
    with pytest.raises(UserError, match='1: this line was changed'):
        forecast_ledger.read_ledger(path)
    with pytest.raises(UserError, match='was changed'):
        forecast_ledger.append_forecast(path, forecast)
    file.write_text(rest)
    with pytest.raises(UserError, match='1: a line before this one was changed or removed'):
        forecast_ledger.read_ledger(path)


def test_malformed_line_is_named(tmp_path):
    path = tmp_path / 'ledger.jsonl'
    for line, message in (
        (
            {'previous': forecast_ledger.FIRST_HASH},
            'ledger.jsonl:1: not a forecast: its name is None',
        ),
        ([1], 'ledger.jsonl:1: not a forecast'),
    ):
        path.write_text(json.dumps(line) + '\n')
        with pytest.raises(UserError, match=message):
            forecast_ledger.read_ledger(str(path))
    path.write_text('[' * 100_000)
    with pytest.raises(UserError, match='1: not a forecast'):
        forecast_ledger.read_ledger(str(path))
    for read in (
        forecast_ledger.read_ledger,
        lambda path: forecast_ledger.append_forecast(path, {}),
    ):
        with pytest.raises(UserError, match='Is a directory'):
            read(str(tmp_path))


def test_verify_scores_finished_runs_only(tmp_path):
    forecast, path = make_forecast(tmp_path)
    forecast_ledger.append_forecast(path, forecast)
    forecast_ledger.append_forecast(path, forecast | {'name': 'not run', 'params': 1e12})
    n, d = TARGET
    runs = synthetic.runs([n, 1e6], [d, 1e9], [float(synthetic.loss(n, d)), 5.0])
    result = forecast_ledger.verify_forecasts(forecast_ledger.read_ledger(path), lambda _: runs)
    first, second = result['scores']
    assert first['inside'] is True
    assert first['percent'] == pytest.approx(100 * (forecast['loss'] / first['reached'] - 1))
    assert second['reached'] is None
    assert (result['verified'], result['inside']) == (1, 1)


@pytest.mark.slow
def test_intervals_have_their_nominal_coverage():
    truth = float(synthetic.loss(*TARGET))
    inside = 0
    for seed in range(12):
        forecast = forecast_run(
            synthetic.grid(6, 5, noise=0.003, seed=seed),
            *TARGET,
            law='chinchilla',
            draws=40,
            seed=0,
            name='x',
        )
        reached = truth * np.exp(0.003 * np.random.default_rng(seed + 100).standard_normal())
        inside += forecast['low'] <= reached <= forecast['high']
    assert inside >= 9


def test_change_of_the_last_line_is_detected(tmp_path):
    forecast, path = make_forecast(tmp_path)
    forecast_ledger.append_forecast(path, forecast)
    file = Path(path)
    line = json.loads(file.read_text())
    file.write_text(json.dumps(line | {'loss': 1.0}) + '\n')
    with pytest.raises(UserError, match='1: this line was changed after it was written'):
        forecast_ledger.read_ledger(path)


def test_forecast_is_scored_under_its_own_count(tmp_path):
    """Also where the runs are fitted under another count, as a sweep's report does."""
    forecast, path = make_forecast(tmp_path)
    forecast_ledger.append_forecast(path, forecast | {'data': {'count': 'non_embedding'}})
    n, d = TARGET
    row = {'params_total': 2 * n, 'params_non_embedding': n, 'tokens': d, 'validation_loss': 2.0}
    runs = str(tmp_path / 'runs.jsonl')
    Path(runs).write_text(json.dumps(row) + '\n')
    for count in ('', 'total', 'non_embedding'):
        assert forecast_ledger.verify_ledger(path, runs, count=count)['verified'] == 1
    Path(runs).write_text(json.dumps(row | {'params_non_embedding': 3 * n}) + '\n')
    assert forecast_ledger.verify_ledger(path, runs)['verified'] == 0


def test_other_units_and_counts_are_refused(tmp_path):
    """A forecast of total parameters in nats is not scored on runs that count or measure else."""
    ledger = str(tmp_path / 'forecasts.jsonl')
    forecast = {'name': 'x', 'params': 10.0, 'tokens': 100.0, 'loss': 3.0, 'low': 2.9, 'high': 3.1}
    data = {'count': 'total', 'loss_unit': 'nats'}
    forecast_ledger.append_forecast(ledger, forecast | {'level': 0.95, 'data': data})
    path = synthetic.write_csv(tmp_path / 'a.csv', [{'params': 10, 'tokens': 100, 'loss': 3.0}])
    with pytest.raises(UserError, match=r"'x' counts .* as total, .*--columns=params=params_total"):
        forecast_ledger.verify_ledger(ledger, path)
    columns = {'params': 'params_total'}
    assert forecast_ledger.verify_ledger(ledger, path, columns=columns)['inside'] == 1
    with pytest.raises(UserError, match=r"'x' is in nats/token, and the loss here in bits/byte"):
        forecast_ledger.verify_ledger(ledger, path, columns=columns, loss_unit='bits_per_byte')
