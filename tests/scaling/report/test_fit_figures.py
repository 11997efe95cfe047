"""Figures of a fit: every run is drawn, with its training curve, inside the axes."""

import json

import numpy as np
import pytest

from gpt_jax.scaling import analysis, envelope
from gpt_jax.scaling.report import fit_figures
from tests.scaling import synthetic


@pytest.fixture(scope='module')
def result():
    return analysis.analyze_parametric(
        synthetic.isoflop(sizes=5), draws=0, starts=4, which=('1', '2', '3')
    )


def get_lines(result):
    axes = fit_figures.make_fit_figures(result)[0].figure.axes[0]
    return {line.get_label(): line for line in axes.lines}, axes


def test_each_curve_is_drawn_at_its_own_flops_per_token(result):
    without, _ = get_lines(result)
    flops, tokens = (np.array(result['residuals'][name]) for name in ('flops', 'tokens'))
    curves = [[] for _ in flops]
    curves[3] = [
        (tokens[3] / 4, 20.0),
        (tokens[3] / 2, 5.0),
        (tokens[3], result['residuals']['loss'][3]),
    ]
    drawn, axes = get_lines(result | {'residuals': result['residuals'] | {'curves': curves}})
    assert len(drawn) == len(without) + 1
    (curve,) = (line for line in drawn.values() if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(curve.get_xdata(), flops[3] * np.array([0.25, 0.5, 1]))
    assert axes.get_ylim()[1] < 20  # the beginning of the curve would squeeze the rest
    assert axes.get_xlim()[1] > 5 * flops.max()  # and the law is still drawn beyond the runs


def test_the_envelope_is_a_line_through_its_runs(result):
    runs = synthetic.isoflop(sizes=5)
    indices = envelope.find_envelope(runs)
    assert result['envelope'] == indices.tolist()
    line = get_lines(result)[0]['envelope of the runs']
    np.testing.assert_array_equal(line.get_ydata(), runs.loss[indices])


@pytest.mark.parametrize('narrow', [False, True])
def test_every_run_is_a_point_of_every_figure(result, narrow):
    drawings = fit_figures.make_fit_figures(result, narrow=narrow)
    names = [drawing.name for drawing in drawings]
    assert names == ['loss_over_compute', 'isoflop', 'optimal_split', 'residuals']
    for drawing in drawings:
        for points in drawing.points:
            assert sorted(points.runs) == list(range(len(result['residuals']['name'])))
            low, high = points.axes.get_xlim()
            assert ((points.x > low) & (points.x < high)).all()


def test_without_a_law_the_runs_are_still_drawn():
    result = json.loads(json.dumps(analysis.describe_runs(synthetic.grid())))
    (drawing,) = fit_figures.make_fit_figures(result)
    assert drawing.name == 'loss_over_compute'
    assert drawing.figure.axes[0].get_title() == '80 runs'
