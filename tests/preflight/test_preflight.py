"""Preflight from the command line: reports for GPUs and TPUs, and errors in one line."""

import json

import pytest

from gpt_jax.core.hardware import CHIPS
from tests import program

TINY = {
    'config.model.context': 128,
    'config.train.batch_size': 8,
    'config.model.matmul_dtype': 'bfloat16',
    'config.model.scan_layers': True,
}


def run_preflight(topology, **fields):
    base = {'config': 'configs/gpt_tiny.py', 'mode': 'preflight', 'topology': topology}
    out, err = program.run(program.command(None, **TINY | base | fields))
    return json.loads(out.splitlines()[-1]), err


def check_report(report, err, chips):
    assert report['fits']
    assert report['chips'] == report['chips_used'] == chips
    assert abs(report['flops_unexplained']) < 0.05
    assert 0 < report['seconds_floor'] <= report['seconds_per_step']
    assert 0 < report['utilization_causal'] < report['utilization_with_attention'] < 1
    assert report['memory_bytes']['optimizer'] > report['memory_bytes']['parameters'] > 0
    assert report['collectives'][0]['group'] == chips
    assert report['days'] == pytest.approx(report['steps'] * report['seconds_per_step'] / 86400)
    assert 'fits' in err
    assert 'the most expensive parts' in err


def test_gpus_are_estimated_for_the_batch_size_rounded_to_the_devices():
    fields = {
        'config.train.batch_size': 7,
        'config.train.eval_batch_size': 7,
        'config.mesh.cpu_devices': None,
    }
    report, err = run_preflight('h100:2', price=3.0, **fields)
    check_report(report, err, 2)
    assert report['kind'] == 'estimate'
    assert report['cost'] == pytest.approx(report['days'] * 24 * 2 * 3.0)
    assert 'ESTIMATE' in err
    assert 'train.batch_size=7 is not a multiple of the 2 devices' in err
    assert 'the report is for 8' in err


def test_tpus_are_compiled_for():
    pytest.importorskip('libtpu', reason='the compiler for TPUs')
    report, err = run_preflight('v5e:2x2')
    check_report(report, err, 4)
    assert report['kind'] == 'compiler'
    assert report['price_per_chip_hour'] == CHIPS['v5e'].price_per_hour
    assert not report['counted_as_nothing']


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'topology': 'v5p:4x4'}, 'v5p:2x2x4'),
        ({'topology': None}, '--topology'),
        ({'topology': 'h100:2', 'compiler_options': 'fast'}, 'xla_NAME=VALUE'),
        ({'topology': 'h100:2', 'price': -3}, '--price'),
    ],
)
def test_errors_are_one_line(fields, message):
    values = TINY | {'config': 'configs/gpt_tiny.py', 'mode': 'preflight'} | fields
    _, err = program.run(program.command(None, **values), code=2)
    assert err.startswith('run.py: ')
    assert message in err
    assert len(err.splitlines()) == 1
