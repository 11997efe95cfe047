"""Does what one layout wrote go on under any other?"""

import jax
import numpy as np
import pytest

from gpt_jax import assemble, trees
from gpt_jax.train.checkpoint import Checkpoints
from tests.train.test_step import rows

MODEL = {'model.heads': 8, 'model.vocab_multiple': 8, 'train.batch': 8}
LAYOUTS = {
    '1': {'mesh.data': 1},
    '2': {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.strategy': 'fsdp'},
    '4': {'mesh.data': 2, 'mesh.tensor': 2},
    '8': {'mesh.data': 1, 'mesh.fsdp': 2, 'mesh.tensor': 2, 'mesh.pipeline': 2, 'mesh.strategy': 'fsdp'},
    '8 zero1': {'mesh.data': 8, 'mesh.strategy': 'zero1'},
}
BEFORE, AFTER = 2, 2


def whole(state):
    return dict(zip(trees.names(state), map(trees.host_array, jax.tree.leaves(state)), strict=True))


@pytest.fixture(scope='module')
def written():
    return {}


@pytest.mark.parametrize(
    'origin', [pytest.param(name, marks=[] if name == '8' else pytest.mark.slow) for name in LAYOUTS]
)
def test_a_checkpoint_of_any_layout_goes_on_under_any_other(settings, written, tmp_path, origin):
    """The state is the same to the bit; the losses that follow, to what sums in another order give."""
    programs = written.setdefault(
        'programs', {name: assemble.build(settings(MODEL | f)) for name, f in LAYOUTS.items()}
    )
    batches = list(rows(settings(MODEL), BEFORE + AFTER))
    program = programs[origin]
    state = program.init()
    for batch in program.on_devices(batches[:BEFORE]):
        state, _ = program.step(state, batch)
    saved = whole(state)
    with Checkpoints(tmp_path, keep=1, announce=print) as checkpoints:
        checkpoints.save(BEFORE, state, {'next_batch': BEFORE})
    for name, other in programs.items():
        with Checkpoints(tmp_path, keep=1, announce=print) as checkpoints:
            restored = checkpoints.restore(other.abstract_state)
        there = whole(restored.state)
        assert there.keys() == saved.keys()
        for leaf, value in saved.items():
            assert there[leaf].tobytes() == value.tobytes(), (name, leaf)
        losses, state = [], restored.state
        for batch in other.on_devices(batches[restored.meta['next_batch'] :]):
            state, metrics = other.step(state, batch)
            losses.append(metrics['loss'].item())
        np.testing.assert_allclose(losses, written.setdefault('losses', losses), rtol=1e-5, err_msg=name)
