"""A full disk is named as such, with its path and exit code 5, and nothing that was saved is lost.

`pytest -m slow -n 0 tests/faults/test_full_disk.py` tries 20 sizes and moments in training,
and more in evaluation and sweeps, on small file systems in memory; it must run as root.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.core import files
from gpt_jax.core.errors import DiskFull
from gpt_jax.interop.safetensors_files import LazyTensor, write_tensors
from gpt_jax.train import disk_space
from gpt_jax.train.disk_space import SpaceNeed
from gpt_jax.train.metrics import MetricsWriter
from gpt_jax.train.trackers import TrackedRun, Trackers
from tests import in_process, program

RUN = {
    'config.model.layers': 1,
    'config.train.log_every': 1,
    'config.train.keep_best': True,
    'config.train.tensorboard': True,
}


@contextlib.contextmanager
def mount(folder: Path, kilobytes: int):
    """Mount a file system of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip('mounting a file system needs root')
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill the file system except for `left` bytes; return the file that does."""
    path = folder / 'ballast'
    with open(path, 'wb', buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while files.measure_free_bytes(folder) > left:
                    file.write(bytes(size))
    return path


def check_named(err: str, folder: Path) -> None:
    last = err.splitlines()[-1]
    assert last.startswith('run.py: '), err
    assert str(folder) in last
    assert 'no space left on this disk' in last or 'this disk has' in last
    assert 'out of memory' not in err.lower()


def get_command(workdir, source, **fields):
    return in_process.command(workdir, **RUN | {'config.data.source': source} | fields)


@pytest.fixture(scope='module')
def complete(tmp_path_factory, source):
    workdir = tmp_path_factory.mktemp('complete') / 'run'
    in_process.run(get_command(workdir, source))
    return workdir


def check_finishes(arguments, workdir, complete):
    """Finish the run, on a larger disk, and compare it with one that had no trouble."""
    in_process.run(arguments)
    checksums = [program.summary(run)['parameters_sha256'] for run in (workdir, complete)]
    assert checksums[0] == checksums[1]
    metrics = [(run / 'metrics.jsonl').read_bytes() for run in (workdir, complete)]
    assert metrics[0] == metrics[1]


def test_too_little_space_is_found_before_the_first_step(source, tmp_path):
    disk = tmp_path / 'disk'
    with mount(disk, 1000):
        _, err = in_process.run(get_command(disk / 'run', source), code=5)
        check_named(err, disk / 'run')
        assert 'checkpoints need 2.31 MB (5 at once, of 462 kB each)' in err
        assert 'step 1/' not in err


def test_a_disk_that_fills_up_is_named(source, tmp_path, complete):
    disk = tmp_path / 'disk'
    arguments = get_command(disk / 'run', source)
    with mount(disk, 8000):
        process = program.start(arguments)
        while program.lines(disk / 'run') < 12 and process.poll() is None:
            time.sleep(0.01)
        ballast = fill(disk, 0)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 5, err
        check_named(err, disk)
        ballast.unlink()
        check_finishes(arguments, disk / 'run', complete)


def test_space_needed_counts_the_checkpoints_at_once(settings, tmp_path, monkeypatch):
    fields = {'train.steps': 100, 'train.checkpoint_every': 10, 'train.keep_checkpoints': 2}
    config = settings(fields)
    counts = [disk_space.count_checkpoints(config, *case, 0) for case in ((0, 0), (50, 2), (90, 2))]
    assert counts == [3, 1, 1]
    assert disk_space.count_checkpoints(config, 100, 2, 0) == 0
    config = settings(fields | {'train.keep_best': True, 'train.keep_steps': (30, 60)})
    assert disk_space.count_checkpoints(config, 0, 0, 0) == 7
    assert disk_space.count_checkpoints(config, 50, 3, 1) == 3
    assert (
        disk_space.count_checkpoints(settings(fields | {'train.checkpoint_every': 0}), 0, 0, 0) == 1
    )
    monkeypatch.setattr(files, 'measure_free_bytes', lambda _: 5_000_000)
    disk_space.check_free_space(tmp_path, [SpaceNeed(1_000_000, 5)])
    expected = r'checkpoints need 6 MB \(6 at once, of 1 MB each\), and this disk has 5 MB free'
    with pytest.raises(DiskFull, match=expected):
        disk_space.check_free_space(tmp_path, [SpaceNeed(1_000_000, 3)] * 2)


def test_event_files_that_cannot_be_written_end_only_themselves(tmp_path):
    (tmp_path / 'tensorboard').write_text('not a folder')
    lines = []
    run = TrackedRun('tiny', '', tmp_path, {})
    with MetricsWriter(tmp_path) as writer, Trackers(['tensorboard'], run, 0, lines.append) as all_:
        for step in range(1, 100):
            writer.write(step, {'loss': 2.0}, {})
            all_.log(step, {'loss': 2.0}, {})
    assert program.lines(tmp_path) == 99
    assert len(lines) == 1
    assert 'tracker tensorboard: stopped (FileExistsError' in lines[0]


def test_a_full_disk_names_the_file(tmp_path):
    with mount(tmp_path / 'disk', 16):
        path = tmp_path / 'disk' / 'x.jsonl'
        files.append_jsonl(path, {'a': 1})
        fill(tmp_path / 'disk', 0)
        before = path.read_bytes()
        with pytest.raises(OSError, match='No space left') as error:
            files.append_jsonl(path, {'a': 'x' * 20_000})
        assert error.value.filename == str(path)
        assert path.read_bytes() == before
        weights = tmp_path / 'disk' / 'model.safetensors'
        tensor = LazyTensor('a', 'F32', (9000,), lambda: np.zeros(9000, np.float32))
        with pytest.raises(OSError, match='No space left') as error:
            write_tensors(weights, [tensor])
        assert error.value.filename == str(weights)


BUS_ERROR = """
import mmap, os, sys
from pathlib import Path
from gpt_jax.core import watchdog
watchdog.catch_bus_error([Path(sys.argv[1])])
with open(sys.argv[1] + '/x', 'wb+') as file:
    os.truncate(file.fileno(), 1 << 20 if sys.argv[2] == 'sparse' else 4096)
    view = mmap.mmap(file.fileno(), 0)
    if sys.argv[2] == 'short':
        os.truncate(file.fileno(), 0)
    view[:] = bytes(len(view))
"""


@pytest.mark.parametrize(('kind', 'code'), [('sparse', 5), ('short', -signal.SIGBUS)])
def test_a_bus_error_is_a_full_disk_only_if_one_is_full(tmp_path, kind, code):
    disk = tmp_path / 'disk'
    with mount(disk, 100 if kind == 'sparse' else 1000):
        arguments = [sys.executable, '-c', BUS_ERROR, str(disk), kind]
        done = subprocess.run(arguments, cwd=program.ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert (f'{disk}: no space left on this disk' in done.stderr) == (code == 5)


@pytest.mark.slow
def test_twenty_sizes_and_moments_of_training(source, tmp_path, complete):
    """10 sizes from 16 kB up, and 10 moments at which another program fills the disk."""
    named = 0
    for kilobytes in (16, 24, 40, 64, 100, 200, 400, 700, 1100, 1500):
        disk = tmp_path / f'size_{kilobytes}'
        with mount(disk, kilobytes):
            _, err = program.run(get_command(disk / 'run', source), code=5)
            check_named(err, disk)
            named += 1
    generator = random.Random(0)
    for index in range(10):
        disk = tmp_path / f'moment_{index}'
        arguments = get_command(disk / 'run', source)
        with mount(disk, 8000):
            process = program.start(arguments)
            moment = generator.randrange(1, 36)
            while program.lines(disk / 'run') < moment and process.poll() is None:
                time.sleep(0.005)
            ballast = fill(disk, generator.choice((0, 0, 5_000, 50_000, 200_000)))
            _, err = process.communicate(timeout=120)
            assert process.returncode == 5, err
            check_named(err, disk)
            named += 1
            ballast.unlink()
            check_finishes(arguments, disk / 'run', complete)
    assert named == 20


@pytest.mark.slow
@pytest.mark.parametrize('kilobytes', [16, 32, 64, 128, 300, 600, 1200])
def test_a_sweep_on_a_full_disk(source, tmp_path, kilobytes):
    """The sweep itself ends with 5, or its records name the cause of each trial."""
    sweep = program.write_seeds_sweep(tmp_path)
    disk = tmp_path / 'disk'
    fields = {'config': sweep, 'config.seed': None}
    with mount(disk, kilobytes):
        process = program.start(get_command(disk / 'run', source, **fields))
        _, err = process.communicate(timeout=300)
        if process.returncode == 5:
            check_named(err, disk)
        else:
            assert process.returncode == 3, err
            for record in files.read_jsonl(disk / 'run' / 'records.jsonl'):
                assert record['status'].startswith('failed: disk full')
    assert 'out of memory' not in err


@pytest.mark.slow
@pytest.mark.parametrize('left', [0, 4096, 30_000])
def test_reports_on_a_full_disk(tmp_path, complete, source, left):
    """Evaluation to a full standard output, and tokenizing into a full cache."""
    disk = tmp_path / 'disk'
    with mount(disk, 64):
        fill(disk, left)
        arguments = get_command(
            complete, source, mode='evaluate', config__data__cache=disk / 'cache'
        )
        _, err = program.run(arguments, code=5)
        assert str(disk) in err.splitlines()[-1]
        out = os.open('/dev/full', os.O_WRONLY)
        arguments = get_command(complete, source, mode='evaluate')
        done = subprocess.run(
            arguments, cwd=program.ROOT, stdout=out, stderr=subprocess.PIPE, text=True
        )
        os.close(out)
        assert done.returncode == 5
        assert 'output: no space left on this disk' in done.stderr.splitlines()[-1]
