"""Cooldown branches: equal, bit for bit, to whole runs; unsuitable trunks are rejected."""

import json
import os
from unittest import mock

import pytest

from gpt_jax.core import files
from gpt_jax.core.config import parse_config
from gpt_jax.core.errors import UserError
from gpt_jax.train import build
from gpt_jax.trainer.dataset import load_text_data
from gpt_jax.trainer.initialize import restore_branch
from tests import in_process

SWEEP = """
from configs import gpt_tiny
from gpt_jax.scaling.plan import design

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'cooldowns'
    trials = design.make_cooldowns(
        {'name': 'a'}, (20 * 256, 40 * 256), tokens_per_step=256, warmup_steps=4
    )
    whole = trials[1] | {'name': 'whole', 'train.branch_from': '', 'train.branch_step': 0}
    config.sweep.trials = (*trials, whole)
    return config
"""


@pytest.fixture(scope='module')
def sweep(tmp_path_factory, source):
    """(folder, records by name) of a finished sweep with branches."""
    folder = tmp_path_factory.mktemp('cooldowns')
    (folder / 'cooldowns.py').write_text(SWEEP)
    fields = {
        'config': folder / 'cooldowns.py',
        'config.data.source': source,
        'config.model.layers': 1,
        'config.train.steps': None,
    }
    fields |= {'config.train.eval_every': 0, 'config.train.log_every': 2}
    arguments = in_process.command(folder / 'run', **fields)
    # A branch and a whole run are two programs, which differ in the constants of their schedules.
    # They round alike by default and with either of the two flags of conftest.py, not with both.
    has_flag = 'xla_cpu_use_fusion_emitters' in os.environ['XLA_FLAGS']
    options = {'xla_cpu_use_fusion_emitters': True} if has_flag else {}
    with mock.patch.object(build, 'get_compiler_options', return_value=options):
        for name in ('a-trunk', 'a-5.12e3', 'a-1.024e4', 'whole'):
            in_process.run([*arguments, f'--trial={name}'])
    in_process.run(arguments)  # finds every trial done, and writes the records
    records = files.read_jsonl(folder / 'run/records.jsonl')
    return folder / 'run', {record['name']: record for record in records}


def test_branch_equals_the_whole_run_bitwise(sweep):
    workdir, records = sweep
    assert records['a-5.12e3']['parameters_sha256'] == records['whole']['parameters_sha256']
    assert records['a-5.12e3']['validation_loss'] == records['whole']['validation_loss']
    metrics = {
        name: files.read_jsonl(workdir / f'trials/{name}/metrics.jsonl')
        for name in ('a-5.12e3', 'whole')
    }
    assert metrics['a-5.12e3'] == [row for row in metrics['whole'] if row['step'] > 16]


def test_branch_records_its_trunk_and_runs_only_its_end(sweep):
    _, records = sweep
    fields = ('role', 'branch_from', 'branch_step', 'steps')
    assert {name: tuple(row[field] for field in fields) for name, row in records.items()} == {
        'a-trunk': ('trunk', '', 0, 32),
        'a-5.12e3': ('branch', 'a-trunk', 16, 20),
        'a-1.024e4': ('branch', 'a-trunk', 32, 40),
        'whole': ('run', '', 0, 20),
    }
    assert records['a-5.12e3']['curve'][0][0] > 16 * 256


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('model.width', 48, 'must match this run except .*got model.width: 32 -> 48'),
        ('train.branch_step', 15, 'no checkpoint of step 15; there are 16, 30, 32'),
        ('train.branch_step', 32, 'must be before the end of the run at step 20, got 32'),
        ('train.branch_from', '/absent', 'absent holds no run'),
        (
            'optimizer.cooldown_fraction',
            0.5,
            r'update 11 has 0\.\d+ of the peak rate, not 1; branch off',
        ),
    ],
)
def test_unsuitable_trunk_is_rejected(sweep, tmp_path, field, value, message):
    workdir, _ = sweep
    raw_config = json.loads((workdir / 'trials/a-5.12e3/config.json').read_text())
    raw_config['train']['branch_from'] = str(workdir / 'trials/a-trunk')
    section, name = field.split('.')
    raw_config[section][name] = value
    dataset = load_text_data(raw_config, print)
    config = parse_config(raw_config, dataset.vocab_size)
    parts = build.build_trainer_parts(config)
    with pytest.raises(UserError, match=message):
        restore_branch(raw_config, config, dataset.fingerprint, parts, tmp_path, print)
