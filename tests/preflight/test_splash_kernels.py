"""Machine code of splash attention kernels, and visible blocks of masks."""

import jax
import pytest

from gpt_jax.preflight.splash_kernels import _find_regions, count_visible_blocks


def make_code():
    """A loop of 1,000 bundles with three large regions, as the compiler writes it."""
    marks = {
        10: 'Start region 1',
        100: 'Start region 2',
        199: 'End region 2',
        300: 'Start region 3 :: Start region 4',
        799: 'End region 4',
        900: 'End region 3',
        950: 'Start region 5',
        1001: 'End region 5',
        1005: '%p = scmp.ge.s32.totalorder %s1, 34 /* loop exit test */',
        1009: 'End region 1',
    }
    return [
        f' {hex(address)}   : > {{ nop }} /* {marks.get(address, "")} */' for address in range(1020)
    ]


def test_large_regions_of_the_loop():
    """Region 3 contains region 4, and region 5 is small."""
    loop, regions = _find_regions(make_code())
    assert loop.size == 1000
    assert sorted(region.size for region in regions) == [100, 500]


@pytest.mark.parametrize(
    ('fields', 'blocks', 'width'), [({}, 10, 4), ({'window': 128}, 7, 2), ({'window': 130}, 9, 3)]
)
def test_visible_blocks(model_config, fields, blocks, width):
    pattern = {'attention_pattern': ('window',)} if fields else {}
    config = model_config(context=512, attention_chunk=128, **pattern, **fields)
    visible = count_visible_blocks(config, 512)
    assert (visible.blocks, visible.rows, visible.width) == (blocks, 4, width)
    q, k = jax.numpy.arange(512)[:, None], jax.numpy.arange(512)
    mask = (q >= k) & (q - k < fields.get('window', 512))
    assert int(mask.reshape(4, 128, 4, 128).any((1, 3)).sum()) == blocks
