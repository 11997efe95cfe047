"""Are runs that learned tasks drawn by task, way and size, and only where there are some?"""

import numpy as np
import pytest

from gpt_jax.scaling.view import tuned

SIZE = 'params_non_embedding'


def record(size, way, seed=0, **fields):
    gain = {'scratch': 0.0, 'full': 0.2, 'adapters': 0.1}[way]
    return {
        'status': 'done', 'task': 'label', 'task_source': 'made:roles', SIZE: size,
        'tune_rank': 8 * (way == 'adapters'), 'init_from': '' if way == 'scratch' else 'runs/x',
        'validation_loss': 1.0, 'validation_accuracy': 0.9,
        'validation_entity_f1': 0.1 * np.log10(size) + gain + 0.02 * seed, 'validation_examples_repeated': 0.5,
    } | fields  # fmt: skip


RECORDS = [record(size, way, seed) for size in (1000, 100) for way in ('scratch', 'full') for seed in (0, 1)]


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    monkeypatch.setattr(tuned, 'save', lambda figure, path: kept.append(figure) or [path])
    return kept


def test_each_way_has_a_line_through_the_means_of_its_seeds(drawn, tmp_path):
    other = [record(size, 'adapters', task_source='made:code', task='answer') for size in (10, 100)]
    other = [{key: value for key, value in one.items() if 'f1' not in key and 'accuracy' not in key} for one in other]
    text = {'status': 'done', 'task': 'none', SIZE: 5, 'validation_loss': 1.0}
    assert tuned.figure([*RECORDS, *other, text, record(7, 'full', status='diverged')], SIZE, tmp_path / 'x.png')
    roles, code = drawn[0].axes
    assert (roles.get_title(), code.get_title()) == ('made:roles: entity f1', 'made:code: loss')
    lines = {line.get_label(): line for line in roles.get_lines() if not line.get_label().startswith('_')}
    assert list(lines) == ['from scratch', 'all weights']
    assert lines['all weights'].get_xdata() == pytest.approx([100, 1000])
    assert lines['all weights'].get_ydata() == pytest.approx([0.41, 0.51])


def test_nothing_is_drawn_of_text_or_of_one_size(drawn, tmp_path):
    text = [{'status': 'done', 'task': 'none', SIZE: size, 'validation_loss': 1.0} for size in (5, 50)]
    assert tuned.figure([*text, record(100, 'full')], SIZE, tmp_path / 'x.png') == []
    assert not drawn


def test_files_are_written(tmp_path):
    many = [record(size, 'full', task_source=f'made:{task}') for size in (10, 100) for task in 'abcde']
    assert all(path.stat().st_size > 1000 for path in tuned.figure(many, SIZE, tmp_path / 'x.png'))
