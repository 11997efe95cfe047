"""Checkpoints: what was saved comes back, whole, strictly and on any devices."""

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

from gpt_jax.errors import UserError
from gpt_jax.train import checkpoint, manifest
from gpt_jax.train.checkpoint import Checkpoints


def make_state(step: int) -> dict[str, Any]:
    """A state that is a function of `step`, with optax's classes, several dtypes and empty nodes in it."""
    embed = jax.random.normal(jax.random.key(step), (16, 8))
    params = {'embed': embed, 'head': {'bias.': jnp.full(8, step, jnp.bfloat16)}}
    return {'step': jnp.int32(step), 'params': params, 'optimizer': optax.adam(1e-3).init(params), 'nothing': None}


def abstract(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


ABSTRACT = abstract(make_state(0))


def assert_bitwise(got: Any, expected: Any) -> None:
    assert str(jax.tree.structure(got)) == str(jax.tree.structure(expected))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def lines() -> list[str]:
    return []


def test_round_trip_is_bitwise(tmp_path, lines):
    with Checkpoints(tmp_path, keep=3, announce=lines.append) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(7, make_state(7), {'batch': 7, 'config': {'width': [1, 2.5], 'name': 'é'}})
    with Checkpoints(tmp_path, keep=3, announce=lines.append) as checkpoints:
        restored = checkpoints.restore(ABSTRACT)
        assert checkpoints.latest() == 7
    assert restored is not None
    assert (restored.step, restored.meta) == (7, {'batch': 7, 'config': {'width': [1, 2.5], 'name': 'é'}})
    assert_bitwise(restored.state, make_state(7))
    assert lines == []
    assert manifest.read_meta(tmp_path) == restored.meta


def test_state_and_meta_are_those_of_the_moment_of_saving(tmp_path):
    donating = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, meta = donating({'w': jnp.zeros((512, 512))}), {'batches': [1]}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, meta)
        meta['batches'].append(2)
        for _ in range(5):
            state = donating(state)
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert restored.meta == {'batches': [1]}
    assert np.unique(restored.state['w']).tolist() == [1]


def test_is_completed_without_a_further_call(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        deadline = time.monotonic() + 20
        while not (tmp_path / '1').exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert manifest.verify(tmp_path / '1')['step'] == 1


def test_keeps_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (9, 10, 100, 11, 101):
            checkpoints.save(step, make_state(step), {})
        checkpoints.wait()
        assert manifest.steps(tmp_path) == [101, 100]
    with pytest.raises(UserError, match='keep'):
        Checkpoints(tmp_path, keep=0)


def test_a_step_that_is_there_is_not_saved_again_unless_it_is_damaged(tmp_path, lines):
    with Checkpoints(tmp_path, keep=2, announce=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 1})
        checkpoints.save(1, make_state(1), {'try': 2})
    with Checkpoints(tmp_path, keep=2, announce=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 3})
    assert manifest.read_meta(tmp_path) == {'try': 1}
    (tmp_path / '1' / 'state' / '_METADATA').unlink()
    with Checkpoints(tmp_path, keep=2, announce=lines.append) as checkpoints:
        checkpoints.save(1, make_state(1), {'try': 4})
        checkpoints.wait()
        assert manifest.read_meta(tmp_path) == {'try': 4}
    assert len(lines) == 1
    assert 'state/_METADATA is missing' in lines[0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s['params'].update(embed=jnp.zeros((16, 9))), r'params/embed is float32\[16,8\].* float32\[16,9\]'),
        (lambda s: s['params'].update(embed=jnp.zeros((16, 8), jnp.bfloat16)), r'params/embed is float32.* bfloat16'),
        (lambda s: s['params'].update(more=jnp.zeros(1)), r'params/more is absent in the checkpoint and float32\[1\]'),
        (lambda s: s['params'].pop('embed'), r'params/embed is float32\[16,8\] in the checkpoint and absent'),
    ],
)
def test_another_tree_is_refused_and_the_checkpoint_stays(tmp_path, change, message):
    other = make_state(1)
    change(other)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        with pytest.raises(UserError, match=message):
            checkpoints.restore(abstract(other))
        assert checkpoints.latest() == 1


def test_what_cannot_be_saved_is_refused_at_once(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        with pytest.raises(TypeError, match='step: int without a sharding'):
            checkpoints.save(1, {'step': 1}, {})
        with pytest.raises(ValueError, match='not JSON compliant'):
            checkpoints.save(1, make_state(1), {'loss': float('nan')})
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_save_is_removed_and_is_no_checkpoint(tmp_path, lines):
    (tmp_path / 'tmp-4' / 'state').mkdir(parents=True)
    with Checkpoints(tmp_path, keep=1, announce=lines.append) as checkpoints:
        assert checkpoints.restore(ABSTRACT) is None
    assert list(tmp_path.iterdir()) == []
    assert lines == [f'{tmp_path / "tmp-4"}: unfinished, removed']
    assert manifest.read_meta(tmp_path) is None


def test_load_reads_a_part_and_moves_nothing(tmp_path, lines):
    with pytest.raises(UserError, match='no checkpoint here'):
        checkpoint.load(tmp_path, ABSTRACT)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, make_state(1), {'batch': 1})
        checkpoints.save(2, make_state(2), {})
    (tmp_path / '2' / 'surplus').touch()
    (tmp_path / 'tmp-3').mkdir()
    restored = checkpoint.load(tmp_path, {'params': ABSTRACT['params'], 'optimizer': None}, announce=lines.append)
    assert_bitwise(restored.state, {'params': make_state(1)['params'], 'optimizer': None})
    assert (restored.step, restored.meta) == (1, {'batch': 1})
    assert lines == [f'{tmp_path}/2: damaged (surplus is not listed in manifest.json); skipped']
    assert {path.name for path in tmp_path.iterdir()} == {'1', '2', 'tmp-3', 'completed.txt'}


def test_an_error_of_the_thread_is_raised_by_the_next_call_and_later_saves_go_on(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, 'No space left on device')

    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
        for method in (checkpoints.wait, lambda: checkpoints.save(3, make_state(3), {}), checkpoints.close):
            with monkeypatch.context() as patch:
                patch.setattr(manifest, 'write', full)
                checkpoints.save(2, make_state(2), {})
                checkpoints._thread.submit(lambda: None).result()
            with pytest.raises(RuntimeError, match=r'checkpoint 2 failed: .*No space left'):
                method()
            assert not (tmp_path / 'tmp-2').exists()
            assert manifest.steps(tmp_path) == [1]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(2, make_state(2), {})
    assert manifest.steps(tmp_path) == [2, 1]


def test_an_error_at_exit_does_not_hide_the_one_on_its_way(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, 'write', lambda *_, **__: 1 / 0)

    def run() -> None:
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(2, make_state(2), {})
            raise KeyError('mine')

    with pytest.raises(KeyError) as caught:
        run()
    assert 'checkpoint 2 failed: division by zero' in caught.value.__notes__[0]


def test_reading_meta_imports_no_jax_and_a_fresh_start_no_orbax(tmp_path):
    code = """import sys; from gpt_jax.train import checkpoint, manifest
manifest.read_meta(sys.argv[1]); print('jax' in sys.modules)
with checkpoint.Checkpoints(sys.argv[1], keep=1) as c: c.restore({})
print('orbax.checkpoint' in sys.modules)"""
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), 'JAX_PLATFORMS': 'cpu'}
    out = subprocess.check_output([sys.executable, '-c', code, str(tmp_path)], env=environment, text=True, timeout=60)
    assert out.split() == ['False', 'False']


TWO_FOLDERS = """import sys
from gpt_jax import runtime
runtime.start(1, sys.argv[1])
import jax, numpy as np
from gpt_jax.train.checkpoint import Checkpoints
over = jax.sharding.NamedSharding(jax.make_mesh((2,), 'd'), jax.sharding.PartitionSpec('d'))
state = {f'w{n}': jax.make_array_from_callback((64,), over, lambda at: np.arange(64.0)[at]) for n in range(30)}
with Checkpoints('newest', keep=2) as newest, Checkpoints('best', keep=2) as best:
    for step in range(1, 6):
        newest.save(step, state, {})
        best.save(step, state, {})"""


def test_processes_save_to_two_folders_one_after_the_other(tmp_path):
    """At once, each may wait for the other's signals until Orbax gives up, ten minutes later."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), 'JAX_PLATFORMS': 'cpu'}
    with contextlib.ExitStack() as stack:
        for index in range(2):
            arguments = [sys.executable, '-c', TWO_FOLDERS, f'127.0.0.1:{port},2,{index}']
            each = stack.enter_context(subprocess.Popen(arguments, cwd=tmp_path, env=environment))
            stack.callback(each.kill)
        assert each.wait(timeout=90) == 0
    assert manifest.steps(tmp_path / 'newest') == manifest.steps(tmp_path / 'best') == [5, 4]
