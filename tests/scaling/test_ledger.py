"""Is a forecast written down once and for all, and scored on the run as it came out?"""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling import ledger
from tests.scaling import synthetic

TARGET = (5e10, 2e12)


def made(tmp_path, seed=0, noise=0.002):
    one = ledger.forecast(synthetic.grid(noise=noise, seed=seed), *TARGET, law='chinchilla', draws=60, seed=0, name='x')
    return one, str(tmp_path / 'forecasts.jsonl')


def test_a_forecast_is_near_and_says_what_it_is_from(tmp_path):
    one, path = made(tmp_path)
    truth = float(synthetic.loss(*TARGET))
    assert one['loss'] == pytest.approx(truth, rel=0.01)
    assert one['low'] < truth < one['high']
    assert one['high'] - one['low'] < 0.1 * truth
    line = ledger.add(path, one)
    assert line['previous'] == ledger.START
    assert line['date'][:2] == '20'
    assert {'data', 'constants', 'law', 'level', 'resampled'} <= set(line)
    ledger.add(path, one | {'name': 'y'})
    assert [each['name'] for each in ledger.read(path)] == ['x', 'y']


def test_a_changed_line_is_seen(tmp_path):
    one, path = made(tmp_path)
    for _ in range(3):
        ledger.add(path, one)
    file = Path(path)
    text = file.read_text()
    first, rest = text.split('\n', 1)
    forged = json.dumps(json.loads(first) | {'loss': 1.0})
    file.write_text(f'{forged}\n{rest}')
    with pytest.raises(UserError, match='1: this line was changed'):
        ledger.read(path)
    with pytest.raises(UserError, match='was changed'):
        ledger.add(path, one)
    file.write_text(rest)
    with pytest.raises(UserError, match='1: a line before this one was changed or taken out'):
        ledger.read(path)


def test_what_is_no_forecast_is_named(tmp_path):
    path = tmp_path / 'ledger.jsonl'
    for line, message in (
        ({'previous': ledger.START}, 'ledger.jsonl:1: not a forecast: its name is None'),
        ([1], 'ledger.jsonl:1: not a forecast'),
    ):
        path.write_text(json.dumps(line) + '\n')
        with pytest.raises(UserError, match=message):
            ledger.read(str(path))
    path.write_text('[' * 100_000)
    with pytest.raises(UserError, match='1: not a forecast'):
        ledger.read(str(path))
    for asked in (ledger.read, lambda path: ledger.add(path, {})):
        with pytest.raises(UserError, match='Is a directory'):
            asked(str(tmp_path))


def test_verify_scores_what_was_run_and_waits_for_the_rest(tmp_path):
    one, path = made(tmp_path)
    ledger.add(path, one)
    ledger.add(path, one | {'name': 'not run', 'params': 1e12})
    n, d = TARGET
    runs = synthetic.runs([n, 1e6], [d, 1e9], [float(synthetic.loss(n, d)), 5.0])
    result = ledger.verify(ledger.read(path), lambda _: runs)
    first, second = result['scores']
    assert first['inside'] is True
    assert first['percent'] == pytest.approx(100 * (one['loss'] / first['reached'] - 1))
    assert second['reached'] is None
    assert (result['verified'], result['inside']) == (1, 1)


def test_intervals_hold_about_as_often_as_they_say():
    truth = float(synthetic.loss(*TARGET))
    inside = 0
    for seed in range(12):
        one = ledger.forecast(
            synthetic.grid(6, 5, noise=0.003, seed=seed), *TARGET, law='chinchilla', draws=40, seed=0, name='x'
        )
        reached = truth * np.exp(0.003 * np.random.default_rng(seed + 100).standard_normal())
        inside += one['low'] <= reached <= one['high']
    assert inside >= 9


def test_a_change_of_the_last_line_is_seen(tmp_path):
    one, path = made(tmp_path)
    ledger.add(path, one)
    file = Path(path)
    line = json.loads(file.read_text())
    file.write_text(json.dumps(line | {'loss': 1.0}) + '\n')
    with pytest.raises(UserError, match='1: this line was changed after it was written'):
        ledger.read(path)


def test_a_forecast_is_looked_up_under_its_own_count(tmp_path):
    one, path = made(tmp_path)
    ledger.add(path, one | {'data': {'count': 'non_embedding'}})
    n, d = TARGET
    asked = []

    def runs_of(count):
        asked.append(count)
        return synthetic.runs([n, 1e6], [d, 1e9], [2.0, 5.0])

    assert ledger.verify(ledger.read(path), runs_of)['verified'] == 1
    assert asked == ['non_embedding']
