"""The transfer of weight decay over the width: the record, and its largest effect trained anew."""

import json

import pytest

from experiments.lr_transfer import decay


def test_record_has_a_transfer_only_with_scaled_decay():
    record = json.loads(decay.PATH.read_text())
    assert record['sum_of_rates'] == pytest.approx(decay.compute_sum_of_rates())
    best = {
        rows: [losses.index(min(losses)) for losses in record['loss']['matrices'][rows].values()]
        for rows in decay.ROWS
    }
    # Positions in the grid, whose steps are a factor of about 3; the width grows by 4 and 4.
    assert best == {'scaled': [2, 1, 1], 'unscaled': [2, 3, 4]}


@pytest.mark.slow
def test_decay_that_is_too_high_is_so_at_any_width(monkeypatch):
    """Decay 30 loses 0.17 nats against decay 1 at the base width."""
    monkeypatch.setattr(decay, 'DECAYS', (1.0, 30.0))
    excess = {}
    for rows in decay.ROWS:
        low, high = decay.train(256, rows, 'matrices')
        excess[rows] = high - low
    assert excess['scaled'] > 0.1
    assert excess['unscaled'] < 0.05
