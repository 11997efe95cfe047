"""Damage to a checkpoint, or a kill during a save, never restores a state that was not saved."""

import gc
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.train import manifest
from gpt_jax.train.checkpoint import CheckpointManager


def make_state(step: int) -> dict[str, Any]:
    weights = np.random.default_rng(step).normal(size=(300, 70)).astype(np.float32)
    return {'w': jnp.asarray(weights), 'b': [jnp.full(9, step, jnp.int32)], 'step': jnp.int32(step)}


def save_endlessly(folder: str) -> None:
    with CheckpointManager(folder, max_to_keep=2) as checkpoints:
        restored = checkpoints.restore(make_state(0))
        for step in itertools.count(restored.step + 1 if restored else 1):
            checkpoints.save(step, make_state(step), {'batch': step})
            print(step, flush=True)


def assert_equals_saved(restored: Any, step: int) -> None:
    assert (restored.step, restored.meta) == (step, {'batch': step})
    leaves, expected = (jax.tree.leaves(tree) for tree in (restored.state, make_state(step)))
    for a, b in zip(leaves, expected, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def flip_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def append_byte(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(1))


def clear(path: Path, rng: random.Random) -> None:
    """Keep the size without the content, as file systems may after a power failure."""
    del rng
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def add_file(path: Path, rng: random.Random) -> None:
    path.with_name(f'{rng.randrange(10**6)}').write_bytes(b'x')


@pytest.fixture(scope='module')
def pristine(tmp_path_factory) -> Path:
    """Save the good checkpoints 10 and 20 in a folder."""
    folder = tmp_path_factory.mktemp('pristine')
    with CheckpointManager(folder, max_to_keep=2) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step), {'batch': step})
    return folder


REASONS = {
    flip_bit: 'does not match its',
    truncate: r'has \d+ bytes, not|own SHA',
    append_byte: r'has \d+ bytes, not|own SHA',
    clear: 'does not match its',
    delete: 'is missing|manifest.json cannot be read',
    add_file: 'is not listed',
}


@pytest.mark.parametrize('damage', REASONS)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(pristine, tmp_path, damage):
    rng, repeats = random.Random(damage.__name__), 40 if damage is flip_bit else 1
    lines: list[str] = []
    names = sorted(
        str(p.relative_to(pristine)) for p in (pristine / '20').rglob('*') if p.is_file()
    )
    assert len(names) > 10
    cases = names * -(-repeats // len(names))
    for case, name in enumerate(cases):
        folder = tmp_path / str(case)
        shutil.copytree(pristine, folder)
        damage(folder / name, rng)
        with CheckpointManager(folder, max_to_keep=2, log=lines.append) as checkpoints:
            assert_equals_saved(checkpoints.restore(make_state(0)), 10)
            assert checkpoints.latest_step() == 10
        assert (folder / 'quarantine' / '20-0').is_dir()
        shutil.rmtree(folder)
    assert len(lines) == len(cases)
    assert all(re.search(REASONS[damage], line) for line in lines)


def test_every_byte_of_the_manifest_is_protected(pristine, tmp_path):
    content = (pristine / '20' / manifest.MANIFEST_FILE).read_bytes()
    rng = random.Random(1)
    assert manifest.read_manifest(pristine / '20')['meta'] == {'batch': 20}
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / manifest.MANIFEST_FILE).write_bytes(damaged)
        with pytest.raises(manifest.DamageError, match='own SHA-256'):
            manifest.read_manifest(tmp_path)


def test_a_run_without_good_checkpoints_is_rejected_repeatedly(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / '10' / manifest.MANIFEST_FILE).unlink()
    flip_bit(tmp_path / '20' / 'state' / '_METADATA', random.Random(2))
    for _ in range(2):
        with (
            CheckpointManager(tmp_path, max_to_keep=2, log=lambda _: None) as checkpoints,
            pytest.raises(UserError) as error,
        ):
            checkpoints.restore(make_state(0))
        assert 'no good checkpoint is left' in str(error.value)
    assert {p.name for p in (tmp_path / 'quarantine').iterdir()} == {'10-0', '20-0'}


def test_a_run_whose_checkpoints_were_removed_does_not_restart(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    for step in ('10', '20'):
        shutil.rmtree(tmp_path / step)
    with (
        CheckpointManager(tmp_path, max_to_keep=2) as checkpoints,
        pytest.raises(UserError, match='no good checkpoint is left'),
    ):
        checkpoints.restore(make_state(0))


def test_a_renamed_checkpoint_is_damaged(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / '20').rename(tmp_path / '30')
    with CheckpointManager(tmp_path, max_to_keep=2, log=lambda _: None) as checkpoints:
        assert_equals_saved(checkpoints.restore(make_state(0)), 10)


# After a failed save, Orbax calls a closed event loop when it is collected.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_failed_write_leaves_the_older_checkpoint(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, old[1]))  # the state has 84,000 bytes
        try:
            checkpoints.save(30, make_state(30), {'batch': 30})
            with pytest.raises(
                RuntimeError, match=r'saving checkpoint 30 failed: .*[Ff]ile too large'
            ):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert {p.name for p in tmp_path.iterdir()} == {'10', '20', 'completed.txt'}
        assert_equals_saved(checkpoints.restore(make_state(0)), 20)
        checkpoints.save(30, make_state(30), {'batch': 30})
        assert_equals_saved(checkpoints.restore(make_state(0)), 30)
    gc.collect()


def test_a_kill_at_any_moment_leaves_a_saved_state(tmp_path):
    """Two writers in parallel, each killed twice during its saves and started again."""
    rng, folders = random.Random(3), (tmp_path / 'a', tmp_path / 'b')
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, 'PYTHONPATH': root, 'JAX_PLATFORMS': 'cpu'}
    completed, unfinished = dict.fromkeys(folders, 0), 0
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for folder in folders
        ]
        try:
            for writer, folder in zip(writers, folders, strict=True):
                assert writer.stdout is not None
                steps = [int(writer.stdout.readline()) for _ in range(3)]
                assert steps[0] > completed[folder]
                # The third save began after the second was complete.
                completed[folder] = steps[1]
            time.sleep(rng.uniform(0, 0.3))
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.communicate()
        for folder in folders:
            unfinished += sum(1 for _ in folder.glob('tmp-*'))
            with CheckpointManager(folder, max_to_keep=2, log=lambda _: None) as checkpoints:
                restored = checkpoints.restore(make_state(0))
                assert restored is not None
                assert_equals_saved(restored, restored.step)
                assert restored.step >= completed[folder]
            assert list(folder.glob('tmp-*')) == []
            assert not (folder / 'quarantine').exists()
    assert unfinished > 0, 'no writer was killed during a save'


if __name__ == '__main__':
    save_endlessly(sys.argv[1])
