"""Is a cooldown branch, to the bit, the run that it spares? And does it refuse a trunk that is none?"""

import json

import pytest

from gpt_jax import assemble, jsonl
from gpt_jax.data.prepare import prepare
from gpt_jax.errors import UserError
from gpt_jax.modes import branch
from tests import program

SWEEP = """
from configs import gpt_tiny
from gpt_jax.scaling.plan import design

def get_config():
    config = gpt_tiny.get_config()
    config.name = 'cooldowns'
    trials = design.cooldowns({'name': 'a'}, (20 * 256, 40 * 256), tokens_per_step=256, warmup_steps=4)
    whole = trials[1] | {'name': 'whole', 'train.branch_from': '', 'train.branch_step': 0}
    config.sweep.trials = (*trials, whole)
    return config
"""


@pytest.fixture(scope='module')
def sweep(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp('cooldowns')
    (folder / 'cooldowns.py').write_text(SWEEP)
    fields = {'config': folder / 'cooldowns.py', 'config.data.source': source, 'config.train.steps': None}
    fields |= {'config.train.evaluate_every': 0, 'config.train.log_every': 2}
    arguments = program.command(folder / 'run', **fields)
    program.run(arguments)
    return arguments, folder / 'run', {one['name']: one for one in jsonl.read(folder / 'run/records.jsonl')}


def test_a_branch_ends_with_the_bits_of_the_whole_run(sweep):
    _, workdir, records = sweep
    assert records['a-5.12e3']['parameters_sha256'] == records['whole']['parameters_sha256']
    assert records['a-5.12e3']['validation_loss'] == records['whole']['validation_loss']
    metrics = {name: jsonl.read(workdir / f'trials/{name}/metrics.jsonl') for name in ('a-5.12e3', 'whole')}
    assert metrics['a-5.12e3'] == [row for row in metrics['whole'] if row['step'] > 16]


def test_a_branch_knows_its_parent_and_runs_only_its_end(sweep):
    _, _, records = sweep
    fields = ('role', 'branch_from', 'branch_step', 'steps')
    assert {name: tuple(one[field] for field in fields) for name, one in records.items()} == {
        'a-trunk': ('trunk', '', 0, 32),
        'a-5.12e3': ('branch', 'a-trunk', 16, 20),
        'a-1.024e4': ('branch', 'a-trunk', 32, 40),
        'whole': ('run', '', 0, 20),
    }  # fmt: skip
    assert records['a-5.12e3']['curve'][0][0] > 16 * 256


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [('model.width', 48, 'is another run .*model.width: 32 -> 48'),
     ('train.branch_step', 15, 'no checkpoint of step 15; there are 16, 30, 32'),
     ('train.branch_step', 32, '32 is not before the end of the run at 20'),
     ('train.branch_from', '/absent', 'absent holds no run')],
)  # fmt: skip
def test_a_wrong_trunk_is_refused(sweep, tmp_path, field, value, message):
    _, workdir, _ = sweep
    config = json.loads((workdir / 'trials/a-5.12e3/config.json').read_text())
    config['train']['branch_from'] = str(workdir / 'trials/a-trunk')
    section, name = field.split('.')
    config[section][name] = value
    corpus = prepare(assemble.data_config(config), print)
    settings = assemble.settings(config, corpus.vocab_size)
    with pytest.raises(UserError, match=message):
        branch.state(config, settings, corpus, assemble.build(settings), tmp_path, print)
