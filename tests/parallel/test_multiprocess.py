"""Several processes that share a mesh train as one process does."""

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
FIELDS = {
    'config__model__scan_layers': True,
    'config__train__steps': STEPS,
    'config__train__log_every': 1,
    'config__train__eval_every': 0,
    'config__train__checkpoint_every': HALF,
    'config__train__keep_steps': f'({HALF},)',
}


def run(workdir, source, mesh, processes):
    """Run processes that have four devices together; return the losses by step."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    flags = FIELDS | {f'config__mesh__{axis}': size for axis, size in MESHES[mesh].items()}
    flags |= {'config__data__source': source, 'config__mesh__cpu_devices': 4 // processes}
    running = []
    for index in range(processes):
        join = {'distributed': f'127.0.0.1:{port},{processes},{index}'} if processes > 1 else {}
        running.append(program.start(program.command(workdir, **flags, **join)))
    for process in running:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) == STEPS
    return losses


@pytest.mark.slow
def test_collectives_along_several_axes_have_enough_threads(source, tmp_path):
    """Two layers in a stage, whose weights and activations cross devices at once."""
    mesh = {'data': 1, 'fsdp': 2, 'pipeline': 2, 'tensor': 2, 'strategy': 'fsdp', 'cpu_devices': 8}
    fields = {f'config__mesh__{axis}': size for axis, size in mesh.items()}
    fields |= {
        'config__data__source': source,
        'config__model__layers': 4,
        'config__model__bias': False,
        'config__optimizer__name': 'sgd',
        'config__train__steps': 2,
        'config__train__eval_every': 0,
        'config__train__checkpoint_every': 0,
    }
    program.run(program.command(tmp_path / 'run', **fields))
    assert program.summary(tmp_path / 'run')['status'] == 'done'


@pytest.fixture(scope='module')
def single_process_run(tmp_path_factory, source):
    """The folder of a run of one process, and its losses."""
    folder = tmp_path_factory.mktemp('single_process') / 'run'
    return folder, run(folder, source, 'data', 1)


def copy_first_half(folder, target):
    """Copy the run as it was after its first half."""
    shutil.copytree(folder, target)
    (target / 'summary.json').unlink()
    checkpoints = (target / 'checkpoints').glob('[0-9]*')
    (last,) = (path for path in checkpoints if int(path.name) == STEPS)
    shutil.rmtree(last)
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ('mesh', 'processes'), [('fsdp', 2), ('ring', 2), ('pipeline', 4), ('ring', 4)]
)
def test_any_number_of_processes_gives_the_same_losses_and_can_resume_any_other(
    single_process_run, source, tmp_path, mesh, processes
):
    single_folder, losses = single_process_run
    expected = pytest.approx(losses, rel=1e-5)
    assert run(tmp_path / 'several', source, mesh, processes) == expected
    resumed_by_one = copy_first_half(tmp_path / 'several', tmp_path / 'resumed_by_one')
    assert run(resumed_by_one, source, 'data', 1) == expected
    resumed_by_several = copy_first_half(single_folder, tmp_path / 'resumed_by_several')
    assert run(resumed_by_several, source, mesh, processes) == expected
    resumed_by_others = copy_first_half(tmp_path / 'several', tmp_path / 'resumed_by_others')
    assert run(resumed_by_others, source, 'fsdp', 6 - processes) == expected
