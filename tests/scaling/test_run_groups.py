"""Rows of one run are one cluster, however the table tells it, and separate runs are not."""

import dataclasses

import numpy as np
import pytest

from gpt_jax.scaling import analysis, bootstrap, rollouts, run_groups
from gpt_jax.scaling.runs import read_runs
from tests.scaling import synthetic

POINTS = 8  # checkpoints of a run


def make_checkpoints(tokens=lambda _: 4e9, spacing=np.linspace, **columns):
    """Six sizes, with POINTS checkpoints each; `columns` are functions of (size, share)."""
    return [
        {'params': n, 'tokens': d, 'loss': float(synthetic.loss(n, d))}
        | {name: value(n, d / tokens(n)) for name, value in columns.items()}
        for n in np.geomspace(5e7, 2e9, 6).round().tolist()
        for d in spacing(0.1 * tokens(n), tokens(n), POINTS).round().tolist()
    ]


def read(tmp_path, rows, **options):
    return read_runs(synthetic.write_csv(tmp_path / 'runs.csv', rows), **options)


@pytest.mark.parametrize(
    ('evidence', 'spacing', 'columns'),
    [
        ('small steps', np.linspace, {}),
        ("'run_id'", np.geomspace, {'run_id': lambda n, _: f'r{n}'}),
        ("'Name'", np.geomspace, {'Name': lambda n, share: f'net-{n % 97}/step_{share:.3f}'[:-4]}),
        ("'step'", np.geomspace, {'step': lambda _, share: round(1e4 * share)}),
        ("'max_steps'", np.geomspace, {'max_steps': lambda n, _: 10 + n % 7}),
        (
            "'_step'",
            np.geomspace,
            {'_step': lambda _, share: round(1e4 * share), 'lr': lambda _, share: 1 - share},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_checkpoints_are_one_run(evidence, spacing, columns, tmp_path):
    rows = make_checkpoints(spacing=spacing, **columns)
    runs = read(tmp_path, rows, checkpoints='all')
    assert len(runs) == 6 * POINTS
    assert np.unique(runs.clusters).size == np.unique(runs.params).size == 6
    assert '48 rows are checkpoints of 6 runs (by the ' in runs.notes[0]
    assert evidence in runs.notes[0]
    separate = read(tmp_path, rows, checkpoints='separate')
    assert np.unique(separate.clusters).size == len(separate) == 6 * POINTS


def test_a_grid_of_separate_runs_has_no_checkpoints(tmp_path):
    grid = synthetic.grid(6, POINTS)
    sizes = {n: f'{n / 1e6:.0f}M' for n in grid.params}
    for names in ({}, {'name': sizes}):
        rows = [
            row | {name: values[row['params']] for name, values in names.items()}
            for row in synthetic.rows(grid)
        ]
        runs = read(tmp_path, rows)
        assert np.unique(runs.clusters).size == len(runs) == len(grid)
        assert runs.notes == []


def test_the_last_rows_are_fitted_where_they_suffice(tmp_path):
    runs = read(tmp_path, make_checkpoints(tokens=lambda size: 20 * size))
    assert runs.tokens.tolist() == [20 * n for n in runs.params]
    assert 'the last row of each' in runs.notes[0]
    assert [len(curve) for curve in runs.curves] == [POINTS] * 6
    assert runs.curves[0][-1] == (runs.tokens[0], runs.loss[0])
    # All runs end at one token count: the last rows would not determine a law.
    runs = read(tmp_path, make_checkpoints())
    assert runs.tokens.min() >= 2e9
    assert np.unique(runs.tokens).size > 3
    assert 'the second half of each' in runs.notes[0]


def test_the_best_run_is_chosen_by_its_end(tmp_path):
    """A rate that is ahead at first and behind at the end is left out with all its rows."""
    rows = []
    for n in (1e8, 2e8):
        for lr, start, end in ((0.001, 4.5, 3.0), (0.01, 4.0, 3.2)):
            rows += [
                {'name': f'{n}-{lr}', 'lr': lr, 'params': n, 'tokens': d, 'loss': loss - n / 1e9}
                for d, loss in zip((1e9, 2e9), (start, end), strict=True)
            ]
    runs = read(tmp_path, rows, checkpoints='all')
    assert runs.names == ['100000000.0-0.001'] * 2 + ['200000000.0-0.001'] * 2
    assert '2 of 4 runs are left out because another run' in runs.notes[0]


def test_seeds_are_runs_that_differ_in_nothing_else(tmp_path):
    n, d = 1e8, 2e9
    rows = [{'params': n, 'tokens': d, 'loss': 3 + 0.01 * k, 'seed': k} for k in range(5)]
    runs = read(tmp_path, rows)
    assert set(runs.clusters) == {0}
    assert bootstrap.estimate_seed_noise(runs)[1] == 4
    # One pair fewer is too few for a level of noise.
    few = read(tmp_path, rows[:4])
    assert bootstrap.estimate_seed_noise(few) == (pytest.approx(np.nan, nan_ok=True), 0)
    assert few.notes == [
        '3 rows repeat another but for their loss: too few for a level of noise, for which 4 are '
        'needed'
    ]
    shapes = read(tmp_path, [row | {'width': 64 * k} for k, row in enumerate(rows, 1)])
    assert np.unique(shapes.clusters).size == 5
    assert bootstrap.estimate_seed_noise(shapes)[1] == 0


def test_resamples_and_held_out_sets_have_whole_runs(tmp_path):
    runs = read(tmp_path, make_checkpoints(), checkpoints='all')
    weights, words = bootstrap.draw_resamples(runs, 20, 0)
    assert 'whole runs' in words
    for label in np.unique(runs.clusters):
        assert (np.ptp(weights[:, runs.clusters == label], axis=1) == 0).all()
    assert (weights.sum(axis=1) == len(runs)).all()
    held_out = analysis.select_holdout(runs, '')
    assert held_out.sum() == POINTS
    assert np.unique(runs.clusters[held_out]).size == 1
    one = np.sort(runs.flops)[-POINTS - 1]  # selects a single checkpoint of the second largest
    held_out = analysis.select_holdout(runs, f'flops>={one}')
    assert held_out.sum() == 2 * POINTS


def test_rollouts_fit_and_forecast_whole_runs(tmp_path, monkeypatch):
    runs = read(tmp_path, make_checkpoints(tokens=lambda size: 20 * size), checkpoints='all')
    monkeypatch.setattr(rollouts, 'MIN_RUNS', 3)
    seen = []
    monkeypatch.setattr(
        rollouts, 'make_forecast', lambda fitted, *_: (seen.append(fitted), lambda *_: (3, 2, 4))[1]
    )
    made = rollouts.run_backtest(runs, laws=('auto',), baselines=())
    assert made
    assert all(np.unique(fitted.clusters, return_counts=True)[1].min() == POINTS for fitted in seen)
    assert {r.tokens for r in made} <= set(20 * runs.params)


def test_take_and_exclude_keep_the_clusters(tmp_path):
    runs = read(tmp_path, make_checkpoints(), checkpoints='all')
    assert runs.take(np.array([47, 0])).clusters.tolist() == [5, 0]
    assert runs.exclude({0: 'far'}).clusters.tolist() == runs.clusters.tolist()[1:]
    assert dataclasses.replace(runs).are_ends().sum() == 6
    assert run_groups.CHECKPOINT_CHOICES[0] == ''


def test_few_runs_with_many_checkpoints_have_no_narrow_interval(tmp_path):
    """Each run has an error of its own, which all its rows share."""
    random = np.random.default_rng(1)
    errors = dict(zip(range(6), np.exp(0.003 * random.standard_normal(6)), strict=True))
    rows = make_checkpoints()
    for index, row in enumerate(rows):
        row['loss'] *= errors[index // POINTS] * np.exp(0.001 * random.standard_normal())
    runs = read(tmp_path, rows, checkpoints='half')
    result = analysis.analyze_parametric(runs, draws=20, starts=12)
    assert result['data']['runs'] == 6
    assert result['data']['rows'] == len(runs)
    assert result['intervals'] == {}
    assert 'no interval: 6 runs with several rows each are too few' in result['resampled']
    profile = result['profiles']['E']
    assert not profile['identified']
    assert (profile['low'] or 0) < synthetic.TRUTH['E'] < (profile['high'] or np.inf)
    assert result['held_out']['runs'] == 1
    assert result['held_out']['fitted_runs'] == 5
