"""No damage to a checkpoint, and no death while it is written, may give back a state that was not saved."""

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

from gpt_jax.errors import UserError
from gpt_jax.train import manifest
from gpt_jax.train.checkpoint import Checkpoints


def make_state(step: int) -> dict[str, Any]:
    weights = np.random.default_rng(step).normal(size=(300, 70)).astype(np.float32)
    return {'w': jnp.asarray(weights), 'b': [jnp.full(9, step, jnp.int32)], 'step': jnp.int32(step)}


def write_for_ever(folder: str) -> None:
    with Checkpoints(folder, keep=2) as checkpoints:
        restored = checkpoints.restore(make_state(0))
        for step in itertools.count(restored.step + 1 if restored else 1):
            checkpoints.save(step, make_state(step), {'batch': step})
            print(step, flush=True)


def assert_is_what_was_saved(restored: Any, step: int) -> None:
    assert (restored.step, restored.meta) == (step, {'batch': step})
    for got, expected in zip(jax.tree.leaves(restored.state), jax.tree.leaves(make_state(step)), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def grow(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(1))


def zero(path: Path, rng: random.Random) -> None:
    """What a file system may leave after a power failure: the size without the content."""
    del rng
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def surplus(path: Path, rng: random.Random) -> None:
    path.with_name(f'{rng.randrange(10**6)}').write_bytes(b'x')


@pytest.fixture(scope='module')
def pristine(tmp_path_factory) -> Path:
    """A folder with the good checkpoints 10 and 20."""
    folder = tmp_path_factory.mktemp('pristine')
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step), {'batch': step})
    return folder


REASONS = {
    flip: 'does not match its',
    truncate: r'has \d+ bytes, not|own SHA',
    grow: r'has \d+ bytes, not|own SHA',
    zero: 'does not match its',
    delete: 'is missing|manifest.json cannot be read',
    surplus: 'is not listed',
}


@pytest.mark.parametrize('damage', REASONS)
def test_damage_is_never_restored_and_the_older_one_is(pristine, tmp_path, damage):
    rng, times = random.Random(damage.__name__), 100 if damage is flip else 1
    lines: list[str] = []
    names = sorted(str(p.relative_to(pristine)) for p in (pristine / '20').rglob('*') if p.is_file())
    assert len(names) > 10
    cases = names * -(-times // len(names))
    for case, name in enumerate(cases):
        folder = tmp_path / str(case)
        shutil.copytree(pristine, folder)
        damage(folder / name, rng)
        with Checkpoints(folder, keep=2, announce=lines.append) as checkpoints:
            assert_is_what_was_saved(checkpoints.restore(make_state(0)), 10)
            assert checkpoints.latest() == 10
        assert (folder / 'quarantine' / '20-0').is_dir()
        shutil.rmtree(folder)
    assert len(lines) == len(cases)
    assert all(re.search(REASONS[damage], line) for line in lines)


def test_every_byte_of_the_manifest_is_guarded(pristine, tmp_path):
    content = (pristine / '20' / manifest.NAME).read_bytes()
    rng = random.Random(1)
    assert manifest.read(pristine / '20')['meta'] == {'batch': 20}
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / manifest.NAME).write_bytes(damaged)
        with pytest.raises(manifest.DamageError, match='own SHA-256'):
            manifest.read(tmp_path)


def test_nothing_good_left_is_refused_again_and_again(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / '10' / manifest.NAME).unlink()
    flip(tmp_path / '20' / 'state' / '_METADATA', random.Random(2))
    with pytest.raises(UserError, match='no good checkpoint is left'):
        manifest.read_meta(tmp_path)
    for _ in range(2):
        with Checkpoints(tmp_path, keep=2, announce=lambda _: None) as checkpoints, pytest.raises(UserError) as caught:
            checkpoints.restore(make_state(0))
        assert 'no good checkpoint is left' in str(caught.value)
    assert {p.name for p in (tmp_path / 'quarantine').iterdir()} == {'10-0', '20-0'}


def test_a_run_whose_checkpoints_were_removed_does_not_start_afresh(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    for step in ('10', '20'):
        shutil.rmtree(tmp_path / step)
    with Checkpoints(tmp_path, keep=2) as checkpoints, pytest.raises(UserError, match='no good checkpoint is left'):
        checkpoints.restore(make_state(0))


def test_a_checkpoint_under_another_name_is_damaged(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / '20').rename(tmp_path / '30')
    with Checkpoints(tmp_path, keep=2, announce=lambda _: None) as checkpoints:
        assert_is_what_was_saved(checkpoints.restore(make_state(0)), 10)


# A failed save leaves Orbax calling a closed event loop while it is collected: noise of its own, after the error.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_file_that_cannot_grow_fails_the_save_and_the_older_one_stays(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, old[1]))  # the state has 84,000 bytes
        try:
            checkpoints.save(30, make_state(30), {'batch': 30})
            with pytest.raises(RuntimeError, match=r'saving checkpoint 30 failed: .*[Ff]ile too large'):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert {p.name for p in tmp_path.iterdir()} == {'10', '20', 'completed.txt'}
        assert_is_what_was_saved(checkpoints.restore(make_state(0)), 20)
        checkpoints.save(30, make_state(30), {'batch': 30})
        assert_is_what_was_saved(checkpoints.restore(make_state(0)), 30)
    gc.collect()


def test_killed_at_any_moment_it_restores_what_was_saved(tmp_path):
    """Two writers side by side, each killed twice in the middle of its saves and started again."""
    root, rng, folders = str(Path(__file__).parents[2]), random.Random(3), (tmp_path / 'a', tmp_path / 'b')
    environment = {**os.environ, 'PYTHONPATH': root, 'JAX_PLATFORMS': 'cpu'}
    reached, left = dict.fromkeys(folders, 0), 0
    for _ in range(2):
        commands = [[sys.executable, __file__, str(folder)] for folder in folders]
        writers = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
        try:
            for writer, folder in zip(writers, folders, strict=True):
                assert writer.stdout is not None
                begun = [int(writer.stdout.readline()) for _ in range(3)]
                # save() of the third began after the second was complete
                assert begun[0] > reached[folder]
                reached[folder] = begun[1]
            time.sleep(rng.uniform(0, 0.3))
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.communicate()
        for folder in folders:
            left += sum(1 for _ in folder.glob('tmp-*'))
            with Checkpoints(folder, keep=2, announce=lambda _: None) as checkpoints:
                restored = checkpoints.restore(make_state(0))
                assert restored is not None
                assert_is_what_was_saved(restored, restored.step)
                assert restored.step >= reached[folder]
            assert list(folder.glob('tmp-*')) == []
            assert not (folder / 'quarantine').exists()
    assert left > 0, 'no writer was killed in the middle of a save'


if __name__ == '__main__':
    write_for_ever(sys.argv[1])
