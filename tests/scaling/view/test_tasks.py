"""Are the tasks of a sweep drawn as its records have them, and only where it was asked?"""

import numpy as np
import pytest

from gpt_jax.scaling import downstream
from gpt_jax.scaling.view import plots, tasks


def record(size):
    loss = 4 * size**-0.1
    return {
        'name': str(size), 'status': 'done', 'params_non_embedding': size, 'validation_loss': loss,
        'suite_choices_accuracy': 0.25 + 0.1 * np.log10(size), 'suite_choices_chance': 0.25,
        'suite_choices_loss': loss / 2, 'suite_code_exact': 0.01 * np.log10(size), 'suite_code_loss': loss,
        'downstream_error': 0.9 - 2 * np.exp(-1.5 * loss),
    }  # fmt: skip


RECORDS = [record(10**power) for power in (3, 4, 5, 6)]


def test_every_task_has_its_line_and_the_law_its_constants(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(tasks, 'save', lambda figure, path: kept.append(figure) or [path])
    assert tasks.figure(RECORDS[::-1], 'params_non_embedding', 'validation_loss', tmp_path / 'x.png')
    right, lost, law = kept[0].axes
    labels = [line.get_label() for line in right.get_lines() if not line.get_label().startswith('_')]
    assert labels == ['choices', 'code']
    assert right.get_lines()[0].get_ydata() == pytest.approx([one['suite_choices_accuracy'] for one in RECORDS])
    assert lost.get_lines()[1].get_ydata()[0] == 1
    assert law.get_legend().get_texts()[0].get_text().startswith('error = 0.900 - 2 exp(-1.50')


def test_files_are_written_and_nothing_is_where_nobody_was_asked(tmp_path):
    assert plots.save is tasks.save
    paths = tasks.figure(RECORDS, 'params_non_embedding', 'validation_loss', tmp_path / 'tasks.png')
    assert all(path.stat().st_size > 1000 for path in paths)
    plain = [{key: value for key, value in one.items() if not key.startswith('suite')} for one in RECORDS]
    assert tasks.figure(plain, 'params_non_embedding', 'validation_loss', tmp_path / 'none.png') == []


def test_constants_are_found_again():
    loss = np.linspace(1, 3, 6)
    assert downstream.constants(loss, 0.8 - 1.2 * np.exp(-0.9 * loss)) == pytest.approx([0.8, 1.2, 0.9], rel=1e-3)
