"""Does a run on a machine that is not here tell what it needs, and in one line what is wrong?"""

import json

import pytest

from gpt_jax.preflight.chips import CHIPS
from tests import program

TINY = {
    'config.model.context': 128, 'config.train.batch': 8, 'config.model.matmul_dtype': 'bfloat16',
    'config.model.scan_layers': True,
}  # fmt: skip


def report(topology, **fields):
    given = TINY | {'config': 'configs/gpt_tiny.py', 'mode': 'preflight', 'topology': topology} | fields
    out, err = program.run(program.command(None, **given))
    return json.loads(out.splitlines()[-1]), err


def checked(found, err, chips):
    assert found['fits']
    assert found['chips'] == found['chips_used'] == chips
    assert abs(found['flops_unexplained']) < 0.05
    assert 0 < found['seconds_floor'] <= found['seconds_per_step']
    assert 0 < found['utilization_causal'] < found['utilization_with_attention'] < 1
    assert found['memory_bytes']['optimizer'] > found['memory_bytes']['parameters'] > 0
    assert found['collectives'][0]['group'] == chips
    assert found['days'] == pytest.approx(found['steps'] * found['seconds_per_step'] / 86400)
    assert 'fits' in err
    assert 'the most expensive parts' in err


def test_gpus_are_estimated():
    found, err = report('h100:2', price=3.0)
    checked(found, err, 2)
    assert found['kind'] == 'estimate'
    assert found['cost'] == pytest.approx(found['days'] * 24 * 2 * 3.0)
    assert 'ESTIMATE' in err


def test_a_tpu_is_compiled_for():
    pytest.importorskip('libtpu', reason='the compiler of TPUs')
    found, err = report('v5e:2x2')
    checked(found, err, 4)
    assert found['kind'] == 'compiler'
    assert found['price_per_chip_hour'] == CHIPS['v5e'].price
    assert not found['counted_as_nothing']


def test_a_batch_that_does_not_divide_is_the_nearest_that_does():
    fields = {'config.train.batch': 7, 'config.train.evaluate_batch': 7, 'config.mesh.cpu_devices': None}
    found, err = report('h100:2', **fields)
    assert found['fits']
    assert 'train.batch=7 does not divide over 2 devices; reported is 8' in err


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'topology': 'v5p:4x4'}, 'v5p:2x2x4'),
        ({'topology': None}, '--topology'),
        ({'topology': 'h100:2', 'compiler_options': 'fast'}, 'xla_NAME=VALUE'),
        ({'topology': 'h100:2', 'price': -3}, '--price'),
    ],
)
def test_what_is_wrong_is_one_line(fields, said):
    given = TINY | {'config': 'configs/gpt_tiny.py', 'mode': 'preflight'} | fields
    _, err = program.run(program.command(None, **given), code=2)
    assert err.startswith('run.py: ')
    assert said in err
    assert len(err.splitlines()) == 1
