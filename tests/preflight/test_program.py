"""Is what the compiler says of too little memory understood?"""

import pytest

from gpt_jax.preflight.program import exhausted

SAID = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (26.02G) exceeds '
    'available HBM (15.75G).'
)
OLDER = 'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 26.02G of 15.75G hbm. Exceeded by 10.27G.'


@pytest.mark.parametrize('message', [SAID, OLDER])
def test_how_much_is_lacking(message):
    short, limit = exhausted(message)
    assert short == pytest.approx(10.27 * 2**30, rel=1e-3)
    assert limit == 15.75 * 2**30
