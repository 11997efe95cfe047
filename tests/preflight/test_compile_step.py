"""Out-of-memory messages of the TPU's compiler."""

import pytest

from gpt_jax.preflight.compile_step import parse_out_of_memory

NEW_MESSAGE = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
    '(26.02G) exceeds available HBM (15.75G).'
)
OLD_MESSAGE = (
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 26.02G of 15.75G hbm. '
    'Exceeded by 10.27G.'
)


@pytest.mark.parametrize('message', [NEW_MESSAGE, OLD_MESSAGE])
def test_missing_and_available_bytes(message):
    missing, available = parse_out_of_memory(message)
    assert missing == pytest.approx(10.27 * 2**30, rel=1e-3)
    assert available == 15.75 * 2**30
