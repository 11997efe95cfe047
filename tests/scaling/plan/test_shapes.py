"""Do the shapes of a sweep lie where they should, even where a plan's smallest is too large?"""

import numpy as np
import pytest

from gpt_jax.scaling.plan import planner, shapes

LARGE = shapes.Frame('without_positions', 2048, 50257, None, None)
SMALL = shapes.Frame('without_positions', 128, 256, 16, 2)


def sizes(found, frame):
    return np.array([shapes.size(one, frame) for one in found])


@pytest.mark.parametrize('params', [1e8, 1e9, 2e10])
def test_large_shapes_are_even_in_log_size_and_suit_the_hardware(params):
    found = shapes.spread(params, 3.0, 5, LARGE)
    assert np.log(sizes(found, LARGE) / params) == pytest.approx(np.linspace(-1, 1, 5) * np.log(3), abs=0.12)
    for one in found:
        assert one.width // one.heads in planner.HEAD_DIMS
        assert planner.ASPECT[0] * 0.9 <= one.width / one.layers <= planner.ASPECT[1]


def test_a_small_head_dim_and_a_depth_give_widths_below_64():
    found = shapes.spread(4e4, 4.0, 7, SMALL)
    assert found[0].width == 16
    assert len(found) == len(set(found)) < 7  # two of the seven would be one
    assert all(one.layers == 2 and one.width % 16 == 0 and one.heads == one.width // 16 for one in found)
    assert list(sizes(found, SMALL)) == sorted(sizes(found, SMALL))


def test_few_shapes_leave_none_out_that_is_near():
    found = shapes.spread(153_200, 3.0, 5, SMALL)
    assert len(found) == 5
    assert 64 in {one.width for one in found}  # 116,480 parameters, the nearest but one


def test_beyond_an_edge_there_are_shapes_on_that_side_only():
    edge = shapes.size(planner.Shape(2, 64, 4, 128, 256), SMALL)
    assert [one.width for one in shapes.beyond(edge, 1.8, 2, SMALL)] == [96, 112]
    assert [one.width for one in shapes.beyond(edge, 1 / 1.8, 2, SMALL)] == [32, 48]
    assert shapes.beyond(shapes.size(planner.Shape(2, 16, 1, 128, 256), SMALL), 0.5, 2, SMALL) == []
