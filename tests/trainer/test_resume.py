"""What may change when a run is resumed: what its numbers do not depend on, and its length."""

import os
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest

from gpt_jax.core import config, config_fields, files
from gpt_jax.train import build
from gpt_jax.trainer import resume
from tests import in_process, program

CONSTANT = {
    'config.model.layers': 1,
    'config.optimizer.schedule': 'constant',
    'config.optimizer.warmup_fraction': 0.25,
    'config.train.steps': 20,
    'config.train.eval_every': 0,
}


@pytest.fixture(scope='module', autouse=True)
def default_compilation():
    """Two lengths are two programs; see tests/trainer/test_branch.py."""
    has_flag = 'xla_cpu_use_fusion_emitters' in os.environ['XLA_FLAGS']
    options = {'xla_cpu_use_fusion_emitters': True} if has_flag else {}
    with mock.patch.object(build, 'get_compiler_options', return_value=options):
        yield


@pytest.fixture(scope='module')
def twenty_steps(tmp_path_factory, source):
    """The folder of a run of 20 steps, 5 of them warmup, at a constant rate."""
    workdir = tmp_path_factory.mktemp('runs') / 'twenty'
    fields = CONSTANT | {'config.data.source': source}
    in_process.run(in_process.command(workdir, **fields))
    return workdir


@pytest.fixture
def default_config():
    return config.to_raw(config.base_config())


@pytest.fixture
def folder(twenty_steps, tmp_path):
    return shutil.copytree(twenty_steps, tmp_path / 'run')


def test_more_steps_at_a_constant_rate_are_the_longer_run(folder, source, tmp_path):
    longer = CONSTANT | {'config.train.steps': 40, 'config.optimizer.warmup_fraction': 0.125}
    whole = in_process.command(tmp_path / 'whole', **longer, **{'config.data.source': source})
    in_process.run(whole)
    shutil.copy(source.removeprefix('files:'), tmp_path / 'moved.jsonl')
    moved = f'files:{tmp_path / "moved.jsonl"}'
    older = files.read_json(folder / 'config.json')
    del older['model']['scale_embedding'], older['data']['separator']
    files.write_json(folder / 'config.json', older)
    changed = longer | {'config.data.source': moved, 'config.train.log_every': 4}
    _, err = in_process.run(in_process.command(folder, **changed))
    assert '20 steps are done; 20 more follow' in err
    extended, other = program.summary(folder), program.summary(tmp_path / 'whole')
    assert extended['steps'] == 40
    assert extended['parameters_sha256'] == other['parameters_sha256']
    assert files.read_json(folder / 'summary_of_20_steps.json')['steps'] == 20
    (entry,) = files.read_jsonl(folder / resume.CHANGES_FILE)
    assert entry['step'] == 20
    assert entry['changes'] == {
        'data.source': [source, moved],
        'optimizer.warmup_fraction': [0.25, 0.125],
        'train.log_every': [5, 4],
        'train.steps': [20, 40],
    }


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('train.steps', 40, r'update 1 has 0\.1 .*not 0\.2\).*optimizer\.warmup_fraction=0\.125'),
        ('train.steps', 10, 'has 20 steps already, more than the 10'),
        ('optimizer.learning_rate', 1e-4, 'holds a run of another config .*learning_rate'),
        ('data.source', 'other', 'is not the data that this run began with'),
        ('train.steps', 'other data', 'is not the data that this run began with'),
    ],
)
def test_other_changes_are_refused_and_change_nothing(
    folder, source, tmp_path, field, value, message
):
    if value == 'other':
        value = f'files:{tmp_path / "other.jsonl"}'
        lines = Path(source.removeprefix('files:')).read_text().splitlines(keepends=True)
        (tmp_path / 'other.jsonl').write_text(''.join(lines[1:]))
    fields = CONSTANT | {'config.data.source': source}
    if value == 'other data':  # the same path
        path = tmp_path / 'text.jsonl'
        shutil.copy(source.removeprefix('files:'), path)
        fields['config.data.source'] = f'files:{path}'
        in_process.run(in_process.command(folder, **fields))
        path.write_text(path.read_text().partition('\n')[2])
        value, fields['config.optimizer.warmup_fraction'] = 40, 0.125
    before = {path.name for path in folder.iterdir()}
    content = (folder / 'config.json').read_bytes()
    fields |= {f'config.{field}': value}
    _, err = in_process.run(in_process.command(folder, **fields), code=2)
    assert re.search(message, err)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / 'config.json').read_bytes() == content


def test_dropout_ties_a_run_to_its_devices(tmp_path, source):
    fields = CONSTANT | {'config.data.source': source, 'config.model.dropout': 0.1}
    fields['config.train.steps'] = 5
    workdir = tmp_path / 'run'
    in_process.run(in_process.command(workdir, **fields, **{'config.mesh.data': 2}))
    summary = program.summary(workdir)
    assert summary['config_hash'].endswith('-data2')
    longer = fields | {'config.train.steps': 10, 'config.optimizer.warmup_fraction': 0.1}
    _, err = in_process.run(in_process.command(workdir, **longer), code=2)
    assert 'this run has data2 so far, not one device and microbatch' in err
    assert program.summary(workdir) == summary
    assert not (workdir / resume.CHANGES_FILE).exists()
    changed = fields | {'config.mesh.data': 2, 'config.train.microbatch_size': 2}
    _, err = in_process.run(in_process.command(workdir, **changed), code=2)
    assert 'holds a run of another config (train.microbatch_size: 0 -> 2)' in err


def test_the_partition_is_part_of_the_hash_where_it_matters(default_config):
    def describe(**changes):
        fields = {**default_config, **{k: default_config[k] | v for k, v in changes.items()}}
        return resume.describe_partition(fields, {'data': 4, 'tensor': 1}, 2)

    assert describe() == ''
    assert describe(model={'dropout': 0.1}) == 'data4-microbatches2'
    assert describe(model={'experts': 4}) == 'data4-microbatches2'
    exact = {'experts': 4, 'capacity_factor': 0.0, 'load_balance': 0.0, 'router_z': 0.0}
    assert describe(model=exact) == ''
    assert describe(finetune={'dropout': 0.1}) == ''
    assert describe(finetune={'dropout': 0.1, 'rank': 2}) == 'data4-microbatches2'
    run_hash = config_fields.config_hash(default_config, 'data4')
    assert config_fields.is_hash_of(run_hash, config_fields.config_hash(default_config))


def test_validations_that_choose_the_parameters_are_part_of_the_run(default_config):
    hashes = set()
    for train in ({}, {'eval_every': 5}, {'keep_best': True}, {'keep_best': True, 'eval_every': 5}):
        fields = default_config | {'train': default_config['train'] | train}
        hashes.add(config_fields.config_hash(fields))
    assert len(hashes) == 3


def test_a_known_divergence_is_not_trained_again(source, tmp_path):
    fields = CONSTANT | {'config.data.source': source, 'config.optimizer.learning_rate': 1e38}
    arguments = in_process.command(
        tmp_path / 'run', **fields, **{'config.train.max_skipped_in_row': 4}
    )
    in_process.run(arguments, code=3)
    rows = program.lines(tmp_path / 'run')
    _, err = in_process.run(arguments, code=3)
    assert 'diverged before and would again: 4 steps in a row' in err
    assert 'compiled in' not in err
    assert program.lines(tmp_path / 'run') == rows
    (tmp_path / 'run' / 'diverged.json').unlink()
    _, err = in_process.run(arguments, code=3)
    assert 'compiled in' in err
