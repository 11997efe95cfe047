"""A sweep runs each trial once and ends with records, a law and figures."""

import json
import signal
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from gpt_jax.core import config_cli
from gpt_jax.core.config import to_raw
from gpt_jax.core.errors import UserError
from gpt_jax.trainer import sweep as sweep_module
from tests import in_process, program

SIZES = """
from configs import gpt_tiny

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'sizes'
    config.sweep.trials = tuple(
        {'name': f'w{width}', 'model.width': width, 'model.heads': 2} for width in (8, 16, 32)
    )
    return config
"""


def command(folder, source, **fields):
    """The command line of the sweep in `folder`/sizes.py."""
    own = {
        'config': folder / 'sizes.py',
        'config.data.source': source,
        'config.model.layers': 1,
        'config.model.width': None,
        'config.model.heads': None,
        'config.train.steps': 12,
        'config.train.eval_every': 0,
    }
    return in_process.command(folder / 'run', **own | fields)


@pytest.fixture(scope='module')
def sweep(tmp_path_factory, source):
    """(command line, folder, output) of a sweep that was stopped in trial 2, and then finished.

    Its last trial has been run before.
    """
    folder = tmp_path_factory.mktemp('sweep')
    (folder / 'sizes.py').write_text(SIZES)
    arguments = command(folder, source)
    in_process.run([*arguments, '--trial=w32'])
    process = program.start(arguments)
    while not (folder / 'run/trials/w16/lock').exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    first = (folder / 'run/trials/w8/summary.json').stat().st_mtime_ns
    assert not (folder / 'run/trials/w16/summary.json').exists()
    out, err = in_process.run(arguments)
    assert (folder / 'run/trials/w8/summary.json').stat().st_mtime_ns == first
    for name in ('w8', 'w32'):
        assert f'{name} · already done' in err
    return arguments, folder / 'run', out


def test_outputs_are_complete(sweep):
    _, workdir, out = sweep
    records = [json.loads(line) for line in (workdir / 'records.jsonl').read_text().splitlines()]
    assert [record['name'] for record in records] == ['w8', 'w16', 'w32']
    assert {record['status'] for record in records} == {'done'}
    fit = json.loads((workdir / 'fit.json').read_text())
    assert fit['x'] == [record['params_non_embedding'] for record in records]
    assert fit['held_out']['reached'] == records[-1]['validation_loss']
    assert (workdir / 'scaling_curve.png').stat().st_size > 10_000
    assert str(workdir / 'scaling_curve.png') in out
    assert 'bits/byte' in out


def test_same_command_again_runs_nothing(sweep):
    arguments, workdir, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in workdir.glob('trials/*/summary.json')}
    began = time.monotonic()
    in_process.run(arguments)
    assert time.monotonic() - began < 30
    assert {
        path: path.stat().st_mtime_ns for path in workdir.glob('trials/*/summary.json')
    } == before


def test_other_data_is_refused_and_the_records_stay(sweep, source, tmp_path):
    arguments, workdir, _ = sweep
    lines = Path(source.removeprefix('files:')).read_text().splitlines(keepends=True)
    (tmp_path / 'other.jsonl').write_text(''.join(lines[1:]))
    records = (workdir / 'records.jsonl').read_bytes()
    other = f'--config.data.source=files:{tmp_path / "other.jsonl"}'
    _, err = in_process.run([*arguments, other], code=2)
    assert 'w8/summary.json: was trained on other data' in err
    assert (workdir / 'records.jsonl').read_bytes() == records


def test_failed_trial_is_marked_and_the_others_run(tmp_path, source):
    text = SIZES.replace('(8, 16, 32)', '(8, 16)')
    text = text.replace('2}', "2, 'optimizer.learning_rate': 1e38 if width == 8 else 1e-3}")
    (tmp_path / 'sizes.py').write_text(text)
    arguments = command(
        tmp_path, source, config__train__max_skipped_in_row=2, config__train__log_every=1
    )
    _, err = in_process.run(arguments, code=3)
    assert '1 of 2 trials failed (w8)' in err
    records = [
        json.loads(line) for line in (tmp_path / 'run/records.jsonl').read_text().splitlines()
    ]
    assert [record['status'] for record in records] == ['failed: diverged', 'done']


def test_trials_may_be_added_but_not_changed(sweep):
    _, workdir, _ = sweep
    config = to_raw(ConfigDict(json.loads((workdir / 'config.json').read_text())))
    trials = config['sweep']['trials']
    added = config | {'sweep': {'trials': [*trials, trials[0] | {'name': 'new'}]}}
    sweep_module._check_same_sweep(added, workdir)
    changed = config | {'sweep': {'trials': [trials[0] | {'model.width': 64}, *trials[1:]]}}
    with pytest.raises(UserError, match='holds another sweep'):
        sweep_module._check_same_sweep(changed, workdir)


def test_flag_of_a_field_that_trials_set_is_rejected(sweep):
    arguments, _, _ = sweep
    _, err = in_process.run([*arguments, '--config.model.width=64'], code=2)
    assert 'config.model.width: set by the trials of this sweep' in err
    config_cli.check_overrides(
        ['--config.name=other'], {'sweep': {'trials': [{'name': 'a', 'model.width': 8}]}}
    )


def test_modes_of_a_single_run_require_a_trial(sweep):
    arguments, _, _ = sweep
    _, err = in_process.run([*arguments, '--mode=evaluate'], code=2)
    assert 'this config is a sweep; add --trial=w8' in err
    _, err = in_process.run([*arguments, '--distributed=auto'], code=2)
    assert 'add --trial=NAME' in err
    in_process.run([*arguments, '--mode=evaluate', '--trial=w16'])
