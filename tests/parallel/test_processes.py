"""Do processes that share a mesh train as one process does, also where its axes lie between them?"""

import json
import shutil
import socket

import pytest

from tests import program

MESHES = {
    'data': {'data': 4},
    'fsdp': {'data': 1, 'fsdp': 4, 'strategy': 'fsdp'},
    'ring': {'data': 1, 'context': 2, 'tensor': 2},
    'pipeline': {'data': 2, 'pipeline': 2},
}
STEPS, HALF = 20, 10
SMALL = {
    'model__scan_layers': True, 'train__steps': STEPS, 'train__log_every': 1, 'train__evaluate_every': 0,
    'train__checkpoint_every': HALF, 'train__keep_steps': f'({HALF},)',
}  # fmt: skip


def run(workdir, source, mesh, processes):
    """The run's losses by step, of `processes` that have four devices together."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    given = {f'mesh__{axis}': size for axis, size in MESHES[mesh].items()} | SMALL | {'data__source': source}
    flags = {f'config__{name}': value for name, value in given.items()}
    flags['config__mesh__cpu_devices'] = 4 // processes
    join = [{'distributed': f'127.0.0.1:{port},{processes},{index}'} for index in range(processes)]
    each = [program.start(program.command(workdir, **flags, **one)) for one in (join if processes > 1 else [{}])]
    for process in each:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) == STEPS
    return losses


def test_devices_that_wait_along_several_axes_have_threads_for_it(source, tmp_path):
    """Two layers in a stage, whose weights and activations cross at once."""
    mesh = {'data': 1, 'fsdp': 2, 'pipeline': 2, 'tensor': 2, 'strategy': 'fsdp', 'cpu_devices': 8}
    fields = {f'config__mesh__{axis}': size for axis, size in mesh.items()} | {'config__data__source': source}
    program.run(program.command(tmp_path / 'run', **fields, config__model__layers=4, config__train__steps=4))
    assert program.summary(tmp_path / 'run')['status'] == 'done'


@pytest.fixture(scope='module')
def alone(tmp_path_factory, source):
    """(the folder of a run of one process, its losses)."""
    folder = tmp_path_factory.mktemp('alone') / 'run'
    return folder, run(folder, source, 'data', 1)


def half(folder, to):
    """A copy of the run as it was after its first half."""
    shutil.copytree(folder, to)
    (to / 'summary.json').unlink()
    (last,) = (one for one in (to / 'checkpoints').glob('[0-9]*') if int(one.name) == STEPS)
    shutil.rmtree(last)
    return to


@pytest.mark.slow
@pytest.mark.parametrize(('mesh', 'processes'), [('fsdp', 2), ('ring', 2), ('pipeline', 4), ('ring', 4)])
def test_many_processes_give_the_losses_of_one_and_go_on_for_each_other(alone, source, tmp_path, mesh, processes):
    folder, expected = alone
    assert run(tmp_path / 'many', source, mesh, processes) == pytest.approx(expected, rel=1e-5)
    there = half(tmp_path / 'many', tmp_path / 'goes on alone')
    assert run(there, source, 'data', 1) == pytest.approx(expected, rel=1e-5)
    back = half(folder, tmp_path / 'goes on together')
    assert run(back, source, mesh, processes) == pytest.approx(expected, rel=1e-5)
    between = half(tmp_path / 'many', tmp_path / 'goes on in another number')
    assert run(between, source, 'fsdp', 6 - processes) == pytest.approx(expected, rel=1e-5)
