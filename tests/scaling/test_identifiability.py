"""What designs leave open, and the run that would tell."""

import numpy as np
import pytest

from gpt_jax.scaling.identifiability import find_design_gap
from tests.scaling import synthetic


def make_runs(n, d):
    n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
    return synthetic.runs(n, d, synthetic.loss(n, d))


SIZES = np.geomspace(1e7, 1e9, 6)


@pytest.mark.parametrize(
    ('n', 'd', 'kind'),
    [
        (SIZES[:2], 1e9, 'few'),
        (SIZES, 1e19 / 6 / SIZES, 'budget'),
        (SIZES, 1.05 ** np.arange(6) * 1e19 / 6 / SIZES, 'budget'),
        (SIZES, 1e10, 'length'),
        (1e8, SIZES * 100, 'size'),
        (SIZES, 20 * SIZES, 'ratio'),
        (SIZES, SIZES**0.5 * 1e6, 'line'),
    ],
)
def test_a_line_of_runs_leaves_a_gap_that_the_named_run_closes(n, d, kind):
    runs = make_runs(n, d)
    gap = find_design_gap(runs)
    assert gap.kind == kind
    assert f'{gap.params:.3g} parameters on {gap.tokens:.3g} tokens would tell' in gap.describe()
    if kind != 'few':
        cured = make_runs(np.append(runs.params, gap.params), np.append(runs.tokens, gap.tokens))
        assert find_design_gap(cured) is None


def test_grids_and_isoflop_curves_leave_none():
    assert find_design_gap(synthetic.grid(3, 3)) is None
    assert find_design_gap(synthetic.isoflop()) is None


def test_a_target_on_the_line_is_no_gap():
    ladder = make_runs(SIZES, 20 * SIZES)
    assert find_design_gap(ladder, (1e10, 2e11)) is None
    assert find_design_gap(ladder, (1e10, 2e12)).kind == 'ratio'
