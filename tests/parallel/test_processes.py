"""Do processes that share a mesh train as one process does, also where its axes lie between them?"""

import json
import shutil
import socket

import pytest

from tests import program

MESHES = {
    'fsdp': {'data': 1, 'fsdp': 4, 'strategy': 'fsdp'},
    'ring': {'data': 1, 'context': 2, 'tensor': 2},
    'pipeline': {'data': 2, 'pipeline': 2},
}
SMALL = {
    'model__scan_layers': True, 'train__steps': 20, 'train__log_every': 1, 'train__evaluate_every': 0,
    'train__checkpoint_every': 10,
}  # fmt: skip


def fields(mesh, cpu_devices):
    given = {f'mesh__{axis}': size for axis, size in mesh.items()} | SMALL | {'mesh__cpu_devices': cpu_devices}
    return {f'config__{name}': value for name, value in given.items()}


def run(workdir, source, mesh, processes, **more):
    """The run's losses by step, of `processes` that have four devices together."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    flags = fields(mesh, 4 // processes) | {'config__data__source': source} | more
    each = [
        program.start(program.command(workdir, **flags, distributed=f'127.0.0.1:{port},{processes},{index}'))
        if processes > 1
        else program.start(program.command(workdir, **flags))
        for index in range(processes)
    ]
    for process in each:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [record['loss'] for record in records if 'loss' in record]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return f'files:{program.corpus(tmp_path_factory.mktemp("corpus"))}'


@pytest.mark.slow
@pytest.mark.parametrize('processes', [2, 4])
@pytest.mark.parametrize('mesh', MESHES)
def test_processes_give_the_losses_of_one(source, tmp_path, mesh, processes):
    """Same batches, so the same losses; and a run that many began goes on alone, under another mesh."""
    expected = run(tmp_path / 'one', source, {'data': 4}, 1)
    found = run(tmp_path / 'many', source, MESHES[mesh], processes)
    assert found == pytest.approx(expected, rel=1e-5)
    begun = tmp_path / 'begun'
    run(begun, source, MESHES[mesh], processes, config__train__keep_steps='(10,)')
    (begun / 'summary.json').unlink()
    for folder in (begun / 'checkpoints').glob('[0-9]*'):
        if int(folder.name) > 10:
            shutil.rmtree(folder)
    assert run(begun, source, {'data': 4}, 1)[10:] == pytest.approx(expected[10:], rel=1e-5)
