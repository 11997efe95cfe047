"""Figures of tasks over model size: lines, points and law agree with the records."""

import numpy as np
import pytest

from gpt_jax.scaling import downstream
from gpt_jax.scaling.report import task_figures

SIZE, LOSS = 'params_non_embedding', 'validation_loss'


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, which are not written."""
    drawn = []

    def save_figure(figure, path):
        drawn.append(figure)
        return [path]

    monkeypatch.setattr(task_figures, 'save_figure', save_figure)
    return drawn


def get_lines(axes):
    """Lines by label, without those that are not in the legend."""
    lines = {line.get_label(): line for line in axes.get_lines()}
    return {label: line for label, line in lines.items() if not label.startswith('_')}


def suite_record(size):
    loss = 4 * size**-0.1
    return {
        'name': str(size),
        'status': 'done',
        SIZE: size,
        LOSS: loss,
        'suite_choices_accuracy': 0.25 + 0.1 * np.log10(size),
        'suite_choices_chance': 0.25,
        'suite_choices_loss': loss / 2,
        'suite_code_exact': 0.01 * np.log10(size),
        'suite_code_loss': loss,
        'downstream_error': 0.9 - 2 * np.exp(-1.5 * loss),
    }


SUITE_RECORDS = [suite_record(10**power) for power in (3, 4, 5, 6)]


def test_suite_tasks_and_the_law_of_error_are_drawn(tmp_path, figures):
    records = SUITE_RECORDS[::-1]
    assert task_figures.draw_task_gains(records, SIZE, LOSS, tmp_path / 'x.png')
    score_axes, loss_axes, law_axes = figures[0].axes
    lines = get_lines(score_axes)
    assert list(lines) == ['choices', 'code']
    accuracies = [record['suite_choices_accuracy'] for record in SUITE_RECORDS]
    assert lines['choices'].get_ydata() == pytest.approx(accuracies)
    assert loss_axes.get_lines()[1].get_ydata()[0] == 1
    label = law_axes.get_legend().get_texts()[0].get_text()
    assert label.startswith('error = 0.900 - 2 exp(-1.50')


def test_suite_figures_are_written_if_there_are_results(tmp_path):
    paths = task_figures.draw_task_gains(SUITE_RECORDS, SIZE, LOSS, tmp_path / 'tasks.png')
    assert paths
    assert all(path.stat().st_size > 1000 for path in paths)
    without_suite = [
        {key: value for key, value in record.items() if not key.startswith('suite')}
        for record in SUITE_RECORDS
    ]
    assert task_figures.draw_task_gains(without_suite, SIZE, LOSS, tmp_path / 'none.png') == []


def test_the_constants_of_the_error_law_are_recovered():
    loss = np.linspace(1, 3, 6)
    constants = downstream.fit_constants(loss, 0.8 - 1.2 * np.exp(-0.9 * loss))
    assert constants == pytest.approx([0.8, 1.2, 0.9], rel=1e-3)


def finetuned_record(size, initialization, seed=0, **fields):
    gain = {'scratch': 0.0, 'full': 0.2, 'adapters': 0.1}[initialization]
    return {
        'status': 'done',
        'task': 'label',
        'task_source': 'synthetic:roles',
        SIZE: size,
        'tune_rank': 8 * (initialization == 'adapters'),
        'init_from': '' if initialization == 'scratch' else 'runs/x',
        LOSS: 1.0,
        'validation_accuracy': 0.9,
        'validation_entity_f1': 0.1 * np.log10(size) + gain + 0.02 * seed,
        'validation_examples_repeated': 0.5,
    } | fields


def text_record(size):
    return {'status': 'done', 'task': 'none', SIZE: size, LOSS: 1.0}


FINETUNED_RECORDS = [
    finetuned_record(size, initialization, seed)
    for size in (1000, 100)
    for initialization in ('scratch', 'full')
    for seed in (0, 1)
]


def test_each_initialization_has_a_line_through_the_means_over_seeds(figures, tmp_path):
    code = [
        finetuned_record(size, 'adapters', task_source='synthetic:code', task='answer')
        for size in (10, 100)
    ]
    for record in code:
        del record['validation_entity_f1'], record['validation_accuracy']
    ignored = [text_record(5), finetuned_record(7, 'full', status='diverged')]
    records = [*FINETUNED_RECORDS, *code, *ignored]
    assert task_figures.draw_finetuning_gains(records, SIZE, tmp_path / 'x.png')
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ['synthetic:roles: entity f1', 'synthetic:code: loss']
    lines = get_lines(figures[0].axes[0])
    assert list(lines) == ['from scratch', 'all weights']
    assert lines['all weights'].get_xdata() == pytest.approx([100, 1000])
    assert lines['all weights'].get_ydata() == pytest.approx([0.41, 0.51])


def test_text_runs_and_single_sizes_are_not_drawn(figures, tmp_path):
    records = [text_record(5), text_record(50), finetuned_record(100, 'full')]
    assert task_figures.draw_finetuning_gains(records, SIZE, tmp_path / 'x.png') == []
    assert not figures


def test_finetuning_figures_are_written(tmp_path):
    records = [
        finetuned_record(size, 'full', task_source=f'synthetic:{task}')
        for size in (10, 100)
        for task in 'abcde'
    ]
    paths = task_figures.draw_finetuning_gains(records, SIZE, tmp_path / 'x.png')
    assert paths
    assert all(path.stat().st_size > 1000 for path in paths)
