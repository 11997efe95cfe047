"""Checkpoints of one mesh restored on any other."""

import jax
import numpy as np
import pytest

from gpt_jax.core import trees
from gpt_jax.train import build
from gpt_jax.train.checkpoint import CheckpointManager
from tests.train.test_step import make_rows

MODEL = {
    'model.heads': 8,
    'model.vocab_multiple': 8,
    'model.bias': False,
    'model.scan_layers': True,
    'train.batch_size': 8,
}
MESHES = {
    '1': {'mesh.data': 1},
    '2': {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.strategy': 'fsdp'},
    '4': {'mesh.data': 2, 'mesh.tensor': 2},
    '8': {
        'mesh.data': 1,
        'mesh.fsdp': 2,
        'mesh.tensor': 2,
        'mesh.pipeline': 2,
        'mesh.strategy': 'fsdp',
    },
    '8 zero1': {'mesh.data': 8, 'mesh.strategy': 'zero1'},
}
STEPS_BEFORE, STEPS_AFTER = 2, 2
# The targets that the test without `-m slow` also trains; it restores on all.
QUICK_TARGETS = ('1', '8')


def gather_leaves(state):
    arrays = map(trees.host_array, jax.tree.leaves(state))
    return dict(zip(trees.name_leaves(state), arrays, strict=True))


@pytest.fixture(scope='module')
def memo():
    """The parts of every mesh, and the losses after the restore."""
    return {}


@pytest.mark.parametrize(
    ('source', 'trained'),
    [('8', QUICK_TARGETS), *(pytest.param(n, MESHES, marks=pytest.mark.slow) for n in MESHES)],
    ids=['quick', *MESHES],
)
def test_a_checkpoint_of_any_mesh_continues_on_any_other(settings, memo, tmp_path, source, trained):
    """The state is bitwise equal; the next losses are, up to the order of sums."""
    if 'parts' not in memo:
        memo['parts'] = {
            name: build.build_trainer_parts(settings(MODEL | mesh)) for name, mesh in MESHES.items()
        }
    batches = list(make_rows(settings(MODEL), STEPS_BEFORE + STEPS_AFTER))
    parts = memo['parts'][source]
    state = parts.init_state()
    for batch in parts.shard_batches(batches[:STEPS_BEFORE]):
        state, _ = parts.train_step(state, batch)
    saved = gather_leaves(state)
    with CheckpointManager(tmp_path, max_to_keep=1, log=print) as checkpoints:
        checkpoints.save(STEPS_BEFORE, state, {'next_batch': STEPS_BEFORE})
    for name, target in memo['parts'].items():
        with CheckpointManager(tmp_path, max_to_keep=1, log=print) as checkpoints:
            restored = checkpoints.restore(target.abstract_state)
        leaves = gather_leaves(restored.state)
        assert leaves.keys() == saved.keys()
        for leaf, value in saved.items():
            assert leaves[leaf].tobytes() == value.tobytes(), (name, leaf)
        if name not in trained:
            continue
        losses, state = [], restored.state
        for batch in target.shard_batches(batches[restored.meta['next_batch'] :]):
            state, metrics = target.train_step(state, batch)
            losses.append(metrics['loss'].item())
        expected = memo.setdefault('losses', losses)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
