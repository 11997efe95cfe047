"""Is a kernel's machine code read as it runs: at every step of its grid, once a row, on visible blocks?"""

import jax
import pytest

from gpt_jax.preflight.kernels import _read, visible


def code():
    """A loop of 1,000 bundles with three large regions, as the compiler writes it."""
    marks = {
        10: 'Start region 1', 100: 'Start region 2', 199: 'End region 2', 300: 'Start region 3 :: Start region 4',
        799: 'End region 4', 900: 'End region 3', 950: 'Start region 5', 1001: 'End region 5',
        1005: '%p = scmp.ge.s32.totalorder %s1, 34 /* loop exit test */', 1009: 'End region 1',
    }  # fmt: skip
    return [f' {hex(at)}   : > {{ nop }} /* {marks.get(at, "")} */' for at in range(1020)]


def test_the_large_regions_of_the_loop():
    loop, regions = _read(code())
    assert loop.size == 1000
    assert sorted(region.size for region in regions) == [100, 500]  # 3 holds 4; 5 is small


@pytest.mark.parametrize(('fields', 'blocks', 'width'), [({}, 10, 4), ({'window': 128}, 7, 2), ({'window': 130}, 9, 3)])
def test_visible_blocks(model_config, fields, blocks, width):
    pattern = {'attention_pattern': ('window',)} if fields else {}
    config = model_config(context=512, attention_chunk=128, **pattern, **fields)
    seen = visible(config, 512)
    assert (seen.blocks, seen.rows, seen.width) == (blocks, 4, width)
    q, k = jax.numpy.arange(512)[:, None], jax.numpy.arange(512)
    mask = (q >= k) & (q - k < fields.get('window', 512))
    assert int(mask.reshape(4, 128, 4, 128).any((1, 3)).sum()) == blocks
