"""Is a run the same on every mesh? Losses and gradients of eight devices against those of one."""

import jax
import numpy as np
import pytest

from gpt_jax import trees
from tests.train.test_step import rows, run

# The forms of attention and feed-forward that strategies cut in different ways.
FAMILIES = {
    'dense': {'model.heads': 8, 'model.bias': True, 'model.vocab_multiple': 8},
    'today': {
        'model.heads': 8, 'model.kv_heads': 2, 'model.position': 'rotary', 'model.norm': 'rms', 'model.bias': False,
        'model.feedforward': 'gated', 'model.mlp_width': 48, 'model.tied_head': False, 'model.vocab_multiple': 8,
        'model.qk_norm': True, 'model.z_loss': 0.01, 'model.logit_softcap': 10.0, 'model.attention_softcap': 5.0,
    },
    'experts': {
        'model.heads': 8, 'model.feedforward': 'experts', 'model.experts': 8, 'model.mlp_width': 16,
        'model.shared_experts': 1, 'model.load_balance': 0.1, 'model.router_z': 0.1, 'model.vocab_multiple': 8,
    },
    'far': {
        'model.heads': 8, 'model.kv_heads': 4, 'model.position': 'alibi', 'model.attention_sink': True,
        'model.attention_pattern': ('full', 'window'), 'model.window': 5, 'model.vocab_multiple': 8,
    },
}  # fmt: skip
MESHES = {
    'data': {'data': 8},
    'slices': {'slice': 2, 'data': 4},
    'zero1': {'data': 8, 'strategy': 'zero1'},
    'zero1_and_slices': {'slice': 2, 'data': 2, 'fsdp': 2, 'strategy': 'zero1'},
    'fsdp': {'data': 1, 'fsdp': 8, 'strategy': 'fsdp'},
    'tensor': {'data': 1, 'tensor': 8},
    'fsdp_and_tensor': {'data': 2, 'fsdp': 2, 'tensor': 2, 'strategy': 'fsdp'},
    'ring': {'data': 2, 'context': 4},
    'ring_and_tensor': {'data': 1, 'context': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
    'all_to_all': {'data': 2, 'context': 4, 'long': 'all_to_all'},
    'pipeline': {'data': 4, 'pipeline': 2},
    'pipeline_and_tensor': {'data': 1, 'pipeline': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
    'expert': {'data': 2, 'expert': 4},
    'expert_and_tensor': {'data': 1, 'expert': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
}  # fmt: skip
# One of each kind; the others, over 20 steps, are `pytest -m slow -n 0 tests/parallel`.
QUICK = {
    ('dense', 'zero1'), ('dense', 'pipeline_and_tensor'), ('today', 'fsdp_and_tensor'), ('today', 'all_to_all'),
    ('far', 'ring_and_tensor'), ('experts', 'expert_and_tensor'),
}  # fmt: skip
STEPS = 4


@pytest.fixture(scope='module')
def references():
    return {}


def fields_of(family, mesh):
    # Experts are balanced over what is taken together: of a pipeline, a microbatch.
    together = {'train.microbatch': 8} if family == 'experts' and 'pipeline' in mesh else {}
    return FAMILIES[family] | together | {f'mesh.{name}': value for name, value in MESHES[mesh].items()}


CASES = [(f, m) for f in FAMILIES for m in MESHES if 'expert' not in m or f == 'experts']


@pytest.mark.parametrize(('family', 'mesh'), sorted(QUICK))
def test_every_mesh_gives_the_losses_and_gradients_of_one_device(settings, references, family, mesh):
    check(settings, references, family, mesh, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'mesh'), CASES, ids=[f'{f}-{m}' for f, m in CASES])
def test_every_mesh_goes_on_as_one_device(settings, references, family, mesh):
    check(settings, references, family, mesh, 20)


@pytest.mark.parametrize('mesh', ['data'])
def test_devices_with_more_targets_have_no_greater_say_in_the_routing(settings, mesh):
    """Documents that do not fill a row leave a device fewer targets than another."""

    def uneven(s):
        for batch in rows(s, STEPS):
            weights = (np.arange(s.model.context) < 2 * np.arange(1, s.train.batch + 1)[:, None]).astype(np.float32)
            yield batch | {'weights': weights}

    alone, spread = (settings(fields) for fields in (FAMILIES['experts'], fields_of('experts', mesh)))
    same(run(alone, batches=uneven(alone)), run(spread, batches=uneven(spread)))


def check(settings, references, family, mesh, steps):
    if (family, steps) not in references:
        references[family, steps] = run(settings(FAMILIES[family]), steps)
    same(references[family, steps], run(settings(fields_of(family, mesh)), steps))


def same(alone, on_many):
    (losses, state), (spread_losses, spread) = alone, on_many
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-5)
    # Adam divides a gradient by its size: its first moment is the gradients themselves.
    moments, spread_moments = (one.optimizer[1].mu for one in (state, spread))
    largest = max(np.abs(a).max() for a in jax.tree.leaves(moments))
    for name, a, b in zip(trees.names(moments), jax.tree.leaves(moments), jax.tree.leaves(spread_moments), strict=True):
        np.testing.assert_allclose(trees.host_array(b), a, rtol=1e-3, atol=1e-5 * largest, err_msg=name)
