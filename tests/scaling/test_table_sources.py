"""Several tables at once, TensorBoard folders and W&B projects are read as one table of runs."""

import hashlib
import sys
import types

import pytest
from tensorboardX import SummaryWriter

from gpt_jax.core.errors import UserError
from gpt_jax.scaling import rows, table_sources
from gpt_jax.scaling.runs import read_runs
from tests.scaling import synthetic

ONE = {'params': 10, 'tokens': 100, 'loss': 3.0}


def write(tmp_path, name, table):
    return synthetic.write_csv(tmp_path / name, table)


def test_several_files_are_one_table(tmp_path):
    first = write(tmp_path, 'a.csv', [ONE, ONE | {'tokens': 200, 'loss': 'nan'}])
    second = write(tmp_path, 'b.csv', [{'params': 20, 'tokens': 100, 'val': 2.5}])
    runs = read_runs([first, second], columns={'val': 'loss'})
    assert runs.params.tolist() == [10, 20]
    assert runs.rows.tolist() == [1, 3]
    assert runs.files == [first, second]
    assert runs.left_out[0]['row'] == 2
    assert runs.provenance['file'] == f'{first}, {second}'
    hashes = [
        read_runs(p, columns=c, for_fitting=False).provenance['sha256']
        for p, c in ((first, {}), (second, {'val': 'loss'}))
    ]
    assert runs.provenance['sha256'] == hashlib.sha256(''.join(hashes).encode()).hexdigest()
    write(tmp_path, 'b.csv', [{'params': 20, 'tokens': -1, 'val': 2.5}])
    with pytest.raises(UserError, match=r'b\.csv: row 1: tokens: must be above zero'):
        read_runs([first, second], columns={'val': 'loss'})
    with pytest.raises(UserError, match=r"--columns=zzz=loss: no column 'zzz'"):
        read_runs([first, first], columns={'zzz': 'loss'})


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        ({'params_total': 20, 'tokens': 100, 'loss': 2}, 'params: column params_total, and in'),
        (ONE | {'flops': 6000}, 'flops: a column, and in .* no column; --flops=6ND makes'),
        ({'params': 20, 'tokens': 100, 'val_bpb': 1}, 'loss: in bits_per_byte, and in .* in nats'),
    ],
    ids=['count', 'flops', 'unit'],
)
def test_files_that_count_differently_are_refused(other, words, tmp_path):
    paths = [write(tmp_path, 'a.csv', [ONE]), write(tmp_path, 'b.csv', [other])]
    with pytest.raises(UserError, match=rf'b\.csv: {words}'):
        read_runs(paths, columns={'val_bpb': 'loss'} if 'val_bpb' in other else {})


def write_events(folder, params, losses):
    with SummaryWriter(str(folder)) as writer:
        if params:
            writer.add_hparams({'params': params, 'opt': 'adam'}, {'final': losses[-1]})
        for step, loss in enumerate(losses):
            writer.add_scalar('eval/loss', loss, step)
            writer.add_scalar('tokens', 1e6 * (step + 1), step)


def test_a_folder_of_event_files_is_a_table(tmp_path):
    write_events(tmp_path / 'wide,layers=4', 2e6, [4.0, 3.5, 3.25])
    write_events(tmp_path / 'deep' / 'params=1e6,layers=8', None, [4.5, 3.75])
    columns = {'eval/loss': 'loss'}
    runs = read_runs(str(tmp_path), columns=columns)
    assert sorted(zip(runs.names, runs.params, runs.tokens, runs.loss, strict=True)) == [
        ('deep/params=1e6,layers=8', 1e6, 2e6, 3.75),
        ('wide,layers=4', 2e6, 3e6, 3.25),
    ]
    table = rows.read_rows(str(tmp_path), columns=columns)
    assert {(row['layers'], row['step'], row.get('opt')) for row in table} == {
        ('4', 2, 'adam'),
        ('8', 1, None),
    }
    # A run that was killed while it wrote has a torn last record.
    path = next((tmp_path / 'wide,layers=4').glob('*tfevents*'))
    path.write_bytes(path.read_bytes()[:-9])
    assert read_runs(str(tmp_path), columns=columns).tokens.max() == 2e6
    path.write_bytes(b'\1' + bytes(40))
    with pytest.raises(UserError, match='not an event file, or damaged'):
        read_runs(str(tmp_path), columns=columns)


class FakeRun(types.SimpleNamespace):
    """A run as `wandb.Api().runs` returns it."""


@pytest.fixture
def fake_wandb(monkeypatch):
    """The client module, with a project of three runs."""
    module, projects = types.ModuleType('wandb'), {}

    class Error(Exception):
        pass

    class Api:
        def runs(self, path):
            if path not in projects:
                raise Error(f'Could not find project {path}\n(response 404)')
            return iter(projects[path])

    module.errors, module.Api = types.SimpleNamespace(Error=Error), Api
    projects['team/ladder'] = [
        FakeRun(
            id=f'id{k}',
            name=f'run {k}',
            state=state,
            config={'params': 10 * k, 'optimizer': {'lr': 0.1}, 'loss': 'mse'},
            summary_metrics={'loss': 4 - k, 'tokens': 100, '_wandb': {'runtime': 9}},
        )
        for k, state in enumerate(('finished', 'finished', 'crashed'), 1)
    ]
    monkeypatch.setitem(sys.modules, 'wandb', module)
    table_sources.read_wandb.cache_clear()
    return projects


def test_a_project_of_wandb_is_a_table(fake_wandb):
    path = 'wandb:team/ladder'
    runs = read_runs(path, columns={'summary.loss': 'loss'})
    assert runs.names == ['run 1', 'run 2']
    assert runs.params.tolist() == [10, 20]
    assert runs.loss.tolist() == [3, 2]
    assert runs.left_out[0]['reason'] == "status is 'crashed'"
    assert runs.provenance['file'] == path
    (row, *_) = rows.read_rows(path, columns={'summary.loss': 'loss'})
    assert row['optimizer.lr'] == 0.1
    assert row['run_id'] == 'id1'
    assert not any('_wandb' in name for name in row)
    with pytest.raises(UserError, match=r'^wandb:team/no: Could not find project team/no \(resp'):
        read_runs('wandb:team/no')
    del fake_wandb['team/ladder']


def test_without_the_client_module_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    table_sources.read_wandb.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'gpt_jax\[wandb\]'"):
        read_runs('wandb:team/ladder')
