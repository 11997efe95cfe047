"""Collectives of a compiled training step: only the expected ones, of the expected sizes."""

from collections import Counter

import jax
import pytest

from gpt_jax.model import weights
from gpt_jax.preflight.collectives import find_collectives
from gpt_jax.preflight.hlo import parse_hlo
from gpt_jax.train import build

BATCH, LENGTH, WIDTH, LAYERS, HEADS, FLOAT = 8, 16, 32, 2, 8, 4
STREAM_BYTES = BATCH * LENGTH * WIDTH * FLOAT  # the residual stream of the whole batch
SMALL = {
    'model.heads': HEADS,
    'model.vocab_multiple': 8,
    'model.bias': False,
    'model.scan_layers': True,
    'optimizer.name': 'sgd',
}
SCALAR_BYTES = 64  # losses and norms


def compile_step(settings, fields):
    """Return the collectives of the step, except of scalars, and the bytes of the weights."""
    config = settings(SMALL | fields)
    parts = build.build_trainer_parts(config)
    batch = build.make_abstract_batch(config, parts.mesh)
    text = parts.train_step.lower(parts.abstract_state, batch).compile().as_text()
    collectives = [c for c in find_collectives(parse_hlo(text)) if c.bytes > SCALAR_BYTES]
    return collectives, count_weight_bytes(config.model)


def count_weight_bytes(model_config):
    """Return the bytes of the weights by their letters."""
    boxed, sizes = build.declare_params(model_config), Counter()
    leaves = jax.tree.leaves(weights.unbox(boxed))
    for leaf, letters in zip(leaves, jax.tree.leaves(weights.logical_axes(boxed)), strict=True):
        sizes[letters] += leaf.size * FLOAT
    return sizes


def sum_by_kind(collectives):
    total = Counter()
    for collective in collectives:
        total[collective.kind] += collective.bytes * collective.executions
    return dict(total)


def sum_matrices(weight_bytes):
    is_matrix = lambda letters: len(set(letters) - {'N', 'K'}) > 1 and 'D' in letters
    return sum(size for letters, size in weight_bytes.items() if is_matrix(letters))


@pytest.mark.parametrize(
    'fields',
    [
        {'mesh.data': 8, 'train.batch_size': 32, 'train.microbatch_size': 1},
        {'mesh.dcn': 2, 'mesh.data': 4},
    ],
    ids=str,
)
def test_data_parallelism_sums_the_gradients_once(settings, fields):
    """Outside of the loop over microbatches, too."""
    (collective,), weight_bytes = compile_step(settings, fields)
    assert collective.kind == 'all-reduce'
    assert (collective.executions, collective.group_size) == (1, 8)
    assert collective.bytes == sum(weight_bytes.values()) + 2 * FLOAT  # loss and its weight


def test_zero1_scatters_gradients_and_gathers_weights_once(settings):
    fields = {'mesh.data': 8, 'mesh.strategy': 'zero1'}
    collectives, weight_bytes = compile_step(settings, fields)
    sharded = sum_matrices(weight_bytes)
    rest = pytest.approx(sum(weight_bytes.values()) - sharded, abs=64)
    expected = {'all-gather': sharded, 'reduce-scatter': sharded, 'all-reduce': rest}
    assert sum_by_kind(collectives) == expected
    assert all(collective.executions == 1 for collective in collectives)


def test_fsdp_gathers_layer_by_layer_and_again_in_the_backward_pass(settings):
    fields = {'mesh.data': 1, 'mesh.fsdp': 8, 'mesh.strategy': 'fsdp'}
    collectives, weight_bytes = compile_step(settings, fields)
    sharded, tables = sum_matrices(weight_bytes), weight_bytes['VD'] + weight_bytes['LD']
    kinds = sum_by_kind(collectives)
    assert kinds['all-gather'] == 2 * (sharded - tables) + tables
    assert kinds['reduce-scatter'] == sharded
    assert kinds['all-reduce'] == pytest.approx(sum(weight_bytes.values()) - sharded, abs=64)
    assert set(kinds) == {'all-gather', 'reduce-scatter', 'all-reduce'}
    largest = max(c.bytes for c in collectives if c.executions == LAYERS)
    assert largest == WIDTH * 4 * WIDTH * FLOAT  # one matrix


def test_tensor_parallelism_moves_activations_and_no_weights(settings):
    collectives, weight_bytes = compile_step(settings, {'mesh.data': 1, 'mesh.tensor': 8})
    kinds = sum_by_kind(collectives)
    # Two branches per layer, forward and backward; the head, and the embedding's gradient.
    assert kinds['all-gather'] == kinds['reduce-scatter'] == (4 * LAYERS + 2) * STREAM_BYTES
    assert not [c for c in collectives if 'get_param' in c.op_name]
    sharded = sum(size for letters, size in weight_bytes.items() if set(letters) & set('HGFV'))
    normalizers_and_targets = 2 * BATCH * LENGTH * FLOAT
    maxima = BATCH * LENGTH * FLOAT
    replicated = sum(weight_bytes.values()) - sharded
    expected = replicated + normalizers_and_targets + maxima
    assert kinds['all-reduce'] == pytest.approx(expected, abs=64)
    assert set(kinds) == {'all-gather', 'reduce-scatter', 'all-reduce'}


def test_ring_attention_permutes_keys_and_values_and_their_gradients(settings):
    collectives, weight_bytes = compile_step(settings, {'mesh.data': 2, 'mesh.context': 4})
    local = BATCH // 2 * LENGTH // 4 * WIDTH * FLOAT
    kinds = sum_by_kind(collectives)
    assert kinds['collective-permute'] == LAYERS * local * (2 * 3 + 4 * 4)
    assert kinds['all-reduce'] == sum(weight_bytes.values()) + 2 * FLOAT
    assert set(kinds) == {'collective-permute', 'all-reduce'}


def test_all_to_all_exchanges_heads_for_length(settings):
    fields = {'mesh.data': 2, 'mesh.context': 4, 'mesh.context_parallel': 'all_to_all'}
    collectives, weight_bytes = compile_step(settings, fields)
    local = BATCH // 2 * LENGTH // 4 * WIDTH * FLOAT
    kinds = sum_by_kind(collectives)
    # Query, key, value and output, forward and backward.
    assert kinds['all-to-all'] == 2 * LAYERS * local * 4
    assert set(kinds) == {'all-to-all', 'all-reduce'}
    assert kinds['all-reduce'] == sum(weight_bytes.values()) + 2 * FLOAT


def test_a_pipeline_passes_on_one_microbatch_per_tick(settings):
    fields = {'mesh.data': 4, 'mesh.pipeline': 2, 'train.microbatch_size': 1}
    kinds = sum_by_kind(compile_step(settings, fields)[0])
    microbatches, stages, row = 2, 2, LENGTH * WIDTH * FLOAT
    assert kinds['collective-permute'] == 2 * (microbatches + stages - 1) * row
    # Into the stages and out, forward and backward.
    assert kinds['all-gather'] == kinds['reduce-scatter'] == 2 * microbatches * row
    assert set(kinds) == {'collective-permute', 'all-gather', 'reduce-scatter', 'all-reduce'}


def test_experts_with_a_capacity_exchange_rows_and_no_weights(settings):
    fields = {
        'model.feedforward': 'experts',
        'model.experts': 8,
        'model.mlp_width': 16,
        'model.capacity_factor': 1.0,
        'mesh.data': 2,
        'mesh.expert': 4,
    }
    collectives, _ = compile_step(settings, fields)
    # Of all experts, each with its fair share of two choices per token.
    rows = -(-LENGTH * BATCH // 8 * 2 // 8) * 8
    kinds = sum_by_kind(collectives)
    # Rows to the experts and back, their weights, and the gradients of all three.
    assert kinds['all-to-all'] == LAYERS * 2 * rows * (2 * WIDTH + 1) * FLOAT
    router_bytes = WIDTH * 8 * FLOAT
    assert {c.bytes for c in collectives if c.kind == 'all-gather'} == {router_bytes}
    assert set(kinds) == {'all-to-all', 'all-reduce', 'all-gather', 'reduce-scatter'}
