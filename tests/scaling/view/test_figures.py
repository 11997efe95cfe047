"""Do the figures of a fit show every run, the way it came, and where it stands?"""

import json

import numpy as np
import pytest

from gpt_jax.scaling import analysis, approaches
from gpt_jax.scaling.view import figures
from tests.scaling import synthetic


@pytest.fixture(scope='module')
def result():
    return analysis.fit(synthetic.isoflop(sizes=5), draws=0, starts=4, which=('1', '2', '3'))


def lines(result):
    axes = figures.drawn(result)[0].figure.axes[0]
    return {line.get_label(): line for line in axes.lines}, axes


def test_each_curve_is_drawn_at_its_own_flops_per_token(result):
    without, _ = lines(result)
    flops, tokens = (np.array(result['residuals'][name]) for name in ('flops', 'tokens'))
    curves = [[] for _ in flops]
    curves[3] = [(tokens[3] / 4, 20.0), (tokens[3] / 2, 5.0), (tokens[3], result['residuals']['loss'][3])]
    made, axes = lines(result | {'residuals': result['residuals'] | {'curves': curves}})
    assert len(made) == len(without) + 1
    (curve,) = (line for line in made.values() if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(curve.get_xdata(), flops[3] * np.array([0.25, 0.5, 1]))
    assert axes.get_ylim()[1] < 20  # the beginning would squeeze all that matters
    assert axes.get_xlim()[1] > 5 * flops.max()  # and the law is still drawn beyond the runs


def test_the_envelope_is_a_line_through_its_runs(result):
    runs = synthetic.isoflop(sizes=5)
    kept = approaches.envelope(runs)
    assert result['envelope'] == kept.tolist()
    line = lines(result)[0]['envelope of the runs']
    np.testing.assert_array_equal(line.get_ydata(), runs.loss[kept])


@pytest.mark.parametrize('narrow', [False, True])
def test_every_run_is_a_point_of_every_figure(result, narrow):
    drawn = figures.drawn(result, narrow=narrow)
    assert [one.name for one in drawn] == ['loss_over_compute', 'isoflop', 'optimal_split', 'residuals']
    for one in drawn:
        for points in one.points:
            assert sorted(points.runs) == list(range(len(result['residuals']['name'])))
            low, high = points.axes.get_xlim()
            assert ((points.x > low) & (points.x < high)).all()


def test_without_a_law_the_runs_are_still_drawn():
    measured = analysis.measured(synthetic.grid())
    (one,) = figures.drawn(json.loads(json.dumps(measured)))
    assert one.name == 'loss_over_compute'
    assert one.figure.axes[0].get_title() == '80 runs'
