"""Checkpoints are restored bitwise, completely, and into the same tree only."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt_jax.core.errors import UserError
from gpt_jax.train import checkpoint, manifest
from gpt_jax.train.checkpoint import CheckpointManager


def make_state(step: int) -> dict[str, Any]:
    """Make a state that depends on `step`, with optax classes, several dtypes and empty nodes."""
    embed = jax.random.normal(jax.random.key(step), (16, 8))
    params = {'embed': embed, 'head': {'bias.': jnp.full(8, step, jnp.bfloat16)}}
    return {
        'step': jnp.int32(step),
        'params': params,
        'optimizer': optax.adam(1e-3).init(params),
        'nothing': None,
    }


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


ABSTRACT = abstract(make_state(0))


def assert_bitwise_equal(actual: Any, expected: Any) -> None:
    assert str(jax.tree.structure(actual)) == str(jax.tree.structure(expected))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def lines() -> list[str]:
    return []


def test_round_trip_is_bitwise(tmp_path, lines):
    with CheckpointManager(tmp_path, max_to_keep=3, log=lines.append) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(7, make_state(7), {'batch': 7, 'config': {'width': [1, 2.5], 'name': 'é'}})
    with CheckpointManager(tmp_path, max_to_keep=3, log=lines.append) as checkpoints:
        restored = checkpoints.restore(ABSTRACT)
        assert checkpoints.latest_step() == 7
    assert restored is not None
    assert (restored.step, restored.meta) == (
        7,
        {'batch': 7, 'config': {'width': [1, 2.5], 'name': 'é'}},
    )
    assert_bitwise_equal(restored.state, make_state(7))
    assert lines == []
    assert manifest.read_newest_meta(tmp_path) == restored.meta


def test_save_copies_state_and_meta_at_once(tmp_path):
    donating = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, meta = donating({'w': jnp.zeros((512, 512))}), {'batches': [1]}
    with CheckpointManager(tmp_path, max_to_keep=1) as checkpoints:
        checkpoints.save(1, state, meta)
        meta['batches'].append(2)
        for _ in range(5):
            state = donating(state)
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert restored.meta == {'batches': [1]}
    assert np.unique(restored.state['w']).tolist() == [1]


def test_a_save_completes_without_another_call(tmp_path):
    with CheckpointManager(tmp_path, max_to_keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        deadline = time.monotonic() + 20
        while not (tmp_path / '1').exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert manifest.verify_checkpoint(tmp_path / '1')['step'] == 1


def test_only_the_newest_are_retained(tmp_path):
    with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
        for step in (9, 10, 100, 11, 101):
            checkpoints.save(step, make_state(step), {})
        checkpoints.wait()
        assert manifest.list_steps(tmp_path) == [101, 100]
    with pytest.raises(UserError, match='max_to_keep: must be at least 1, got 0'):
        CheckpointManager(tmp_path, max_to_keep=0)


def test_a_saved_step_is_not_saved_again_unless_it_is_damaged(tmp_path, lines):
    with CheckpointManager(tmp_path, max_to_keep=2, log=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 1})
        checkpoints.save(1, make_state(1), {'try': 2})
    with CheckpointManager(tmp_path, max_to_keep=2, log=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 3})
    assert manifest.read_newest_meta(tmp_path) == {'try': 1}
    (tmp_path / '1' / 'state' / '_METADATA').unlink()
    with CheckpointManager(tmp_path, max_to_keep=2, log=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 4})
        checkpoints.wait()
        assert manifest.read_newest_meta(tmp_path) == {'try': 4}
    assert len(lines) == 1
    assert 'state/_METADATA is missing' in lines[0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s['params'].update(embed=jnp.zeros((16, 9))),
            r'params/embed is float32\[16,8\].* float32\[16,9\]',
        ),
        (
            lambda s: s['params'].update(embed=jnp.zeros((16, 8), jnp.bfloat16)),
            r'params/embed is float32.* bfloat16',
        ),
        (
            lambda s: s['params'].update(more=jnp.zeros(1)),
            r'params/more is absent in the checkpoint and float32\[1\]',
        ),
        (
            lambda s: s['params'].pop('embed'),
            r'params/embed is float32\[16,8\] in the checkpoint and absent',
        ),
    ],
)
def test_restoring_into_another_tree_is_rejected(tmp_path, change, message):
    other = make_state(1)
    change(other)
    with CheckpointManager(tmp_path, max_to_keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        with pytest.raises(UserError, match=message):
            checkpoints.restore(abstract(other))
        assert checkpoints.latest_step() == 1


def test_states_that_cannot_be_saved_are_rejected_at_once(tmp_path):
    with CheckpointManager(tmp_path, max_to_keep=1) as checkpoints:
        with pytest.raises(TypeError, match='step: must be an array with a sharding, got int'):
            checkpoints.save(1, {'step': 1}, {})
        with pytest.raises(ValueError, match='not JSON compliant'):
            checkpoints.save(1, make_state(1), {'loss': float('nan')})
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_save_is_removed(tmp_path, lines):
    (tmp_path / 'tmp-4' / 'state').mkdir(parents=True)
    with CheckpointManager(tmp_path, max_to_keep=1, log=lines.append) as checkpoints:
        assert checkpoints.restore(ABSTRACT) is None
    assert list(tmp_path.iterdir()) == []
    assert lines == [f'{tmp_path / "tmp-4"}: unfinished, removed']
    assert manifest.read_newest_meta(tmp_path) is None


def test_load_reads_a_part_and_moves_nothing(tmp_path, lines):
    with pytest.raises(UserError, match='no checkpoint here'):
        checkpoint.load_checkpoint(tmp_path, ABSTRACT)
    with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
        checkpoints.save(1, make_state(1), {'batch': 1})
        checkpoints.save(2, make_state(2), {})
    (tmp_path / '2' / 'surplus').touch()
    (tmp_path / 'tmp-3').mkdir()
    restored = checkpoint.load_checkpoint(
        tmp_path, {'params': ABSTRACT['params'], 'optimizer': None}, log=lines.append
    )
    assert_bitwise_equal(restored.state, {'params': make_state(1)['params'], 'optimizer': None})
    assert (restored.step, restored.meta) == (1, {'batch': 1})
    assert lines == [f'{tmp_path}/2: damaged (surplus is not listed in manifest.json); skipped']
    assert {path.name for path in tmp_path.iterdir()} == {'1', '2', 'tmp-3', 'completed.txt'}


def test_the_next_call_raises_an_error_of_the_thread_and_later_saves_succeed(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, 'No space left on device')

    with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
        for method in (
            checkpoints.wait,
            lambda: checkpoints.save(3, make_state(3), {}),
            checkpoints.close,
        ):
            with monkeypatch.context() as patch:
                patch.setattr(manifest, 'write_manifest', fail)
                checkpoints.save(2, make_state(2), {})
                checkpoints._thread.submit(lambda: None).result()
            with pytest.raises(RuntimeError, match='checkpoint 2 failed: no space left'):
                method()
            assert not (tmp_path / 'tmp-2').exists()
            assert manifest.list_steps(tmp_path) == [1]
    with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
        checkpoints.save(2, make_state(2), {})
    assert manifest.list_steps(tmp_path) == [2, 1]


def test_an_error_at_exit_does_not_hide_an_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, 'write_manifest', lambda *_, **__: 1 / 0)

    def run() -> None:
        with CheckpointManager(tmp_path, max_to_keep=2) as checkpoints:
            checkpoints.save(2, make_state(2), {})
            raise KeyError('first')

    with pytest.raises(KeyError) as error:
        run()
    assert 'checkpoint 2 failed: division by zero' in error.value.__notes__[0]


def test_reading_meta_imports_no_jax_and_a_new_run_no_orbax(tmp_path):
    code = """import sys; from gpt_jax.train import checkpoint, manifest
manifest.read_newest_meta(sys.argv[1]); print('jax' in sys.modules)
with checkpoint.CheckpointManager(sys.argv[1], max_to_keep=1) as c: c.restore({})
print('orbax.checkpoint' in sys.modules)"""
    environment = {
        **os.environ,
        'PYTHONPATH': str(Path(__file__).parents[2]),
        'JAX_PLATFORMS': 'cpu',
    }
    out = subprocess.check_output(
        [sys.executable, '-c', code, str(tmp_path)], env=environment, text=True, timeout=60
    )
    assert out.split() == ['False', 'False']


TWO_FOLDERS = """import sys
from gpt_jax.core import jax_setup
jax_setup.start_jax(1, sys.argv[1])
import jax, numpy as np
from gpt_jax.train.checkpoint import CheckpointManager
sharding = jax.sharding.NamedSharding(jax.make_mesh((2,), 'd'), jax.sharding.PartitionSpec('d'))
make = lambda: jax.make_array_from_callback((64,), sharding, lambda index: np.arange(64.0)[index])
state = {f'w{n}': make() for n in range(30)}
with (
    CheckpointManager('newest', max_to_keep=2) as newest,
    CheckpointManager('best', max_to_keep=2) as best,
):
    for step in range(1, 6):
        newest.save(step, state, {})
        best.save(step, state, {})"""


def test_processes_save_to_two_folders_in_the_same_order(tmp_path):
    """At the same time, each could wait for the other until Orbax times out after ten minutes."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        'PYTHONPATH': str(Path(__file__).parents[2]),
        'JAX_PLATFORMS': 'cpu',
    }
    with contextlib.ExitStack() as stack:
        for index in range(2):
            arguments = [sys.executable, '-c', TWO_FOLDERS, f'127.0.0.1:{port},2,{index}']
            process = stack.enter_context(
                subprocess.Popen(arguments, cwd=tmp_path, env=environment)
            )
            stack.callback(process.kill)
        assert process.wait(timeout=90) == 0
    assert (
        manifest.list_steps(tmp_path / 'newest') == manifest.list_steps(tmp_path / 'best') == [5, 4]
    )
