"""Losses and gradients on meshes of eight devices against those of one device."""

import jax
import numpy as np
import pytest

from gpt_jax.core import trees
from gpt_jax.train import build
from tests.train.test_step import make_rows, run_steps

# The kinds of attention and feed-forward that meshes shard in different ways.
FAMILIES = {
    'dense': {
        'model.heads': 8,
        'model.bias': True,
        'model.vocab_multiple': 8,
        'model.attention_layer_scaling': True,
    },
    'modern': {
        'model.heads': 8,
        'model.kv_heads': 2,
        'model.position': 'rotary',
        'model.norm': 'zero_centered_rms',
        'model.scale_embedding': True,
        'model.bias': False,
        'model.feedforward': 'gated',
        'model.mlp_width': 48,
        'model.tied_head': False,
        'model.vocab_multiple': 8,
        'model.qk_norm': True,
        'model.z_loss': 0.01,
        'model.logit_softcap': 10.0,
        'model.attention_softcap': 5.0,
    },
    'experts': {
        'model.heads': 8,
        'model.kv_heads': 2,
        'model.qk_norm': True,
        'model.qk_norm_per_head': False,
        'model.feedforward': 'experts',
        'model.experts': 8,
        'model.mlp_width': 16,
        'model.shared_experts': 1,
        'model.load_balance': 0.1,
        'model.router_z': 0.1,
        'model.vocab_multiple': 8,
    },
    'long_range': {
        'model.heads': 8,
        'model.kv_heads': 4,
        'model.position': 'alibi',
        'model.bias': False,
        'model.attention_sink': True,
        'model.attention_pattern': ('full', 'window'),
        'model.window': 5,
        'model.vocab_multiple': 8,
    },
}
MESHES = {
    'data': {'data': 8},
    'dcn': {'dcn': 2, 'data': 4},
    'zero1': {'data': 8, 'strategy': 'zero1'},
    'zero1_and_dcn': {'dcn': 2, 'data': 2, 'fsdp': 2, 'strategy': 'zero1'},
    'fsdp': {'data': 1, 'fsdp': 8, 'strategy': 'fsdp'},
    'tensor': {'data': 1, 'tensor': 8},
    'fsdp_and_tensor': {'data': 2, 'fsdp': 2, 'tensor': 2, 'strategy': 'fsdp'},
    'ring': {'data': 2, 'context': 4},
    'ring_and_tensor': {'data': 1, 'context': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
    'all_to_all': {'data': 2, 'context': 4, 'context_parallel': 'all_to_all'},
    'pipeline': {'data': 4, 'pipeline': 2},
    'pipeline_and_tensor': {'data': 1, 'pipeline': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
    'expert': {'data': 2, 'expert': 4},
    'expert_and_tensor': {'data': 1, 'expert': 2, 'tensor': 2, 'fsdp': 2, 'strategy': 'fsdp'},
}
# One of each kind; `pytest -m slow -n 0 tests/parallel` runs the others, over 20 steps.
QUICK = {
    ('dense', 'zero1'),
    ('dense', 'pipeline_and_tensor'),
    ('modern', 'fsdp_and_tensor'),
    ('modern', 'all_to_all'),
    ('long_range', 'ring_and_tensor'),
    ('experts', 'expert_and_tensor'),
}
STEPS = 4
# A pipeline and a pattern of attention need two layers; otherwise one shows the same.
FEWER_LAYERS = {
    'dense': {'model.scan_layers': True},
    'modern': {'model.layers': 1},
    'experts': {'model.layers': 1},
}


@pytest.fixture(scope='module')
def references():
    """(first state on the host, run) on one device, by fields and number of steps."""
    return {}


def select_mesh(mesh):
    return {f'mesh.{name}': value for name, value in MESHES[mesh].items()}


def make_uneven_rows(config, steps):
    """Yield rows that their documents do not fill: one device has fewer targets than another."""
    row_lengths = 2 * np.arange(1, config.train.batch_size + 1)
    weights = np.arange(config.model.context) < row_lengths[:, None]
    for batch in make_rows(config, steps):
        yield batch | {'weights': weights.astype(np.float32)}


CASES = [(f, m) for f in FAMILIES for m in MESHES if 'expert' not in m or f == 'experts']


@pytest.mark.parametrize(('family', 'mesh'), sorted(QUICK))
def test_a_mesh_gives_the_losses_and_gradients_of_one_device(settings, references, family, mesh):
    fields = FAMILIES[family] | FEWER_LAYERS.get(family, {})
    check_against_one_device(settings, references, fields, select_mesh(mesh), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'mesh'), CASES, ids=[f'{f}-{m}' for f, m in CASES])
def test_every_mesh_continues_as_one_device_does(settings, references, family, mesh):
    # Routing is balanced over the tokens of one pass: in a pipeline, those of a microbatch.
    is_piped = family == 'experts' and 'pipeline' in mesh
    microbatch = {'train.microbatch_size': 8} if is_piped else {}
    changes = select_mesh(mesh) | microbatch
    check_against_one_device(settings, references, FAMILIES[family], changes, 20)


def check_against_one_device(settings, references, fields, changes, steps):
    # Routing losses must not depend on how many targets a device has.
    make_batches = make_uneven_rows if 'model.experts' in fields else make_rows
    key = repr(fields), steps
    if key not in references:
        config = settings(fields)
        start = jax.device_get(build.build_trainer_parts(config).init_state())
        run = run_steps(config, batches=make_batches(config, steps), start=start)
        references[key] = start, run
    start, run = references[key]
    config = settings(fields | changes)
    # Dense models are initialized on the mesh.
    start = start if 'model.experts' in fields or 'model.position' in fields else None
    assert_same_runs(run, run_steps(config, batches=make_batches(config, steps), start=start))


def assert_same_runs(expected_run, run):
    """Compare two runs, (losses, last state) each."""
    (expected_losses, expected_state), (losses, state) = expected_run, run
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    # Adam divides a gradient by its size; its first moment has the gradients themselves, whose
    # rounding is about 1e-5 of the largest.
    expected_moments, moments = (s.opt_state[0][1].mu for s in (expected_state, state))
    largest = max(np.abs(a).max() for a in jax.tree.leaves(expected_moments))
    leaves = zip(
        trees.name_leaves(moments),
        jax.tree.leaves(moments),
        jax.tree.leaves(expected_moments),
        strict=True,
    )
    for name, actual, expected in leaves:
        np.testing.assert_allclose(
            trees.host_array(actual), expected, rtol=1e-3, atol=2e-5 * largest, err_msg=name
        )
