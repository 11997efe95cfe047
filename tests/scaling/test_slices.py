"""Are isoFLOP curves read right between runs that share no budget?"""

import numpy as np
import pytest

from gpt_jax.scaling import approaches, optimal, slices
from tests.scaling import synthetic


def trunks(sizes=12, lengths=8):
    """Every size at the same lengths, as cooldown branches of trunks are; no two of one compute."""
    n, d = np.meshgrid(np.geomspace(1e8, 1e11, sizes), np.geomspace(1e9, 1e13, lengths), indexing='ij')
    return synthetic.runs(n.ravel(), d.ravel(), synthetic.loss(n.ravel(), d.ravel()))


def test_the_optimum_of_a_grid_is_that_of_its_law():
    made, between = slices.isoflop(trunks())
    assert between
    found = approaches.minima(made)
    assert len(found) == slices.BUDGETS
    truth = optimal.split(synthetic.TRUTH, optimal.SIX)
    inside = [one for one in found if not one.note]
    assert len(inside) >= 3
    for one in inside:
        assert one.params == pytest.approx(float(truth.at(one.flops)[0]), rel=0.1)
    assert approaches.isoflop(found, optimal.SIX).a == pytest.approx(truth.a, abs=0.03)


def test_losses_between_runs_are_the_laws():
    made, _ = slices.isoflop(trunks(lengths=12))
    np.testing.assert_allclose(made.loss, synthetic.loss(made.params, made.tokens), rtol=2e-3)
    np.testing.assert_allclose(made.flops, 6 * made.params * made.tokens, rtol=1e-9)


def test_planned_curves_are_left_alone_and_too_little_is_none():
    planned = synthetic.isoflop()
    assert slices.isoflop(planned) == (planned, False)
    few = trunks(lengths=2)
    assert slices.isoflop(few)[1] is False
