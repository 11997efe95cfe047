"""Gains are differences between runs of the same size and seed."""

import json

import pytest

from experiments.finetuning import draw


def test_gains_are_paired(tmp_path):
    rows = [
        {
            'name': f'roles-{way}-{size}-seed{seed}',
            'status': 'done',
            'validation_entity_f1': base + gain,
        }
        for size, base in (('2x16', 0.1), ('4x96', 0.5))
        for seed, gain in ((0, 0.0), (1, 0.02))
        for way, gain in (('scratch', gain), ('full', gain + 0.2 + 0.1 * seed))
    ]
    rows[0]['status'] = 'failed'
    path = tmp_path / 'records.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    runs = draw.read_runs(str(path))
    assert draw.find_metric(runs, 'roles') == 'validation_entity_f1'
    found = draw.compute_gains(runs, 'roles', 'full', 'scratch', 'validation_entity_f1')
    assert (found['pairs'], found['wins']) == (3, 3)
    assert found['mean'] == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    assert found['low'] < found['mean'] < found['high']
    assert found['by_size'] == pytest.approx({'2x16': 0.3, '4x96': 0.25})
