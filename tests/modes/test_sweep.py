"""Does a sweep run each trial once, whatever happens to it, and end in records, a law and a figure?"""

import json
import signal
import time

import pytest
from ml_collections import ConfigDict

from gpt_jax import overrides
from gpt_jax.errors import UserError
from gpt_jax.modes import sweep as modes_sweep
from tests import program

SIZES = """
from configs import gpt_tiny

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'sizes'
    config.sweep.trials = tuple(
        {'name': f'w{width}', 'model.width': width, 'model.heads': 2} for width in (8, 16, 32, 48)
    )
    return config
"""


@pytest.fixture(scope='module')
def sweep(tmp_path_factory, source):
    """(command line, workdir) of a sweep that was terminated in its second trial, and then finished."""
    folder = tmp_path_factory.mktemp('sweep')
    (folder / 'sizes.py').write_text(SIZES)
    fields = {'config': folder / 'sizes.py', 'config.data.source': source, 'config.train.evaluate_every': 0}
    fields |= {'config.model.width': None, 'config.model.heads': None}
    arguments = program.command(folder / 'run', **fields)
    process = program.start(arguments)
    while not (folder / 'run/trials/w16/lock').exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    first = (folder / 'run/trials/w8/summary.json').stat().st_mtime_ns
    out, err = program.run(arguments)
    assert (folder / 'run/trials/w8/summary.json').stat().st_mtime_ns == first
    assert 'w8 · already done' in err
    return arguments, folder / 'run', out


def test_everything_it_promises_is_there(sweep):
    _, workdir, out = sweep
    records = [json.loads(line) for line in (workdir / 'records.jsonl').read_text().splitlines()]
    assert [one['name'] for one in records] == ['w8', 'w16', 'w32', 'w48']
    assert {one['status'] for one in records} == {'done'}
    fit = json.loads((workdir / 'fit.json').read_text())
    assert fit['x'] == [one['params_non_embedding'] for one in records]
    assert fit['held_out']['reached'] == records[-1]['validation_loss']
    assert (workdir / 'scaling_curve.png').stat().st_size > 10_000
    assert str(workdir / 'scaling_curve.png') in out
    assert 'bits/byte' in out


def test_the_same_command_again_runs_nothing(sweep):
    arguments, workdir, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in workdir.glob('trials/*/summary.json')}
    began = time.monotonic()
    program.run(arguments)
    assert time.monotonic() - began < 30
    assert {path: path.stat().st_mtime_ns for path in workdir.glob('trials/*/summary.json')} == before


def test_a_failing_trial_is_marked_and_the_others_go_on(tmp_path, source):
    text = SIZES.replace('(8, 16, 32, 48)', '(8, 16)')
    text = text.replace('2}', "2, 'optimizer.learning_rate': 1e38 if width == 8 else 1e-3}")
    (tmp_path / 'sizes.py').write_text(text)
    fields = {'config': tmp_path / 'sizes.py', 'config.data.source': source, 'config.train.max_skipped_in_row': 2}
    fields |= {'config.model.width': None, 'config.model.heads': None, 'config.train.log_every': 1}
    _, err = program.run(program.command(tmp_path / 'run', **fields), code=3)
    assert '1 of 2 trials failed (w8)' in err
    records = [json.loads(line) for line in (tmp_path / 'run/records.jsonl').read_text().splitlines()]
    assert [one['status'] for one in records] == ['failed: diverged', 'done']


def test_a_trial_may_be_added_but_none_changed(sweep):
    _, workdir, _ = sweep
    config = overrides.plain(ConfigDict(json.loads((workdir / 'config.json').read_text())))
    trials = config['sweep']['trials']
    added = config | {'sweep': {'trials': [*trials, trials[0] | {'name': 'new'}]}}
    modes_sweep._same_sweep(added, workdir)
    changed = config | {'sweep': {'trials': [trials[0] | {'model.width': 64}, *trials[1:]]}}
    with pytest.raises(UserError, match='holds another sweep'):
        modes_sweep._same_sweep(changed, workdir)


def test_a_field_that_the_trials_set_is_not_silently_ignored(sweep):
    arguments, _, _ = sweep
    _, err = program.run([*arguments, '--config.model.width=64'], code=2)
    assert 'config.model.width: the trials of this sweep set it' in err
    overrides.check_overrides(['--config.name=other'], {'sweep': {'trials': [{'name': 'a', 'model.width': 8}]}})


def test_one_trial_of_a_sweep_is_named_where_one_is_needed(sweep):
    arguments, _, _ = sweep
    _, err = program.run([*arguments, '--mode=evaluate'], code=2)
    assert 'this config is a sweep; add --trial=w8' in err
    _, err = program.run([*arguments, '--distributed=auto'], code=2)
    assert 'add --trial=NAME' in err
    program.run([*arguments, '--mode=evaluate', '--trial=w16'])
